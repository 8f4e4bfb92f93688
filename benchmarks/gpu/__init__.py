"""What a GPU makes of Cellar: right numbers, how fast, and what the card could do besides."""
