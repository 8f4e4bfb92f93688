"""What a run keeps on disk, and what is said where the disk does not take it."""
