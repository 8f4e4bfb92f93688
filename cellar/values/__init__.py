"""What goes to a server and comes from it: inputs, outputs, predictions, what models are."""
