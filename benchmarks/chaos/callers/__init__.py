"""What callers do while the server is hurt: each keeps a history of what it was told."""
