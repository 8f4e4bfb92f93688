"""What callers were told, and what they should have been told."""
