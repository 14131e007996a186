"""Errors that are meant for the user: what was asked for can't be done, and the message says what to change.

Commands print these in one line and end with exit code 2. Any other exception is a fault of the program
and keeps its traceback.
"""

import difflib
import importlib.util
from collections.abc import Iterable


class InputError(ValueError):
    """An argument, a file or a combination of them that can't be used."""


class WrongType(InputError, TypeError):
    """An argument of a type that can't be used."""


class ConfigError(InputError):
    """A command or a run can't start as configured."""


class MissingPackage(InputError, ModuleNotFoundError):
    """An optional package is needed and not installed; the message has the command that installs it."""


def require(purpose: str, extra: str, *packages: str) -> None:
    """Raises MissingPackage if one of some packages is not installed.

    Args:
        purpose: what needs them, as the beginning of a sentence.
        extra: of this package, that brings them along.
        packages: names as they are imported.
    """
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise MissingPackage(
            f"{purpose} needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed: "
            f"pip install 'ipcl_jax[{extra}]'"
        )


def near_miss(name: str, known: Iterable[str]) -> str:
    """A hint for a name that isn't known: ` Did you mean 'x'?` and all that are."""
    known = sorted(known)
    by_letters = {choice.lower(): choice for choice in known}
    near = difflib.get_close_matches(name.lower(), by_letters, n=1, cutoff=0.5)
    hint = f" Did you mean {by_letters[near[0]]!r}?" if near else ""
    return f"{hint} Known: {', '.join(known)}."
