"""Writing of activations to an HDF5 file, row by row, so that a killed process can be resumed.

While it is written, the file is `NAME.part`. A journal `NAME.part.json` beside it has the request and the number of
rows that are on disk. Every dataset has its final offset and size before the first row is written, so writing changes
only rows, and a file whose writing was interrupted and resumed is bytewise equal to one that wasn't interrupted.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import h5py
import numpy as np

from ipcl_jax.activations.layout import (
    READABLE,
    SHA256,
    Layer,
    UnusableFile,
    create,
    damaged,
    open_rows,
    read_request,
    read_rows,
    rounded,
)
from ipcl_jax.activations.provenance import SAME_NUMBERS, code_version
from ipcl_jax.errors import ConfigError, InputError
from ipcl_jax.stored_config import differing_fields
from ipcl_jax.system.cache import CACHE_VARIABLE
from ipcl_jax.system.files import atomic, check_writable, read_json, sync_to_disk
from ipcl_jax.system.locks import LockHeld, file_lock
from ipcl_jax.system.probe import check_readable

_JOURNAL_SECONDS = 2.0  # between updates of the journal: at most the work of this time is lost
_NOT_CHANGED = "It stays as it is; give another --out, or remove it."


class FeatureFile:
    """A file of activations to write; use it in a `with` statement.

    It holds a lock, so that no other process or thread can write the same file, until it is closed.

    Args:
        path: the finished HDF5 file; `NAME.part` is written until then.
        names: names of the images, in the order of the rows.
        layers: shape and dtype of each layer, by name.
        attributes: what the activations depend on (model, preprocessing and so on), stored in
            the file and in each layer, with the version of the code (`code`). An unfinished file is resumed only if
            they are equal.
        digests: returns the current sha256 of the first n images, `[n]` bytes. Stored rows must have been computed
            from these images.
        readable: store a dataset `readable`.
        in_cache: the file is in the package's cache, written by no one else: an existing file isn't checked for
            malformed content, and one that doesn't match is replaced instead of an error.
        wait: wait for another process or thread that writes the file, instead of an error.

    Attributes:
        path: as given, or the target of a symbolic link.
        rows: number of rows that are written.
        complete: whether the finished file exists already.
        part: path of the file while it is written.

    Raises:
        UnusableFile: if the file, finished or not, is damaged, or of another request or other images.
        ConfigError: if another process writes it, or the disk has too little free space.
        InputError: for text that HDF5 can't store.
    """

    def __init__(
        self,
        path: Path,
        *,
        names: Sequence[str],
        layers: Mapping[str, Layer],
        attributes: Mapping[str, str | int],
        digests: Callable[[int], np.ndarray],
        readable: bool = False,
        in_cache: bool = False,
        wait: bool = False,
    ):
        self.path = path = Path(os.path.realpath(path)) if path.is_symlink() else path
        self.part, self._journal = (path.with_name(path.name + end) for end in (".part", ".part.json"))
        self._names, self._layers, self._digests, self._in_cache = list(names), layers, digests, in_cache
        self._attributes = {**attributes, "code": code_version()}
        self._request: dict[str, Any] = {
            **self._attributes,
            "layers": [f"{name} {list(layer.shape)} {layer.dtype}" for name, layer in layers.items()],
            "images": len(names),
            "readable": readable,
        }
        for text in (*self._names, *map(str, attributes.values())):
            _check_text(text)
        self.rows = 0
        self._file: Any = None  # an h5py.File, while it is open
        self._lock = contextlib.ExitStack()
        seen = _file_id(path)
        self.complete = self._is_complete()
        if self.complete:
            return
        try:
            self._acquire_lock(wait)
            if _file_id(path) != seen and self._is_complete():  # written while waiting for the lock
                self.complete = True
                self._lock.close()
                return
            if not self._can_resume():
                self._create()
            self._file = open_rows(self.part)
        except BaseException:
            self._lock.close()
            raise
        self._saved_at = monotonic()

    def write(
        self,
        values: Mapping[str, np.ndarray],
        sha256: Sequence[str],
        unreadable: Sequence[int] = (),
        *,
        first: int | None = None,
    ) -> None:
        """Appends rows.

        Args:
            values: `[n, ...]` float32 of each layer; rounded to the dtype on disk.
            sha256: `n` digests.
            unreadable: indices of images that could not be read; their values become NaN.
            first: row number of the first; rows that are written already are skipped. By default the next row.

        Raises:
            InputError: if a value isn't a finite number.
            BeyondRange: if a value is too large for the dtype on disk, or the largest of a row too small.
            OSError: if the disk is full; earlier rows are kept.
        """
        done = self.rows - (self.rows if first is None else first)
        if done < 0:
            raise RuntimeError(f"Row {first} can't be written before row {self.rows}.")
        missing = [i - done for i in unreadable if i >= done]
        count = len(sha256) - done
        if count <= 0:
            return
        end = self.rows + count
        images = self._names[self.rows : end]
        with _name_file_in_errors(self.part):
            for name, layer in self._layers.items():
                rows = np.asarray(values[name])[done:]
                self._file[name][self.rows : end] = rounded(
                    rows, layer.dtype, layer=name, images=images, unreadable=missing
                )
            self._file[SHA256][self.rows : end] = np.array(sha256[done:], "S64")
            if READABLE in self._file:
                self._file[READABLE][self.rows : end] = ~np.isin(np.arange(count), missing)
        self.rows = end
        if monotonic() - self._saved_at > _JOURNAL_SECONDS:
            self.save()

    def unreadable(self) -> list[int]:
        """Returns the written rows whose images could not be read."""
        return np.flatnonzero(~self._file[READABLE][: self.rows]).tolist() if READABLE in self._file else []

    def save(self) -> None:
        """Writes the rows so far, and the journal, to disk."""
        with _name_file_in_errors(self.part):
            self._file.flush()
            sync_to_disk(self.part)
            self._save_journal()
        self._saved_at = monotonic()

    def finish(self) -> Path:
        """Closes the file after all rows are written, and returns its path, `part`."""
        if self.rows != len(self._names):
            raise RuntimeError(f"{self.part} has {self.rows} of {len(self._names)} rows.")
        self._close_file()
        return self.part

    def publish(self) -> None:
        """Closes the file after all rows are written, and renames it from `part` to `path`."""
        self.finish()
        self.part.replace(self.path)
        sync_to_disk(self.path)
        self._journal.unlink(missing_ok=True)

    def discard(self) -> None:
        """Removes the unfinished file and its journal."""
        self._release()
        self.part.unlink(missing_ok=True)
        self._journal.unlink(missing_ok=True)

    def close(self) -> None:
        """Saves the rows so far, closes the file and releases the lock; the same request resumes after these rows."""
        with self._lock:
            if self._file is not None and not self.rows:
                self.discard()
            self._close_file()

    def __enter__(self) -> "FeatureFile":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _close_file(self) -> None:
        if self._file is None:
            return
        try:
            self.save()
            self._file.close()
        except RuntimeError:  # HDF5's error for a truncated file
            raise damaged(self.part) from None
        finally:
            self._release()

    def _release(self) -> None:
        """Closes the file without writing, whatever its state."""
        if self._file is not None:
            with contextlib.suppress(RuntimeError, OSError):
                self._file.close()
            self._file = None

    def _acquire_lock(self, wait: bool) -> None:
        """Acquires the lock, or raises ConfigError if another process has it and `wait` is False."""
        if not self._journal.exists():
            self._check_room()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.enter_context(file_lock(self.path, wait=wait))
        except LockHeld as error:
            raise ConfigError(f"{error}. Give the same command again when that process is done.") from None

    def _is_complete(self) -> bool:
        """Whether the finished file exists and matches the request."""
        rows = len(self._names)
        if not (self.path.exists() and self._matches(self.path, lambda: (read_request(self.path), rows))):
            return False
        self.rows = rows
        if self._journal.exists() and not self.part.exists():
            self._journal.unlink(missing_ok=True)  # the process was killed before it removed the journal
        return True

    def _can_resume(self) -> bool:
        """Whether an unfinished file exists that can be resumed."""
        if not (self._journal.exists() and self.part.exists()):
            return False
        if not self._matches(self.part, lambda: _read_journal(self._journal, len(self._names))):
            return False
        self.rows = _read_journal(self._journal, len(self._names))[1]
        return True

    def _matches(self, path: Path, read: Callable[[], tuple[dict, int]]) -> bool:
        """Whether a file holds the first rows of this request; `read` returns its request and number of rows."""
        try:
            if not self._in_cache and path.is_file() and h5py.is_hdf5(path):
                check_readable(path, "hdf5")
            stored, rows = read()
            stored = {"code": "an earlier version", **stored}
            if stored["code"] in SAME_NUMBERS:
                stored["code"] = self._request["code"]
            found = list(differing_fields(stored, json.loads(json.dumps(self._request))).values())
            names, digests = read_rows(path, rows)
            if not found and names != self._names:
                if len(names) != len(self._names):
                    raise damaged(path)
                first = next(i for i, name in enumerate(self._names) if names[i] != name)
                found = [f"image {first}: {names[first]} there, {self._names[first]} here"]
            if found:
                listing = "\n  ".join(found)
                raise UnusableFile(
                    f"{path} holds activations of another request:\n  {listing}\n{_NOT_CHANGED}"
                )
            changed = np.flatnonzero(digests != np.asarray(self._digests(rows), "S64"))
            if len(changed):
                raise UnusableFile(
                    f"{path} holds activations of other images: {len(changed)} of {rows} have changed since they were "
                    f"computed, the first of them {self._names[changed[0]]}. {_NOT_CHANGED}"
                )
        except UnusableFile:
            if not self._in_cache:
                raise
            return False
        return True

    def _create(self) -> None:
        with atomic(self.part) as part:
            create(
                part, names=self._names, layers=self._layers, attributes=self._attributes, request=self._request,
                readable=self._request["readable"],
            )  # fmt: skip
        try:
            self._save_journal()
        except BaseException:
            self.part.unlink()
            raise

    def _save_journal(self) -> None:
        with atomic(self._journal) as part:
            part.write_text(json.dumps({"request": self._request, "rows": self.rows}), encoding="utf-8")

    def _check_room(self) -> None:
        folder = check_writable(self.path, f"give another --out, or another cache by ${CACHE_VARIABLE}")
        needed = len(self._names) * sum(layer.bytes for layer in self._layers.values())
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise ConfigError(
                f"{self.path} would take {needed / 1e9:.1f} GB, and the disk has {free / 1e9:.1f} GB left. Fewer "
                "layers, --pool, --project or --dtype float16 make it smaller."
            )


def _read_journal(journal: Path, count: int) -> tuple[dict, int]:
    """Reads the request, and the number of rows on disk, from a journal."""
    try:
        content = read_json(journal)
    except ConfigError as error:
        raise UnusableFile(str(error)) from None
    request, rows = content.get("request"), content.get("rows")
    if not isinstance(request, dict) or not isinstance(rows, int) or not 0 <= rows <= count:
        raise damaged(journal)
    return request, rows


@contextlib.contextmanager
def _name_file_in_errors(path: Path) -> Iterator[None]:
    """Raises OSErrors again with the file's path, in one line."""
    try:
        yield
    except OSError as error:
        if error.errno:
            raise OSError(error.errno, os.strerror(error.errno), os.fspath(path)) from None
        raise


def _file_id(path: Path) -> tuple[int, int] | None:
    """Returns a file's inode and modification time, which change when it is replaced; None if there is no file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _check_text(text: str) -> None:
    """Raises InputError for text that HDF5 can't store."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{ascii(text)} is no text in UTF-8; give the file another name.") from None
