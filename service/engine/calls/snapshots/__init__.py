"""Sessions' states as bytes in somebody's hand: what they look like, and who has signed them."""
