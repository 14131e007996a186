"""Where files are kept that can be had again: released models, compiled programs; and what tells files apart."""

import hashlib
import os
import tempfile
from pathlib import Path

from ipcl_jax.system.files import at_home

CACHE_VARIABLE = "IPCL_JAX_CACHE"


def cache_folder(folder: str | Path | None = None) -> Path:
    """Where released models and compiled programs are kept.

    Args:
        folder: the choice of the caller.

    Returns:
        `folder`, or $IPCL_JAX_CACHE, or ipcl_jax in $XDG_CACHE_HOME or ~/.cache, or where a user has no home,
        in the folder for temporary files.
    """
    if folder := folder or os.environ.get(CACHE_VARIABLE):
        return at_home(folder)
    home = at_home(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return (Path(tempfile.gettempdir()) if home.parts[0] == "~" else home) / "ipcl_jax"


def sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
