"""What single fields of a file are: numbers, times, or nothing. Training reads by these, too."""
