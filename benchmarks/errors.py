"""What can go wrong with a measurement."""


class UnmeasuredError(Exception):
    """A figure cannot be taken here and now; the message is the reason given in the result."""


__all__ = ["UnmeasuredError"]
