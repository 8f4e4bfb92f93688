"""``make fuzz``: hostile messages for a real server, and whether anybody else feels them."""
