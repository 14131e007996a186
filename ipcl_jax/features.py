"""Activations on disk: an HDF5 file that is written row by row and survives being killed.

While it is written the file is called `NAME.part`, with a journal `NAME.part.json` beside it that says what
is asked for and how many rows are safe. Every dataset has its final place and size
before the first row comes, so rows are the only thing that changes, and a file that was interrupted
and resumed has the bytes of one that wasn't.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import NamedTuple

import h5py
import numpy as np

from ipcl_jax.cache import CACHE_VARIABLE
from ipcl_jax.errors import ConfigError
from ipcl_jax.files import check_writable, read_json, whole
from ipcl_jax.probe import check_readable
from ipcl_jax.stored_config import unlike

NAMES, SHA256, READABLE = "names", "sha256", "readable"
"""Datasets beside the layers, one entry a row: the images' names, the sha256 of their files, and, where
unreadable images were allowed, whether they could be read."""

_JOURNAL_SECONDS = 2.0  # what a kill can cost


class Layer(NamedTuple):
    """What is stored of a layer for each image."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def bytes(self) -> int:
        """Bytes an image."""
        return int(np.prod(self.shape)) * self.dtype.itemsize


class FeatureFile:
    """A file of activations that is being written.

    Args:
        path: the HDF5 file when it is done; until then `NAME.part` is written.
        names: of the images, in the order of the rows.
        layers: what to store, by name.
        attributes: what the activations depend on (model, preprocessing and so on), stored with
            the file and with each layer. A file is only ever continued with the same.
        readable: keep a dataset `readable`.
        trusted: a file that is there is one of ours, and needn't be looked at with care.

    Attributes:
        path: as given.
        rows: that are done.
        complete: whether the file is there already, under its name.
        part: the file while it is written.

    Raises:
        ConfigError: if the file, or an unfinished one, is of another request, another process
            writes it, or the disk has too little room.
    """

    def __init__(
        self,
        path: Path,
        *,
        names: Sequence[str],
        layers: Mapping[str, Layer],
        attributes: Mapping[str, str | int],
        readable: bool = False,
        trusted: bool = False,
    ):
        self.path, self.part = path, path.with_name(f"{path.name}.part")
        self._journal = path.with_name(f"{path.name}.part.json")
        self._request = {
            **attributes,
            "layers": [f"{name} {list(layer.shape)} {layer.dtype}" for name, layer in layers.items()],
            "images": len(names),
            "readable": readable,
        }
        self._layers = layers
        self.complete = path.exists()
        begun = path if self.complete else self.part
        if not trusted and begun.is_file() and h5py.is_hdf5(begun):
            check_readable(begun, "hdf5")
        if self.complete:
            self._refuse_others(_request_of(path), _names_of(path), names, path)
            self.rows = len(names)
            self._journal.unlink(missing_ok=True)  # killed just before this was done
            return
        if self._journal.exists() and self.part.exists():
            there, self.rows = _noted(self._journal, len(names))
            self._refuse_others(there, _names_of(self.part), names, self.part)
        else:
            self._check_room(len(names))
            self._create(names, attributes, readable)
            self.rows = 0
            self._save_journal()
        try:
            self._file = h5py.File(self.part, "r+")
        except OSError as error:
            raise ConfigError(
                f"{self.part} can't be opened; is another process writing it? ({error})"
            ) from None
        self._saved_at = monotonic()

    def write(
        self, values: Mapping[str, np.ndarray], sha256: Sequence[str], unreadable: Sequence[int] = ()
    ) -> None:
        """Appends rows.

        Args:
            values: `[n, ...]` of each layer.
            sha256: `n` digests.
            unreadable: which of the `n` are not images; their values become NaN.

        Raises:
            OverflowError: if a value is beyond what the dtype on disk can hold.
        """
        end = self.rows + len(sha256)
        for name, layer in self._layers.items():
            rows = np.asarray(values[name])
            with np.errstate(over="ignore"):
                stored = rows.astype(layer.dtype)
            if layer.dtype != rows.dtype and np.isinf(stored).any():
                largest = np.abs(rows).max()
                raise OverflowError(f"{name} reaches {largest:.3g}, too much for {layer.dtype}; use float32.")
            stored[list(unreadable)] = np.nan
            self._file[name][self.rows : end] = stored
        self._file[SHA256][self.rows : end] = np.array(sha256, "S64")
        if READABLE in self._file:
            self._file[READABLE][self.rows : end] = ~np.isin(np.arange(len(sha256)), list(unreadable))
        self.rows = end
        if monotonic() - self._saved_at > _JOURNAL_SECONDS:
            self.save()

    def unreadable(self) -> list[int]:
        """Rows so far whose images could not be read."""
        return np.flatnonzero(~self._file[READABLE][: self.rows]).tolist() if READABLE in self._file else []

    def save(self) -> None:
        """Makes the rows so far safe."""
        self._file.flush()
        _to_disk(self.part)
        self._save_journal()
        self._saved_at = monotonic()

    def publish(self) -> None:
        """Gives the finished and closed file its name."""
        self.part.replace(self.path)
        self._journal.unlink(missing_ok=True)

    def discard(self) -> None:
        """Removes the finished and closed file, once it was copied to another format."""
        self.part.unlink()
        self._journal.unlink(missing_ok=True)

    def close(self) -> None:
        """Makes the rows so far safe and lets go of the file; the same request goes on with it."""
        if not self.complete:
            self.save()
            try:
                self._file.close()
            except RuntimeError:  # as HDF5 says of a file whose parts lie beyond its end
                raise _damaged(self.part) from None

    def __enter__(self) -> "FeatureFile":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _create(self, names: Sequence[str], attributes: Mapping, readable: bool) -> None:
        self.part.parent.mkdir(parents=True, exist_ok=True)
        count = len(names)
        with h5py.File(self.part, "w") as file:
            file.attrs.update(attributes)
            file.attrs["request"] = json.dumps(self._request)
            for name, layer in self._layers.items():
                dataset = _allocate(file, name, (count, *layer.shape), layer.dtype)
                axes = "image height width channel" if len(layer.shape) == 3 else "image unit"
                dataset.attrs.update({**attributes, "layer": name, "dtype": str(layer.dtype), "axes": axes})
            file.create_dataset(NAMES, data=list(names), dtype=h5py.string_dtype())
            _allocate(file, SHA256, (count,), np.dtype("S64"))
            if readable:
                _allocate(file, READABLE, (count,), np.dtype(bool))
        _to_disk(self.part)

    def _save_journal(self) -> None:
        with whole(self._journal) as part:
            part.write_text(json.dumps({"request": self._request, "rows": self.rows}), encoding="utf-8")

    def _check_room(self, count: int) -> None:
        folder = check_writable(self.path, f"give another --out, or another cache by ${CACHE_VARIABLE}")
        needed = count * sum(layer.bytes for layer in self._layers.values())
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise ConfigError(
                f"{self.path} would take {needed / 1e9:.1f} GB, and the disk has {free / 1e9:.1f} GB left. Fewer "
                "layers, --pool, --project or --dtype float16 make it smaller."
            )

    def _refuse_others(self, there: dict, names_there: list[str], names: Sequence[str], path: Path) -> None:
        found = list(unlike(there, json.loads(json.dumps(self._request))).values())
        if not found and names_there != list(names):
            if len(names_there) != len(names):
                raise _damaged(path)
            first = next(i for i, name in enumerate(names) if names_there[i] != name)
            found = [f"image {first}: {names_there[first]} there, {names[first]} here"]
        if found:
            listing = "\n  ".join(found)
            raise ConfigError(
                f"{path} holds activations of another request:\n  {listing}\n"
                "It stays as it is; give another --out, or remove it."
            )


