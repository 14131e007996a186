"""What can be wrong with a file of weights."""

from ipcl_jax.errors import ConfigError


class CheckpointError(ConfigError):
    """A file is no checkpoint of a network that we know, or not a safe one.

    Attributes:
        problems: a line for each tensor that is missing, unexpected or wrong.
    """

    def __init__(self, message: str, problems: tuple[str, ...] = ()):
        super().__init__("\n  ".join([message, *problems]))
        self.problems = problems


class CheckpointWarning(UserWarning):
    """What was done to a file's tensors to make them those of a network that we know."""
