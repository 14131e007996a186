"""Output to the terminal."""

import io
import sys

from rich.console import Console


def make_console() -> Console:
    """Makes a console that prints brackets literally, not as markup, and leaves line breaks to the terminal.

    Characters that the terminal's encoding lacks become question marks.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    return Console(markup=False, soft_wrap=True)
