"""Reading of brain data from files: measured RDMs and responses, in the order of the stimuli.

A file is HDF5 (`.h5`; `.mat` of version 7.3 and files by rsatoolbox are HDF5 too), `.npz`, or `.mat` of version 5.
`FILE:NAME` chooses an array in it. Arrays with names of images are ordered by them (see `names.find_rows`); arrays
without names must be in the order of the stimuli.
"""

import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import scipy.io
from scipy.spatial.distance import squareform

from ipcl_jax.errors import ConfigError
from ipcl_jax.readout.base import check_rdms
from ipcl_jax.readout.names import find_rows, is_text
from ipcl_jax.system.files import expand_home
from ipcl_jax.system.probe import check_memory, check_readable, free_memory

_RDMS = ("rdms", "rdm", "dissimilarities")
_RESPONSES = ("responses", "betas", "voxels")
_SUFFIXES = (".h5", ".hdf5", ".hdf", ".mat", ".npz")
_SPEC = re.compile(r"(?P<file>.+\.(?:h5|hdf5|hdf|mat|npz))(?::(?P<name>[^:]+))?", re.IGNORECASE)


class MeasuredRDMs(NamedTuple):
    """RDMs of S subjects.

    Attributes:
        rdms: `[S, N, N]` float64.
        by_name: whether images were ordered by name, rather than assumed to be in the order of the stimuli.
        notes: messages about how they were matched to the stimuli.
    """

    rdms: np.ndarray
    by_name: bool
    notes: tuple[str, ...] = ()


class Responses(NamedTuple):
    """Responses of S subjects.

    Attributes:
        subjects: by name, `[R, N, V]` float64: R repeats of N images in V voxels.
        by_name: as in `MeasuredRDMs`.
        notes: as in `MeasuredRDMs`.
    """

    subjects: dict[str, np.ndarray]
    by_name: bool
    notes: tuple[str, ...] = ()


def read_rdms(spec: str, stimuli: Sequence[str]) -> MeasuredRDMs:
    """Reads measured RDMs in the order of the stimuli.

    Args:
        spec: `FILE` or `FILE:NAME`. The array is `[N, N]`, `[S, N, N]`, or the entries above the diagonal, row by row,
            `[S, N (N - 1) / 2]`. Without NAME, it is the array named rdms, rdm or dissimilarities, or the only one
            of such a shape.
        stimuli: names of the N images.

    Returns:
        The RDMs.

    Raises:
        ConfigError: if there is no such array, or it doesn't hold RDMs of these images.
    """
    path, arrays, name = _open(spec)
    name = _choose(path, arrays, name, _RDMS, lambda array: _to_rdms(array) is not None)
    rdms = _to_rdms(arrays[name])
    where = f"{path}:{name}"
    if rdms is None:
        raise ConfigError(
            f"{where} is {_describe(arrays[name])}, expected RDMs: [N, N], [S, N, N], or [S, N (N - 1) / 2]."
        )
    found = find_rows(where, arrays, name, rdms.shape[-1], stimuli)
    if found.rows.shape[1] > 1:
        raise ConfigError(
            f"{where} has each image {found.rows.shape[1]} times; an RDM has it once. Average the responses to an "
            "image before the RDM, or give them as --responses."
        )
    rdms = rdms[:, found.rows[:, 0]][:, :, found.rows[:, 0]]
    check_rdms(rdms, where, ConfigError)
    return MeasuredRDMs(rdms, found.by_name, found.notes)


def read_responses(spec: str, stimuli: Sequence[str]) -> Responses:
    """Reads measured responses in the order of the stimuli.

    Args:
        spec: `FILE` or `FILE:NAME`. An array `[N, V]`, or `[R, N, V]` with R repeats, is one subject. A
            group of such arrays (in `.npz` and `.mat` of version 5: names such as responses/one) has one array per
            subject. Without NAME, it is named responses, betas or voxels. If names of images are repeated (one row
            per trial), rows with the same name are repeats.
        stimuli: names of the N images.

    Returns:
        The responses.

    Raises:
        ConfigError: if there is no such array, or it doesn't hold responses to these images.
    """
    path, arrays, name = _open(spec)
    groups = {key.rpartition("/")[0] for key in arrays} - {""}
    wanted = name or next((known for known in _RESPONSES if known in arrays.keys() | groups), None)
    inside = [key for key in arrays if key.startswith(f"{wanted}/") and _is_numeric(arrays[key])]
    if wanted in arrays:
        chosen = {wanted: arrays[wanted]}
    elif inside:
        chosen = {key.removeprefix(f"{wanted}/"): arrays[key] for key in inside}
    else:
        raise _not_found(path, arrays, name, _RESPONSES)
    subjects, found = {}, {}
    for subject, array in chosen.items():
        key = wanted if wanted in arrays else f"{wanted}/{subject}"
        where = f"{path}:{key}"
        if array.ndim not in (2, 3) or array.dtype.kind not in "fiu" or not array.size:
            raise ConfigError(f"{where} is {_describe(array)}, expected responses: [N, V] or [R, N, V].")
        array = np.asarray(array, np.float64).reshape(-1, *array.shape[-2:])
        found[key] = rows = find_rows(where, arrays, key, array.shape[1], stimuli)
        array = array[:, rows.rows.T].reshape(
            -1, *rows.rows.shape[:1], array.shape[-1]
        )  # [R * repeats, N, V]
        if not np.isfinite(array).all():
            raise ConfigError(f"{where} holds responses that are not finite numbers; leave those voxels out.")
        subjects[subject] = array
    unnamed = [key for key, rows in found.items() if not rows.by_name]
    if unnamed and len(unnamed) < len(found):
        raise ConfigError(
            f"{path} has names of images for some subjects, and none for {', '.join(unnamed[:3])}; give all names."
        )
    notes = tuple(dict.fromkeys(note for rows in found.values() for note in rows.notes))
    return Responses(subjects, not unnamed, notes)


