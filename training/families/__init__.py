"""The kinds of task: what a run is about, and the three families that there are."""
