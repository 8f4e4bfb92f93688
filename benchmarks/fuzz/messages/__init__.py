"""What is sent, made from a seed."""
