"""When each row of a table is: which columns say so, alone or together."""
