"""Errors in the user's input; the message says how to fix them.

Commands print these without a traceback and exit with code 2. Any other exception is a bug and keeps its traceback.
"""

import difflib
import importlib.util
from collections.abc import Iterable


class InputError(ValueError):
    """An argument, a file or a combination of them is invalid."""


class WrongType(InputError, TypeError):
    """An argument has an invalid type."""


class ConfigError(InputError):
    """A command's or a run's configuration is invalid."""


class MissingPackage(InputError, ModuleNotFoundError):
    """An optional package is not installed; the message has the command that installs it."""


def require(purpose: str, extra: str, *packages: str) -> None:
    """Raises MissingPackage if one of some packages is not installed.

    Args:
        purpose: what needs them, as the subject of a sentence.
        extra: the extra of this package that installs them.
        packages: import names.
    """
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise MissingPackage(
            f"{purpose} needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed: "
            f"pip install 'ipcl_jax[{extra}]'"
        )


def near_miss(name: str, known: Iterable[str]) -> str:
    """Makes a hint for an unknown name: ` Did you mean 'x'?` if one is similar, and the list of known names."""
    known = sorted(known)
    by_letters = {choice.lower(): choice for choice in known}
    near = difflib.get_close_matches(name.lower(), by_letters, n=1, cutoff=0.5)
    hint = f" Did you mean {by_letters[near[0]]!r}?" if near else ""
    return f"{hint} Known: {', '.join(known)}."
