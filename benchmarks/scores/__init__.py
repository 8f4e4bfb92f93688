"""``make scores``: how good trained models are, and how fast training is."""
