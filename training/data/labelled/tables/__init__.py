"""Tables of labelled sequences: texts, rows of steps, rows of whole sequences, and .ts files."""
