"""Paths, JSON files, and atomic writes."""

import contextlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from ipcl_jax.errors import ConfigError

_LONGEST = 255  # bytes of a file's name, on most file systems
_PART = 2**20  # bytes to read at once; most images have fewer


def expand_home(path: str | os.PathLike) -> Path:
    """Expands `~` to the user's home directory; leaves names such as `~1.png` unchanged."""
    return Path(os.path.expanduser(path))


def read_file(path: str | os.PathLike) -> bytes:
    """Reads a whole file, with few releases of Python's lock.

    After each release a thread waits for others; `open(path, "rb").read()` makes eight, and this four. So it is faster
    where many threads read small files, and no faster otherwise.

    Raises:
        OSError: if it can't be read.
    """
    file = os.open(path, os.O_RDONLY)
    try:
        return b"".join(iter(lambda: os.read(file, _PART), b""))
    finally:
        os.close(file)


def read_json(path: Path) -> dict:
    """Reads a JSON file that contains an object.

    Raises:
        ConfigError: if the file can't be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} can't be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds a JSON {type(content).__name__}, expected an object.")
    return content


def check_writable(path: Path, hint: str = "give another --out") -> Path:
    """Raises ConfigError if a file or folder can't be created at `path`, missing parent folders included.

    Args:
        path: of the file or folder.
        hint: how to fix it, for the message.

    Returns:
        The nearest parent folder that exists.

    Raises:
        ConfigError: if the nearest existing parent is not writable, or not a folder.
    """
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise ConfigError(f"{path} can't be written: {folder} is a file; {hint}.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{path} can't be written: {folder} is read-only, or another user's; {hint}.")
    return folder


@contextlib.contextmanager
def atomic(path: Path, *, parents: bool = True, durable: bool = True) -> Iterator[Path]:
    """Writes a file or folder atomically: to a hidden path beside it, which is renamed when the block ends.

    A file that is replaced keeps its permissions; a new file gets the default ones. If `path` is a symbolic link,
    its target is written.

    Args:
        path: of the file or folder.
        parents: create missing parent folders.
        durable: flush to disk before renaming, so that a power cut leaves either the old or the new version; takes
            some milliseconds a file.

    Yields:
        The hidden path to write to. After an error it is removed, and what was at `path` before is unchanged.
    """
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    if parents:
        path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(_hidden_name(path.name, f".{os.getpid()}-{secrets.token_hex(4)}.part"))
    try:
        yield part
        if part.is_file():
            _set_permissions(part, path)
        if durable:
            sync_to_disk(part)
        part.replace(path)
        if durable:
            _sync(path.parent)
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        part.unlink(missing_ok=True)


def sync_to_disk(path: Path) -> None:
    """Flushes a file, or everything in a folder, to disk, so that it survives a power cut."""
    if path.is_dir():
        for where, _, names in os.walk(path):
            for name in names:
                _sync(Path(where, name))
            _sync(Path(where))
    else:
        _sync(path)


def _hidden_name(name: str, ending: str) -> str:
    """Makes a hidden file's name from another name and an ending; truncates the former to the longest allowed."""
    return f".{os.fsencode(name)[: _LONGEST - 1 - len(ending)].decode(errors='ignore')}{ending}"


def _set_permissions(part: Path, path: Path) -> None:
    """Gives a file the permissions of the one that it replaces, or else those of a new file."""
    if path.is_file():
        mode = path.stat().st_mode
    else:  # some libraries create files that only their owner can read
        new = part.with_name(_hidden_name("new", f"-{secrets.token_hex(8)}.part"))
        try:
            new.touch()
            mode = new.stat().st_mode
        finally:
            new.unlink(missing_ok=True)
    if mode != part.stat().st_mode:
        part.chmod(stat.S_IMODE(mode))


def _sync(path: Path) -> None:
    if path.is_dir() and os.name != "posix":  # Windows can't open folders
        return
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def error_text(error: Exception) -> str:
    """Returns an error's message, or its type's name if it has none."""
    return str(error) or type(error).__name__
