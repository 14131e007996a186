"""The cache directory, for released models, compiled programs and labels; and checksums of files."""

import hashlib
import os
import tempfile
from pathlib import Path

from ipcl_jax.system.files import expand_home

CACHE_VARIABLE = "IPCL_JAX_CACHE"


def cache_folder(folder: str | Path | None = None) -> Path:
    """Returns the cache directory.

    Args:
        folder: overrides the default.

    Returns:
        The first of these that is set: `folder`, $IPCL_JAX_CACHE, $XDG_CACHE_HOME/ipcl_jax. Otherwise
        ~/.cache/ipcl_jax, or for a user without a home directory, ipcl_jax in the folder for temporary files.
    """
    if folder := folder or os.environ.get(CACHE_VARIABLE):
        return expand_home(folder)
    home = expand_home(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return (Path(tempfile.gettempdir()) if home.parts[0] == "~" else home) / "ipcl_jax"


def sha256(path: Path) -> str:
    """Computes the hexadecimal sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
