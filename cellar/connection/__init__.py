"""Where a server is, and how a channel to it is made."""
