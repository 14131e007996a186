"""The terminal."""

import io
import sys

from rich.console import Console


def make_console() -> Console:
    """A console that says a name as it is, whatever brackets it has, and leaves the end of a line to the terminal.

    Letters that the terminal's encoding lacks become question marks.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    return Console(markup=False, soft_wrap=True)
