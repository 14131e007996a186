"""One process, and one thread of it, at a time in a folder or at a file.

The locks are those of the operating system (`flock`): a process that is killed lets go of them. Where there
are none (Windows, some network file systems), a warning is logged and work goes on without.
"""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

_LOG = logging.getLogger(__name__)


class Held(BlockingIOError):
    """Another process or thread holds the lock; the message says which, where that is known."""


@contextlib.contextmanager
def alone_in(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Holds a folder, which no other process or thread can meanwhile.

    Args:
        folder: it must be there.
        wait: for another one to let go of it.

    Raises:
        Held: a BlockingIOError, if another one holds it and this one shall not wait.
    """
    handle = _open(folder, os.O_RDONLY)
    try:
        if not _lock(handle, wait=wait):
            raise Held(f"Another process holds {folder}.")
        yield
    finally:
        _close(handle)


@contextlib.contextmanager
def alone_at(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Holds the name of a file; while it does, a hidden file `.NAME.lock` beside it says which process that is.

    Args:
        path: the file, which need not be there; its folder must be.
        wait: for another one to let go of it; that this one waits is logged as a warning.

    Raises:
        Held: a BlockingIOError, if another process or thread holds it and this one shall not wait.
    """
    lock = path.with_name(f".{path.name}.lock")
    while True:
        handle = _open(lock, os.O_RDWR | os.O_CREAT)
        try:
            if not _lock(handle, wait=False):
                holder = os.pread(handle, 200, 0).decode(errors="replace") if handle else ""
                held = f"Another process ({holder or 'unknown'}) is writing {path}"
                if not wait:
                    raise Held(held)
                _LOG.warning("%s; waiting for it to end.", held)
                _lock(handle, wait=True)
            if not _is(handle, lock):  # its last holder has removed it since it was opened
                continue
            try:
                lock.write_text(f"{os.getpid()} on {socket.gethostname()}", encoding="utf-8")
                yield
            finally:
                lock.unlink(missing_ok=True)
            return
        finally:
            _close(handle)


def _open(path: Path, flags: int) -> int | None:
    """A file that can be locked; None on a system without `flock`."""
    return os.open(path, flags, 0o666) if os.name == "posix" else None


def _close(handle: int | None) -> None:
    if handle is not None:
        os.close(handle)


def _lock(handle: int | None, *, wait: bool) -> bool:
    """Whether this process has the lock now; True too where there are no locks."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except (ModuleNotFoundError, OSError) as error:
        _LOG.warning("Files can't be locked here (%s); only one process at a time may write them.", error)
    return True


def _is(handle: int | None, path: Path) -> bool:
    """Whether an open file still has its name."""
    try:
        return handle is None or os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False
