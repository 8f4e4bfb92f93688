"""What can go wrong in a training run, in the words of the person who started it."""


class TrainingError(Exception):
    """A run cannot go on; the message says what to mend."""


class ConfigError(TrainingError):
    """A setting is wrong; the message names it."""


class DataError(TrainingError):
    """The data cannot be used; the message names the file, the place in it and the fix."""


class RunError(TrainingError):
    """A run folder cannot be read or resumed."""


class StoppedError(TrainingError):
    """Somebody stopped what needs several runs."""


class ParityError(TrainingError):
    """The exported graph does not compute what the network computes."""
