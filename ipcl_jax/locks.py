"""One process at a time in a folder."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def alone_in(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Holds a folder, which no other process can meanwhile; a killed process lets go.

    Args:
        folder: it must be there.
        wait: for another process to let go of it.

    Raises:
        BlockingIOError: if another process holds it, and this one shall not wait.
    """
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows has no such lock
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError:  # some network file systems can't lock a folder
            pass
        yield
    finally:
        os.close(handle)
