"""``make load``: steps at a fixed rate, up to several times what the server can, by h2load."""