def _allocate(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype) -> h5py.Dataset:
    """A dataset whose room is fixed now, so that later writes change nothing but its values."""
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_layout(h5py.h5d.CONTIGUOUS)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    layout.set_obj_track_times(False)
    space = h5py.h5s.create_simple(shape)
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(dtype, logical=True), space, layout)
    return file[name]


def _request_of(path: Path) -> dict:
    try:
        with h5py.File(path) as file:
            return dict(json.loads(file.attrs["request"]))
    except Exception:  # damaged files raise almost anything
        raise ConfigError(
            f"{path} is there already, and is no file of activations; give another --out."
        ) from None


def _names_of(path: Path) -> list[str]:
    try:
        with h5py.File(path) as file:
            return [name.decode() for name in file[NAMES][:]]
    except Exception:  # damaged files raise almost anything
        raise _damaged(path) from None


def _noted(journal: Path, count: int) -> tuple[dict, int]:
    """What a journal says was asked for, and how many rows are done."""
    noted = read_json(journal)
    request, rows = noted.get("request"), noted.get("rows")
    if not isinstance(request, dict) or not isinstance(rows, int) or not 0 <= rows <= count:
        raise _damaged(journal)
    return request, rows


def _damaged(path: Path) -> ConfigError:
    return ConfigError(f"{path} is damaged, or no file of activations. Remove it, or give another --out.")


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
