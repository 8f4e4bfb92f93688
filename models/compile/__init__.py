"""From a portable model to the graphs that are served."""
