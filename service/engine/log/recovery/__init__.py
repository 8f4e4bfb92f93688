"""What is read back out of a store: its sessions, and how they are brought to where they stood."""
