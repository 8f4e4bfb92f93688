"""The steps of a training run: where they run, who takes them, how many there are."""
