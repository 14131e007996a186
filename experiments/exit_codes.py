"""What a command answers when it can't do what was asked: one line, and an exit code."""

import sys
from collections.abc import Callable

from ipcl_jax.loading import UnreadableImages


def exit_code(work: Callable[[], int | None]) -> int:
    """Does the work of a command.

    Args:
        work: returns an exit code, or None for 0.

    Returns:
        That code; 2 if what was asked for is refused, and 1 if files fail in the middle of it, with the reason in one
        line.
    """
    try:
        return work() or 0
    except (ValueError, OverflowError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (OSError, UnreadableImages) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
