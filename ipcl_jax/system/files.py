"""Files: where they can be, read with an error that names them, and written whole or not at all."""

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


def at_home(path: str | os.PathLike) -> Path:
    """A path whose `~` is the user's home folder; a name that only looks like it, such as `~1.png`, stays."""
    return Path(os.path.expanduser(path))


def read_json(path: Path) -> dict:
    """An object from a JSON file.

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
    """Refuses a place where nothing can be written, before there is something to write.

    Args:
        path: of a file or folder that shall be made, with the folders that it lies in.
        hint: what to do.

    Returns:
        The nearest folder that is there.

    Raises:
        ConfigError: if the nearest folder that is there can't be written to, or is none.
    """
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise ConfigError(f"{path} can't be written: {folder} is a file; {hint}.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{path} can't be written: {folder} is read-only, or another user's; {hint}.")
    return folder


@contextlib.contextmanager
def atomic(path: Path, *, parents: bool = True, durable: bool = True) -> Iterator[Path]:
    """A file or folder that gets its name once it is whole, so that nothing is ever found half written.

    A file that is replaced hands on its permissions; a new one has those of any new file. Where `path` is a
    link, what it leads to is written.

    Args:
        path: of the file or folder.
        parents: make the folders that it lies in, where they aren't there.
        durable: it is on disk before it gets its name, so that a power cut leaves the old one or the new; it
            takes some milliseconds a file.

    Yields:
        Where to write: a hidden path beside it. After an error nothing is left of it, and what had the name
        before still has it.
    """
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    if parents:
        path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(_hidden(path.name, f".{os.getpid()}-{secrets.token_hex(4)}.part"))
    try:
        yield part
        if part.is_file():
            _permit(part, path)
        if durable:
            to_disk(part)
        part.replace(path)
        if durable:
            _sync(path.parent)
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        part.unlink(missing_ok=True)


def to_disk(path: Path) -> None:
    """Returns once a file, or all that is in a folder, is on disk and outlasts a power cut."""
    if path.is_dir():
        for where, _, names in os.walk(path):
            for name in names:
                _sync(Path(where, name))
            _sync(Path(where))
    else:
        _sync(path)


def _hidden(name: str, ending: str) -> str:
    """A hidden name, from as much of a name as one may be long."""
    return f".{os.fsencode(name)[: _LONGEST - 1 - len(ending)].decode(errors='ignore')}{ending}"


def _permit(part: Path, path: Path) -> None:
    """Gives a file the permissions of the one that it replaces, else those that any new file has."""
    if path.is_file():
        mode = path.stat().st_mode
    else:  # some libraries make files that no one else may read
        new = part.with_name(_hidden("new", f"-{secrets.token_hex(8)}.part"))
        try:
            new.touch()
            mode = new.stat().st_mode
        finally:
            new.unlink(missing_ok=True)
    if mode != part.stat().st_mode:
        part.chmod(stat.S_IMODE(mode))


def _sync(path: Path) -> None:
    if path.is_dir() and os.name != "posix":  # Windows opens no folders
        return
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def in_words(error: Exception) -> str:
    """What an error says, or else what it is."""
    return str(error) or type(error).__name__
