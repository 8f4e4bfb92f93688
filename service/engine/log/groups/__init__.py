"""What is in a group of the journal."""
