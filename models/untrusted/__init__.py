"""What is checked of a model file of somebody else's before anything but Python reads it."""
