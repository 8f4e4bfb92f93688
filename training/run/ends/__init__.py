"""The end of a run: scored, exported, checked, and published or kept back."""
