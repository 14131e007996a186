"""Exclusive locks of folders and files, among processes and among threads.

They are locks of the operating system (`flock`), which releases those of a process that is killed. Where it
has none (Windows, some network file systems), a warning is logged and nothing is locked.
"""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

_LOG = logging.getLogger(__name__)


class LockHeld(BlockingIOError):
    """Another process or thread holds the lock; the message names the process if it is known."""


@contextlib.contextmanager
def folder_lock(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Locks a folder within the `with` block.

    Args:
        folder: it must exist.
        wait: until a lock held by another process or thread is released.

    Raises:
        LockHeld: a BlockingIOError, if another process or thread holds the lock and `wait` is False.
    """
    handle = _open(folder, os.O_RDONLY)
    try:
        if not _lock(handle, wait=wait):
            raise LockHeld(f"Another process holds {folder}.")
        yield
    finally:
        _close(handle)


@contextlib.contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Locks a file's name within the `with` block, by a hidden file `.NAME.lock` beside it that names this process.

    Args:
        path: of the file, which need not exist; its folder must.
        wait: until a lock held by another process or thread is released; logs a warning first.

    Raises:
        LockHeld: a BlockingIOError, if another process or thread holds the lock and `wait` is False.
    """
    lock = path.with_name(f".{path.name}.lock")
    while True:
        handle = _open(lock, os.O_RDWR | os.O_CREAT)
        try:
            if not _lock(handle, wait=False):
                holder = os.pread(handle, 200, 0).decode(errors="replace") if handle else ""
                held = f"Another process ({holder or 'unknown'}) is writing {path}"
                if not wait:
                    raise LockHeld(held)
                _LOG.warning("%s; waiting for it to end.", held)
                _lock(handle, wait=True)
            if not _same_file(handle, lock):  # its last holder has removed it since it was opened
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
    """Opens a file to be locked; returns None on a system without `flock`."""
    return os.open(path, flags, 0o666) if os.name == "posix" else None


def _close(handle: int | None) -> None:
    if handle is not None:
        os.close(handle)


def _lock(handle: int | None, *, wait: bool) -> bool:
    """Locks an open file; returns False if another has the lock, and True also on a system without locks."""
    try:
        import fcntl

        assert handle is not None  # as on every system that has fcntl
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except (ModuleNotFoundError, OSError) as error:
        _LOG.warning("Files can't be locked here (%s); only one process at a time may write them.", error)
    return True


def _same_file(handle: int | None, path: Path) -> bool:
    """Whether an open file is still the one at `path`."""
    try:
        return handle is None or os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False
