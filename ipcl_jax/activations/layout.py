"""What a file of activations looks like: one dataset a layer, and three that say what its rows are."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from ipcl_jax.errors import ConfigError, InputError

NAMES, SHA256, READABLE = "names", "sha256", "readable"
"""Datasets beside the layers, one entry a row: the images' names, the sha256 of their files, and, where
unreadable images were allowed, whether they could be read."""


class Layer(NamedTuple):
    """What is stored of a layer for each image."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def bytes(self) -> int:
        """Bytes an image."""
        return int(np.prod(self.shape)) * self.dtype.itemsize


class Unfit(ConfigError):
    """A file that is there is damaged, or holds something else; it is left as it is."""


def create(
    path: Path,
    *,
    names: Sequence[str],
    layers: Mapping[str, Layer],
    attributes: Mapping[str, str | int],
    request: Mapping,
    readable: bool,
) -> None:
    """Writes a file in which every dataset has its final place and size, and no row has values yet.

    Args:
        path: the HDF5 file.
        names: of the images.
        layers: what is stored of each, by name.
        attributes: of the file and of each layer.
        request: kept as JSON, for `read_request`.
        readable: make a dataset `readable`.
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
    """What was asked for when a file was made.

    Raises:
        Unfit: if it is no such file.
        ConfigError: if it is open for writing elsewhere.
        OSError: if the disk can't be read.
    """
    try:
        with h5py.File(path) as file:
            return dict(json.loads(file.attrs["request"]))
    except Exception as error:  # damaged files raise almost anything
        _raise_others(path, error)
        raise Unfit(f"{path} is there already, and is no file of activations; give another --out.") from None


def read_rows(path: Path, count: int) -> tuple[list[str], np.ndarray]:
    """The names of all rows, and the sha256 of the first ones, `[count]` bytes.

    Raises:
        as `read_request`.
    """
    try:
        with h5py.File(path) as file:
            return [name.decode() for name in file[NAMES][:]], file[SHA256][:count]
    except Exception as error:  # damaged files raise almost anything
        _raise_others(path, error)
        raise damaged(path) from None


def open_rows(path: Path) -> h5py.File:
    """Opens a file to write rows.

    Raises:
        as `read_request`.
    """
    try:
        return h5py.File(path, "r+")
    except OSError as error:
        _raise_others(path, error)
        raise damaged(path) from None


def damaged(path: Path) -> Unfit:
    """The error of a file whose content can't be read."""
    return Unfit(f"{path} is damaged, or no file of activations. Remove it, or give another --out.")


def _raise_others(path: Path, error: Exception) -> None:
    """Raises what isn't due to a file's content: HDF5 gives it the system's number."""
    if isinstance(error, BlockingIOError):
        raise ConfigError(
            f"{path} is open for writing in another program; close it there, or wait."
        ) from None
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno):
        raise error


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


class BeyondRange(InputError, OverflowError):
    """A value can't be kept in the dtype that was chosen."""


def rounded(
    rows: np.ndarray, dtype: np.dtype, *, layer: str, images: Sequence[str], unreadable: Sequence[int] = ()
) -> np.ndarray:
    """Rounds activations of a layer for storage.

    Each value then differs from what was computed by at most 2^-11 (float16) of the largest one in its row.

    Args:
        rows: `[n, ...]` float32.
        dtype: float32 or float16.
        layer: its name, for messages.
        images: n names, for messages.
        unreadable: rows whose images can't be read; whatever they hold becomes NaN.

    Returns:
        `[n, ...]` of that dtype; the same array if nothing had to be changed.

    Raises:
        InputError: if a value isn't a finite number.
        BeyondRange: if a row's largest value rounds to infinity, or is below the smallest number that `dtype` holds with
            all its digits.
    """
    flat, unreadable = rows.reshape(len(rows), -1), list(unreadable)
    peaks = np.maximum(flat.max(1), -flat.min(1))  # largest magnitudes; NaN where there is one
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
    with np.errstate(all="ignore"):  # for what the lost rows hold
        kept_rows = rows.astype(dtype)
    kept_rows[unreadable] = np.nan
    return kept_rows
