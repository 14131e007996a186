"""Activations on disk: an HDF5 file that is written row by row and survives being killed.

While it is written the file is called `NAME.part`, with a journal `NAME.part.json` beside it that says what
is asked for and how many rows are safe. Every dataset has its final place and size
before the first row comes, so rows are the only thing that changes, and a file that was interrupted
and resumed has the bytes of one that wasn't.
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
    Unfit,
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

_JOURNAL_SECONDS = 2.0  # what a kill can cost
_STAYS = "It stays as it is; give another --out, or remove it."


class FeatureFile:
    """A file of activations that is being written; use it in a `with` statement.

    From its first row until it is closed, no other process or thread can write the same file.

    Args:
        path: the HDF5 file when it is done; until then `NAME.part` is written.
        names: of the images, in the order of the rows.
        layers: what to store, by name.
        attributes: what the activations depend on (model, preprocessing and so on), stored with
            the file and with each layer, beside the version of the code (`code`). A file is only
            ever continued with the same.
        digests: gives the sha256 of the first n images as they are now, `[n]` bytes: rows that were computed
            from other images are no rows of this file.
        readable: keep a dataset `readable`.
        ours: no one but this package writes there: what is there needn't be looked at with care, and what doesn't
            fit is computed anew instead of refused.
        wait: for another process or thread that writes the file; otherwise it is an error.

    Attributes:
        path: as given, or what it leads to if it is a link.
        rows: that are done.
        complete: whether the file is there already, under its name.
        part: the file while it is written.

    Raises:
        Unfit: if the file, or an unfinished one, is of another request, of other images or damaged.
        ConfigError: if another process writes it, or the disk has too little room.
        InputError: for text that HDF5 can't hold.
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
        ours: bool = False,
        wait: bool = False,
    ):
        self.path = path = Path(os.path.realpath(path)) if path.is_symlink() else path
        self.part, self._journal = (path.with_name(path.name + end) for end in (".part", ".part.json"))
        self._names, self._layers, self._digests, self._ours = list(names), layers, digests, ours
        self._attributes = {**attributes, "code": code_version()}
        self._request = {
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
        seen = _state_of(path)
        self.complete = self._is_complete()
        if self.complete:
            return
        try:
            self._hold(wait)
            if _state_of(path) != seen and self._is_complete():  # by the one that was waited for
                self.complete = True
                self._lock.close()
                return
            if not self._goes_on():
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
            values: `[n, ...]` float32 of each layer, rounded here to the dtype on disk.
            sha256: `n` digests.
            unreadable: which of the `n` are not images; their values become NaN.
            first: row that the first of them belongs to; those that are there already are skipped. By default the
                next one.

        Raises:
            InputError: if a value isn't a finite number.
            BeyondRange: if one is too large for the dtype on disk, or the largest of a row too small.
            OSError: if the disk is full; the rows before are kept.
        """
        done = self.rows - (self.rows if first is None else first)
        if done < 0:
            raise RuntimeError(f"Row {first} can't be written before row {self.rows}.")
        lost = [i - done for i in unreadable if i >= done]
        count = len(sha256) - done
        if count <= 0:
            return
        end = self.rows + count
        images = self._names[self.rows : end]
        with _naming(self.part):
            for name, layer in self._layers.items():
                rows = np.asarray(values[name])[done:]
                self._file[name][self.rows : end] = rounded(
                    rows, layer.dtype, layer=name, images=images, unreadable=lost
                )
            self._file[SHA256][self.rows : end] = np.array(sha256[done:], "S64")
            if READABLE in self._file:
                self._file[READABLE][self.rows : end] = ~np.isin(np.arange(count), lost)
        self.rows = end
        if monotonic() - self._saved_at > _JOURNAL_SECONDS:
            self.save()

    def unreadable(self) -> list[int]:
        """Rows so far whose images could not be read."""
        return np.flatnonzero(~self._file[READABLE][: self.rows]).tolist() if READABLE in self._file else []

    def save(self) -> None:
        """Makes the rows so far safe."""
        with _naming(self.part):
            self._file.flush()
            sync_to_disk(self.part)
            self._save_journal()
        self._saved_at = monotonic()

    def finish(self) -> Path:
        """Closes the file once all rows are written, so that it can be read; returns where it is, `part`."""
        if self.rows != len(self._names):
            raise RuntimeError(f"{self.part} has {self.rows} of {len(self._names)} rows.")
        self._close_file()
        return self.part

    def publish(self) -> None:
        """Gives the file, once all rows are written, its name."""
        self.finish()
        self.part.replace(self.path)
        sync_to_disk(self.path)
        self._journal.unlink(missing_ok=True)

    def discard(self) -> None:
        """Removes what was written."""
        self._let_go()
        self.part.unlink(missing_ok=True)
        self._journal.unlink(missing_ok=True)

    def close(self) -> None:
        """Makes the rows so far safe and lets go of the file; the same request goes on with them."""
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
        except RuntimeError:  # as HDF5 says of a file whose parts lie beyond its end
            raise damaged(self.part) from None
        finally:
            self._let_go()

    def _let_go(self) -> None:
        """Closes the file, whatever state it is in."""
        if self._file is not None:
            with contextlib.suppress(RuntimeError, OSError):
                self._file.close()
            self._file = None

    def _hold(self, wait: bool) -> None:
        """Waits for its turn, or refuses a file that another process writes."""
        if not self._journal.exists():
            self._check_room()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.enter_context(file_lock(self.path, wait=wait))
        except LockHeld as error:
            raise ConfigError(f"{error}. Give the same command again when that one is done.") from None

    def _is_complete(self) -> bool:
        """Whether the file is there under its name, and is what is asked for."""
        rows = len(self._names)
        if not (self.path.exists() and self._fits(self.path, lambda: (read_request(self.path), rows))):
            return False
        self.rows = rows
        if self._journal.exists() and not self.part.exists():
            self._journal.unlink(missing_ok=True)  # killed just before this was done
        return True

    def _goes_on(self) -> bool:
        """Whether rows are there from which this can go on."""
        if not (self._journal.exists() and self.part.exists()):
            return False
        if not self._fits(self.part, lambda: _noted(self._journal, len(self._names))):
            return False
        self.rows = _noted(self._journal, len(self._names))[1]
        return True

    def _fits(self, path: Path, read: Callable[[], tuple[dict, int]]) -> bool:
        """Whether a file holds the first rows of this request; `read` gives its request, and how many."""
        try:
            if not self._ours and path.is_file() and h5py.is_hdf5(path):
                check_readable(path, "hdf5")
            there, rows = read()
            there = {"code": "an earlier version", **there}
            if there["code"] in SAME_NUMBERS:
                there["code"] = self._request["code"]
            found = list(differing_fields(there, json.loads(json.dumps(self._request))).values())
            names, digests = read_rows(path, rows)
            if not found and names != self._names:
                if len(names) != len(self._names):
                    raise damaged(path)
                first = next(i for i, name in enumerate(self._names) if names[i] != name)
                found = [f"image {first}: {names[first]} there, {self._names[first]} here"]
            if found:
                listing = "\n  ".join(found)
                raise Unfit(f"{path} holds activations of another request:\n  {listing}\n{_STAYS}")
            changed = np.flatnonzero(digests != np.asarray(self._digests(rows), "S64"))
            if len(changed):
                raise Unfit(
                    f"{path} holds activations of other images: {len(changed)} of {rows} have changed since they were "
                    f"computed, the first of them {self._names[changed[0]]}. {_STAYS}"
                )
        except Unfit:
            if not self._ours:
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


def _noted(journal: Path, count: int) -> tuple[dict, int]:
    """What a journal says was asked for, and how many rows are done."""
    try:
        noted = read_json(journal)
    except ConfigError as error:
        raise Unfit(str(error)) from None
    request, rows = noted.get("request"), noted.get("rows")
    if not isinstance(request, dict) or not isinstance(rows, int) or not 0 <= rows <= count:
        raise damaged(journal)
    return request, rows


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Has errors of the disk name the file, in one line."""
    try:
        yield
    except OSError as error:
        if error.errno:
            raise OSError(error.errno, os.strerror(error.errno), os.fspath(path)) from None
        raise


def _state_of(path: Path) -> tuple[int, int] | None:
    """Changes when a file is replaced; None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _check_text(text: str) -> None:
    """Refuses what HDF5 can't hold as text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{ascii(text)} is no text in UTF-8; give the file another name.") from None
