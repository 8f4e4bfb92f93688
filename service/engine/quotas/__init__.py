"""What each principal has the server do, and how much of that it may. Knows no work."""