# --- files -------------------------------------------------------------------------------


def _open(spec: str) -> tuple[Path, dict[str, np.ndarray], str | None]:
    """Reads a file's arrays, by name (`group/array`); returns its path, these arrays, and the name in `spec`."""
    match = _SPEC.fullmatch(spec)
    if not match:
        raise ConfigError(
            f"{spec} is no file of brain data; its name ends in {', '.join(_SUFFIXES)}, with :NAME after it."
        )
    path, name = expand_home(match["file"]), match["name"]
    if not path.is_file():
        raise ConfigError(f"There is no file {path}.")
    try:
        if h5py.is_hdf5(path):
            check_readable(path, "hdf5", whole=True)
            arrays = _from_hdf5(path)
        elif path.suffix.lower() == ".npz":
            arrays = _from_npz(path)
        elif path.suffix.lower() == ".mat":
            check_readable(path, "mat", whole=True)
            arrays = _flatten(scipy.io.loadmat(path, simplify_cells=True))
        else:
            raise ValueError("it is not HDF5")
    except ConfigError:
        raise
    except Exception as error:  # damaged files raise almost anything
        raise ConfigError(f"{path} can't be read: {error}") from error
    return path, arrays, name and name.strip("/")


def _from_npz(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        check_memory(sum(member.file_size for member in archive.infolist()), free_memory())
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def _from_hdf5(path: Path) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    with h5py.File(path) as file:
        matlab = file.userblock_size >= 512

        def note(name: str, item: h5py.HLObject) -> None:
            for key, text in item.attrs.items():
                if np.ndim(text) and is_text(np.asarray(text)):
                    arrays[f"{name}@{key}"] = np.asarray(text)
            if not isinstance(item, h5py.Dataset) or name.startswith("#") or item.shape is None:
                return
            value = item[()]
            if matlab:
                value = _from_matlab(file, item, value)
            arrays[name] = np.asarray(value)

        note("", file)
        file.visititems(note)
    return arrays


def _from_matlab(file: h5py.File, item: h5py.Dataset, value: np.ndarray) -> np.ndarray:
    """Converts an array of MATLAB: axes are stored reversed, text as numbers, and cells as references."""
    if item.dtype.kind == "O":
        return np.array(["".join(map(chr, file[reference][()].ravel())) for reference in value.T.ravel()])
    if item.attrs.get("MATLAB_class") == b"char":
        return np.array(["".join(map(chr, row)) for row in value.T])
    return value.T


def _flatten(tree: dict, prefix: str = "") -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for name, value in tree.items():
        if name.startswith("__"):
            continue
        if isinstance(value, dict):
            arrays |= _flatten(value, f"{prefix}{name}/")
        else:
            arrays[prefix + name] = np.asarray(value)
    return arrays


# --- arrays in them ------------------------------------------------------------------------


def _to_rdms(array: np.ndarray) -> np.ndarray | None:
    """Returns an array of RDMs as `[S, N, N]`; None if its shape or dtype isn't one of RDMs."""
    if array.dtype.kind not in "fiu" or not 1 <= array.ndim <= 3 or not array.size:
        return None
    array = np.asarray(array, np.float64)
    if array.ndim >= 2 and array.shape[-1] == array.shape[-2] > 1:
        return array.reshape(-1, *array.shape[-2:])
    pairs = array.shape[-1]
    count = round((1 + np.sqrt(1 + 8 * pairs)) / 2)
    if array.ndim == 3 or pairs < 3 or count * (count - 1) != 2 * pairs:
        return None
    return np.stack([squareform(row) for row in np.atleast_2d(array)])


def _choose(
    path: Path,
    arrays: dict[str, np.ndarray],
    name: str | None,
    usual: Sequence[str],
    fits: Callable[[np.ndarray], bool],
) -> str:
    """Returns the key of the array named `name`, or of the only one that fits."""
    if name and name in arrays:
        return name
    if name is None:
        fitting = [key for key, array in arrays.items() if fits(array)]
        named = [key for key in fitting if key.rpartition("/")[2].lower() in usual]
        if len(named or fitting) == 1:
            return (named or fitting)[0]
    raise _not_found(path, arrays, name, usual)


def _not_found(path: Path, arrays: dict, name: str | None, usual: Sequence[str]) -> ConfigError:
    what = f"no array {name!r}" if name else f"no single array of that kind (named {', '.join(usual)})"
    listing = ", ".join(f"{key} {_describe(array)}" for key, array in arrays.items())
    return ConfigError(f"{path} has {what}; give {path}:NAME. It has: {listing or 'nothing'}.")


def _is_numeric(array: np.ndarray) -> bool:
    return array.dtype.kind in "fiu" and array.ndim >= 2


def _describe(array: np.ndarray) -> str:
    return f"{list(array.shape)} {array.dtype}"
