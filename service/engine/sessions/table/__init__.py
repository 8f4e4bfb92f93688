"""What is known of each session, in columns."""
