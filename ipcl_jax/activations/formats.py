"""Conversion of a finished file of activations to formats other than HDF5."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import h5py
import numpy as np
import scipy.io

from ipcl_jax.errors import ConfigError, near_miss
from ipcl_jax.system.files import atomic

Format = Literal["h5", "npz", "mat"]

ENDINGS: dict[str, Format] = {
    ".h5": "h5", ".hdf5": "h5", ".hdf": "h5", ".npz": "npz", ".mat": "mat",
}  # fmt: skip
"""Formats by file name extension, in lower case."""

_CHUNK = 64 << 20  # bytes copied at a time
_MAT_LIMIT = 2**31  # largest variable in MATLAB's format 5, in bytes


def format_of(path: Path, format: Format | None = None) -> Format:
    """Returns the format that belongs to a file's name.

    Args:
        path: the file; the case of its extension doesn't matter.
        format: the format, for a name without an extension.

    Returns:
        `format` for a name without an extension (by default `h5`); otherwise the extension's, one of `Format`.

    Raises:
        ConfigError: for an unknown extension, or one of another format than `format`.
    """
    ending = path.suffix.lower()
    if not ending:
        return format or "h5"
    known = ", ".join(ENDINGS)
    if ending not in ENDINGS:
        raise ConfigError(
            f"{path} ends in {path.suffix!r}, which is no format for activations; known endings: {known}."
        )
    if format not in (None, ENDINGS[ending]):
        raise ConfigError(
            f"{path} ends in {path.suffix!r}, and {format} is asked for; known endings: {known}."
        )
    return ENDINGS[ending]


def check_format(format: Format, largest: int) -> None:
    """Raises ConfigError if activations can't be written in a format.

    Args:
        format: one of `Format`.
        largest: bytes of the largest layer in float32 (MATLAB has no float16).

    Raises:
        ConfigError: for an unknown format, or layers too large for it.
    """
    if format not in get_args(Format):
        raise ConfigError(f"No format {format!r}.{near_miss(format, get_args(Format))}")
    if format == "mat" and largest >= _MAT_LIMIT:
        raise ConfigError(
            f"A layer would take {largest / 1e9:.1f} GB, and MATLAB's format 5 ends at 2 GB. "
            "Write .h5, which MATLAB reads too: h5read('acts.h5', '/fc7')."
        )


def export(source: Path, target: Path, format: Format) -> None:
    """Converts a file of activations by an atomic write, in bounded memory (except `mat`).

    Args:
        source: HDF5 file, as `store.FeatureFile` writes it.
        target: file to write; it must not exist yet.
        format: `npz` (one array per layer, and `attributes` as JSON text), or
            `mat` (MATLAB 5; dots in layer names become underscores, and names a cell array).
    """
    with atomic(target) as part, h5py.File(source) as file:
        {"npz": _to_npz, "mat": _to_mat}[format](file, part)


def _attributes(file: h5py.File) -> dict:
    return {
        name: value.item() if isinstance(value, np.generic) else value for name, value in file.attrs.items()
    }


def _strings(dataset: h5py.Dataset) -> np.ndarray:
    return np.array([text.decode() for text in dataset[:]])


def _chunks(dataset: h5py.Dataset) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the number of the first row and the rows, chunk by chunk."""
    rows = max(1, _CHUNK // max(1, dataset.nbytes // len(dataset)))
    for start in range(0, len(dataset), rows):
        yield start, dataset[start : start + rows]


def _is_text(dataset: h5py.Dataset) -> bool:
    return dataset.dtype.kind in "OS"


def _to_npz(file: h5py.File, path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:

        def member(name: str):
            return archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)  # always of 1980

        for name, dataset in file.items():
            with member(name) as stream:
                if _is_text(dataset):
                    np.lib.format.write_array(stream, _strings(dataset))
                    continue
                header = {"descr": dataset.dtype.str, "fortran_order": False, "shape": dataset.shape}
                np.lib.format.write_array_header_2_0(stream, header)
                for _, rows in _chunks(dataset):
                    stream.write(rows.tobytes())
        with member("attributes") as stream:
            np.lib.format.write_array(stream, np.array(json.dumps(_attributes(file))))


def _to_mat(file: h5py.File, path: Path) -> None:
    variables: dict[str, object] = {"attributes": json.dumps(_attributes(file))}
    for name, dataset in file.items():
        variable = name.replace(".", "_")
        if _is_text(dataset):
            variables[variable] = _strings(dataset).astype(object)[:, None]  # a cell array
        elif dataset.dtype == np.float16:  # MATLAB has no float16
            variables[variable] = dataset[:].astype(np.float32)
        else:
            variables[variable] = dataset[:]
    with open(path, "wb") as stream:
        scipy.io.savemat(stream, variables)
