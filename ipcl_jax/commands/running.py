"""Helpers of all scripts: parse and check the options, and turn errors into one line and an exit code."""

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
    """Returns the command line that started this process, such as `python experiments/train.py --config NAME`."""
    program, *arguments = sys.argv
    start = program.split() if program.startswith("ipcl ") else ["python", program]
    return shlex.join([*start, *arguments])


Options = TypeVar("Options")


def parse(kind: type[Options], **arguments: Any) -> Options:
    """Reads options from the command line.

    Args:
        kind: dataclass of the options, a config or one with configs in its fields.
        arguments: for `tyro.cli`.

    Returns:
        The options.

    Raises:
        ConfigError: for an invalid value.
        SystemExit: on `--help`, or for an option that does not exist (tyro names the near ones).
    """
    with unchecked():  # within tyro, an error would be printed as a box
        options = tyro.cli(kind, **arguments)
    check(options)
    return options


def exit_code(work: Callable[[], int | None]) -> int:
    """Runs a command, and prints warnings and errors that concern the user in one line each.

    Args:
        work: returns an exit code, or None for 0.

    Returns:
        That code; 2 after an InputError, and 1 if reading or writing fails or training diverges. Any other exception
        is a bug, and is raised with its traceback.
    """
    try:
        with warnings.catch_warnings():
            said: set[str] = set()
            warnings.showwarning = lambda message, *_, **__: _say_once(str(message), said)
            return work() or 0
    except (InputError, OSError, UnreadableImages, Diverged) as error:
        code = 2 if isinstance(error, InputError) else 1
        if jax.distributed.is_initialized():
            distributed.abandon(str(error), code)
        print(f"error: {error}", file=sys.stderr)
        return code


def _say_once(message: str, said: set[str]) -> None:
    """Prints a warning in one line, unless it was printed before."""
    if message not in said:
        said.add(message)
        print(f"warning: {message}", file=sys.stderr)
