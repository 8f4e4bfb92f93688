"""What is asked of the rows of a run, as heads to run and memory to copy."""
