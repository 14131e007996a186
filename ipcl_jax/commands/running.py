"""What commands share: their options are parsed and checked, and what can't be done is one line and an exit code."""

import shlex
import sys
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import tyro

from ipcl_jax.checked_config import check, unchecked
from ipcl_jax.data.loader import UnreadableImages
from ipcl_jax.errors import InputError
from ipcl_jax.run.loop import Diverged
from ipcl_jax.system import distributed


def command_line() -> str:
    """Returns the command line that started this process, to be given again."""
    program, *arguments = sys.argv
    start = program.split() if program.startswith("ipcl ") else ["python", program]
    return shlex.join([*start, *arguments])


Options = TypeVar("Options")


def parse(kind: type[Options], **arguments: Any) -> Options:
    """Reads a command line.

    Args:
        kind: dataclass of the options, a config or one with configs in its fields.
        arguments: for `tyro.cli`.

    Returns:
        The options.

    Raises:
        ConfigError: for a value that a config can't have.
        SystemExit: on `--help`, or for an option that does not exist (tyro names the near ones).
    """
    with unchecked():  # tyro would print a refusal as a box of its own
        options = tyro.cli(kind, **arguments)
    check(options)
    return options


def exit_code(work: Callable[[], int | None]) -> int:
    """Does the work of a command.

    Args:
        work: returns an exit code, or None for 0.

    Returns:
        That code; 2 if what was asked for is refused, and 1 if files fail in the middle of it, with the reason in one
        line. Any other exception is a fault of the program, and is let through with its traceback.
        Warnings are printed in one line each.
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _in_one_line
            return work() or 0
    except (InputError, OSError, UnreadableImages, Diverged) as error:
        code = 2 if isinstance(error, InputError) else 1
        if jax.distributed.is_initialized():
            distributed.abandon(str(error), code)
        print(f"error: {error}", file=sys.stderr)
        return code


def _in_one_line(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {message}", file=sys.stderr)
