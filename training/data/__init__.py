"""Where the numbers come from: text, the standard library, CSV files, generated series."""
