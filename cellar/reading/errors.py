"""What is wrong with a file, or with numbers that somebody wrote."""


class TableError(Exception):
    """A file, or one of its rows, cannot be read; the message names it, and the fix."""
