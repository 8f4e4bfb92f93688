"""What can be wrong with a model."""


class ModelError(Exception):
    """A model cannot be used; the message names the file and what to mend."""


class ModelNotFoundError(ModelError):
    """No such model, or no such version of it."""
