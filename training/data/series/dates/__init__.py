"""Written times: how they are read, and how they follow each other."""
