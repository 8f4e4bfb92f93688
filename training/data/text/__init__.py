"""Text as characters: from files, from labelled texts and from Python's own library."""
