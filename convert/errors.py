"""Errors and warnings about files of weights."""

from ipcl_jax.errors import ConfigError


class CheckpointError(ConfigError):
    """A file is not a checkpoint of a network of this package, or loading it could run code.

    Attributes:
        problems: a line for each tensor that is missing, unexpected or wrong.
    """

    def __init__(self, message: str, problems: tuple[str, ...] = ()):
        super().__init__("\n  ".join([message, *problems]))
        self.problems = problems


class CheckpointWarning(UserWarning):
    """A file's tensors were changed to fit a network of this package: the message says how."""
