"""Files: where they can be, read with an error that names them, and written whole or not at all."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ipcl_jax.errors import ConfigError


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
def whole(path: Path, *, parents: bool = True) -> Iterator[Path]:
    """A file or folder that gets its name once it is whole.

    Args:
        path: of the file or folder.
        parents: make the folders that it lies in, where they aren't there.

    Yields:
        Where to write: a hidden path beside it. After an error nothing is left of it, and what had the name
        before still has it.
    """
    if parents:
        path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        part.unlink(missing_ok=True)


def in_words(error: Exception) -> str:
    """What an error says, or else what it is."""
    return str(error) or type(error).__name__
