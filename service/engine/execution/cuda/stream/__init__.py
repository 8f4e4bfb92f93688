"""What goes to a device and comes back, on the one stream that all of a runner's work is on."""
