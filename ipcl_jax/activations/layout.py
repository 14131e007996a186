"""Layout of a file of activations: one dataset per layer, and up to three that describe its rows."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from ipcl_jax.errors import ConfigError, InputError

NAMES, SHA256, READABLE = "names", "sha256", "readable"
"""Datasets besides the layers, with one entry per row: the images' names, the sha256 of their files, and, if
unreadable images were allowed, whether they could be read."""


class Layer(NamedTuple):
    """Shape and dtype of a layer's stored activations for one image."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def bytes(self) -> int:
        """Bytes per image."""
        return int(np.prod(self.shape)) * self.dtype.itemsize


class UnusableFile(ConfigError):
    """An existing file is damaged, or doesn't match the request; it is not changed."""


def create(
    path: Path,
    *,
    names: Sequence[str],
    layers: Mapping[str, Layer],
    attributes: Mapping[str, str | int],
    request: Mapping,
    readable: bool,
) -> None:
    """Creates a file in which every dataset has its final offset and size, without values.

    Args:
        path: the HDF5 file.
        names: names of the images.
        layers: shape and dtype of each layer, by name.
        attributes: HDF5 attributes of the file and of each layer.
        request: stored as JSON, for `read_request`.
        readable: create a dataset `readable`.
    """
    count = len(names)
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes)
        file.attrs["request"] = json.dumps(request)
        for name, layer in layers.items():
            dataset = _allocate(file, name, (count, *layer.shape), layer.dtype)
            axes = "image height width channel" if len(layer.shape) == 3 else "image unit"
            dataset.attrs.update({**attributes, "layer": name, "dtype": str(layer.dtype), "axes": axes})
        file.create_dataset(NAMES, data=list(names), dtype=h5py.string_dtype())
        _allocate(file, SHA256, (count,), np.dtype("S64"))
        if readable:
            _allocate(file, READABLE, (count,), np.dtype(bool))


def read_request(path: Path) -> dict:
    """Reads the request that a file was created for.

    Raises:
        UnusableFile: if it is no file of activations.
        ConfigError: if another program has it open for writing.
        OSError: if the disk can't be read.
    """
    try:
        with h5py.File(path) as file:
            return dict(json.loads(file.attrs["request"]))
    except Exception as error:  # damaged files raise almost anything
        _raise_unless_damaged(path, error)
        raise UnusableFile(f"{path} is there already, and is no file of activations; give another --out.") from None


def read_rows(path: Path, count: int) -> tuple[list[str], np.ndarray]:
    """Reads the names of all rows, and the sha256 of the first `count`, `[count]` bytes.

    Raises:
        as `read_request`.
    """
    try:
        with h5py.File(path) as file:
            return [name.decode() for name in file[NAMES][:]], file[SHA256][:count]
    except Exception as error:  # damaged files raise almost anything
        _raise_unless_damaged(path, error)
        raise damaged(path) from None


def open_rows(path: Path) -> h5py.File:
    """Opens a file for writing rows.

    Raises:
        as `read_request`.
    """
    try:
        return h5py.File(path, "r+")
    except OSError as error:
        _raise_unless_damaged(path, error)
        raise damaged(path) from None


def damaged(path: Path) -> UnusableFile:
    """Returns the error for a file whose content can't be read."""
    return UnusableFile(f"{path} is damaged, or no file of activations. Remove it, or give another --out.")


def _raise_unless_damaged(path: Path, error: Exception) -> None:
    """Raises an error that isn't due to a file's content; such errors of HDF5 have an `errno`."""
    if isinstance(error, BlockingIOError):
        raise ConfigError(
            f"{path} is open for writing in another program; close it there, or wait."
        ) from None
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno):
        raise error


def _allocate(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype) -> h5py.Dataset:
    """Creates a dataset and allocates its storage, so that later writes change only its values."""
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_layout(h5py.h5d.CONTIGUOUS)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    layout.set_obj_track_times(False)
    space = h5py.h5s.create_simple(shape)
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(dtype, logical=True), space, layout)
    return file[name]


class BeyondRange(InputError, OverflowError):
    """A value is out of the range of the chosen dtype."""


def rounded(
    rows: np.ndarray, dtype: np.dtype, *, layer: str, images: Sequence[str], unreadable: Sequence[int] = ()
) -> np.ndarray:
    """Rounds activations of a layer for storage.

    In float16 each value changes by at most 2^-11 of the largest magnitude in its row.

    Args:
        rows: `[n, ...]` float32.
        dtype: float32 or float16.
        layer: name of the layer, for messages.
        images: n names, for messages.
        unreadable: rows whose images can't be read; their values become NaN.

    Returns:
        `[n, ...]` of that dtype; `rows` itself if nothing changes.

    Raises:
        InputError: if a value isn't a finite number.
        BeyondRange: if a row's largest magnitude rounds to infinity, or is above 0 and below the smallest normal
            number of `dtype`.
    """
    flat, unreadable = rows.reshape(len(rows), -1), list(unreadable)
    peaks = np.maximum(flat.max(1), -flat.min(1))  # largest magnitudes; NaN in rows that have one
    peaks[unreadable] = 0
    if len(wrong := np.flatnonzero(~np.isfinite(peaks))):
        raise InputError(
            f"{layer} of {images[wrong[0]]} is not a finite number everywhere; the model's weights are damaged, or "
            "training it went wrong."
        )
    if dtype != rows.dtype:
        kept = np.finfo(dtype)
        with np.errstate(over="ignore", under="ignore"):
            too_large = np.isinf(peaks.astype(dtype))
        too_small = (peaks > 0) & (peaks < kept.tiny)
        for wrong, reason in ((np.flatnonzero(too_large), "much"), (np.flatnonzero(too_small), "little")):
            if len(wrong):
                raise BeyondRange(
                    f"{images[wrong[0]]}: {layer} reaches {peaks[wrong[0]]:.3g}, too {reason} for {dtype}; use float32."
                )
    if not unreadable:
        return rows.astype(dtype, copy=False)
    with np.errstate(all="ignore"):  # rows of unreadable images can hold anything
        kept_rows = rows.astype(dtype)
    kept_rows[unreadable] = np.nan
    return kept_rows
