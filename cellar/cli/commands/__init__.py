"""What each command does, with a client and its options."""
