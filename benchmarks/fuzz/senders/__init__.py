"""How it is sent: as calls, and as bytes on bare sockets."""
