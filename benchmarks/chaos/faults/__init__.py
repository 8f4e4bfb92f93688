"""What hurts the server and its connections."""
