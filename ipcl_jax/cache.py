"""Where files are kept that can be had again: released models, compiled programs."""

import os
from pathlib import Path

CACHE_VARIABLE = "IPCL_JAX_CACHE"


def cache_folder(folder: str | Path | None = None) -> Path:
    """Where released models and compiled programs are kept.

    Args:
        folder: the choice of the caller.

    Returns:
        `folder`, or $IPCL_JAX_CACHE, or ipcl_jax in $XDG_CACHE_HOME or ~/.cache.
    """
    if folder := folder or os.environ.get(CACHE_VARIABLE):
        return Path(folder).expanduser()
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "ipcl_jax"
