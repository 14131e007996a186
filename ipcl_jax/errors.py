"""Errors that are meant for the user: what was asked for can't be done, and the message says what to change.

Commands print these in one line and end with exit code 2. Any other exception is a fault of the program
and keeps its traceback.
"""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """An argument, a file or a combination of them that can't be used."""


class WrongType(InputError, TypeError):
    """An argument of a type that can't be used."""


class ConfigError(InputError):
    """A command or a run can't start as configured."""


class MissingPackage(InputError, ModuleNotFoundError):
    """An optional package is needed and not installed; the message has the command that installs it."""


def near_miss(name: str, known: Iterable[str]) -> str:
    """A hint for a name that isn't known: ` Did you mean 'x'?` and all that are."""
    known = sorted(known)
    by_letters = {choice.lower(): choice for choice in known}
    near = difflib.get_close_matches(name.lower(), by_letters, n=1, cutoff=0.5)
    hint = f" Did you mean {by_letters[near[0]]!r}?" if near else ""
    return f"{hint} Known: {', '.join(known)}."
