"""Numbers, times and series as people write them, in files and on command lines."""
