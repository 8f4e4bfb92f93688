"""From a text to a table: separators, headers, and what stands around it."""
