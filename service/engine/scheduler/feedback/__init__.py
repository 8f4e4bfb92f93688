"""Draws that become the next step of those who drew them."""
