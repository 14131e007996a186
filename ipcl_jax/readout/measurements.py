"""Brain data from files: measured RDMs and responses, in the order of the stimuli.

A file is HDF5 (`.h5`; `.mat` of version 7.3 and files by rsatoolbox are HDF5 too), `.npz`, or `.mat` of version 5.
`FILE:NAME` chooses an array in it. What has names of images is ordered by them; only what has none is taken
in the order of the stimuli.
"""

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import scipy.io
from scipy.spatial.distance import squareform

from ipcl_jax.errors import ConfigError
from ipcl_jax.files import at_home
from ipcl_jax.probe import check_readable, check_room, free_room

_NAMES = ("names", "stimuli", "images", "image_names", "conditions")
_RDMS = ("rdms", "rdm", "dissimilarities")
_RESPONSES = ("responses", "betas", "voxels")
_SUFFIXES = (".h5", ".hdf5", ".hdf", ".mat", ".npz")
_SPEC = re.compile(r"(?P<file>.+\.(?:h5|hdf5|hdf|mat|npz))(?::(?P<name>[^:]+))?", re.IGNORECASE)


class MeasuredRDMs(NamedTuple):
    """RDMs of S subjects.

    Attributes:
        rdms: `[S, N, N]` float64.
        by_name: whether images were ordered by name, or else taken in the order of the stimuli.
    """

    rdms: np.ndarray
    by_name: bool


class Responses(NamedTuple):
    """Responses of S subjects.

    Attributes:
        subjects: name of each, and `[R, N, V]` float64: R repeats of N images in V voxels.
        by_name: as in `MeasuredRDMs`.
    """

    subjects: dict[str, np.ndarray]
    by_name: bool


def read_rdms(spec: str, stimuli: Sequence[str]) -> MeasuredRDMs:
    """Measured RDMs in the order of the stimuli.

    Args:
        spec: `FILE` or `FILE:NAME`. The array is `[N, N]`, `[S, N, N]`, or what is above the diagonal, row by row,
            `[S, N (N - 1) / 2]`; without NAME it is called rdms, rdm or dissimilarities, or is
            the only one of such a shape.
        stimuli: names of the N images.

    Returns:
        The RDMs.

    Raises:
        ConfigError: if there are none, or they aren't RDMs of these images.
    """
    path, arrays, name = _open(spec)
    name = _choose(path, arrays, name, _RDMS, lambda array: _as_square(array) is not None)
    rdms = _as_square(arrays[name])
    where = f"{path}:{name}"
    if rdms is None:
        raise ConfigError(
            f"{where} is {_shape(arrays[name])}, expected RDMs: [N, N], [S, N, N], or [S, N (N - 1) / 2]."
        )
    order, by_name = _order(where, _names(arrays, name), rdms.shape[-1], stimuli)
    if not np.isfinite(rdms).all():
        raise ConfigError(f"{where} holds dissimilarities that are not finite numbers.")
    largest = np.abs(rdms).max()
    if np.abs(rdms - rdms.transpose(0, 2, 1)).max() > 1e-6 * largest:
        raise ConfigError(f"{where} is not symmetric, so it holds no RDMs.")
    if np.abs(np.einsum("sii->si", rdms)).max() > 1e-6 * largest:
        raise ConfigError(
            f"{where} is not zero on its diagonal, so it holds no RDMs (similarities, perhaps?)."
        )
    return MeasuredRDMs(rdms[:, order][:, :, order], by_name)


def read_responses(spec: str, stimuli: Sequence[str]) -> Responses:
    """Measured responses in the order of the stimuli.

    Args:
        spec: `FILE` or `FILE:NAME`. An array `[N, V]`, or `[R, N, V]` with R repeats, is one subject. A
            group of such arrays (in `.npz` and `.mat` of version 5: names such as responses/one) has
            a subject in each. Without NAME it is called responses, betas or voxels.
        stimuli: names of the N images.

    Returns:
        The responses.

    Raises:
        ConfigError: if there are none, or they aren't responses to these images.
    """
    path, arrays, name = _open(spec)
    groups = {key.rpartition("/")[0] for key in arrays} - {""}
    wanted = name or next((known for known in _RESPONSES if known in arrays.keys() | groups), None)
    inside = [key for key in arrays if key.startswith(f"{wanted}/") and arrays[key].dtype.kind in "fiu"]
    if wanted in arrays:
        chosen = {wanted: arrays[wanted]}
    elif inside:
        chosen = {key.removeprefix(f"{wanted}/"): arrays[key] for key in inside}
    else:
        raise _lost(path, arrays, name, _RESPONSES)
    subjects, by_name = {}, False
    for subject, array in chosen.items():
        where = f"{path}:{wanted}" + (f"/{subject}" if wanted not in arrays else "")
        if array.ndim not in (2, 3) or array.dtype.kind not in "fiu":
            raise ConfigError(f"{where} is {_shape(array)}, expected responses: [N, V] or [R, N, V].")
        array = np.asarray(array, np.float64).reshape(-1, *array.shape[-2:])
        order, by_name = _order(where, _names(arrays, f"{wanted}/"), array.shape[1], stimuli)
        if not np.isfinite(array).all():
            raise ConfigError(f"{where} holds responses that are not finite numbers; leave those voxels out.")
        subjects[subject] = array[:, order]
    return Responses(subjects, by_name)


# --- files -------------------------------------------------------------------------------


def _open(spec: str) -> tuple[Path, dict[str, np.ndarray], str | None]:
    """A file's arrays by name (`group/array`), and the name that is asked for."""
    match = _SPEC.fullmatch(spec)
    if not match:
        raise ConfigError(
            f"{spec} is no file of brain data; its name ends in {', '.join(_SUFFIXES)}, with :NAME after it."
        )
    path, name = at_home(match["file"]), match["name"]
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
        check_room(sum(member.file_size for member in archive.infolist()), free_room())
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def _from_hdf5(path: Path) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    with h5py.File(path) as file:
        matlab = file.userblock_size >= 512

        def note(name: str, item: h5py.HLObject) -> None:
            if not isinstance(item, h5py.Dataset) or name.startswith("#") or item.shape is None:
                return
            value = item[()]
            if matlab:
                value = _from_matlab(file, item, value)
            arrays[name] = np.asarray(value)

        file.visititems(note)
    return arrays


def _from_matlab(file: h5py.File, item: h5py.Dataset, value: np.ndarray) -> np.ndarray:
    """MATLAB's arrays lie with their axes reversed, its text as numbers, its cells as references."""
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


# --- what is in them ---------------------------------------------------------------------


def _as_square(array: np.ndarray) -> np.ndarray | None:
    """RDMs `[S, N, N]`; None for an array that can't be any."""
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


def _choose(path: Path, arrays: dict, name: str | None, usual: Sequence[str], fits) -> str:
    if name and name in arrays:
        return name
    if name is None:
        fitting = [key for key, array in arrays.items() if fits(array)]
        named = [key for key in fitting if key.rpartition("/")[2].lower() in usual]
        if len(named or fitting) == 1:
            return (named or fitting)[0]
    raise _lost(path, arrays, name, usual)


def _lost(path: Path, arrays: dict, name: str | None, usual: Sequence[str]) -> ConfigError:
    what = f"no array {name!r}" if name else f"no array that is plainly the one (named {', '.join(usual)})"
    listing = ", ".join(f"{key} {_shape(array)}" for key, array in arrays.items())
    return ConfigError(f"{path} has {what}; give {path}:NAME. It has: {listing or 'nothing'}.")


def _names(arrays: dict[str, np.ndarray], beside: str) -> list[str] | None:
    """Names of images: beside the array, at the root, or among rsatoolbox's descriptors of patterns."""
    group = beside.rpartition("/")[0]
    places = [f"{group}/" if group else "", "", "pattern_descriptors/"]
    texts = {key: array for key, array in arrays.items() if array.dtype.kind in "OSU" and array.ndim == 1}
    for place in places:
        for name in _NAMES:
            if f"{place}{name}" in texts:
                return [_text(value) for value in texts[f"{place}{name}"]]
    described = [key for key in texts if key.startswith("pattern_descriptors/")]
    return [_text(value) for value in texts[described[0]]] if described else None


def _text(value: object) -> str:
    return (value.decode() if isinstance(value, bytes) else str(value)).strip()


def _order(
    where: str, names: list[str] | None, count: int, stimuli: Sequence[str]
) -> tuple[np.ndarray, bool]:
    """Which row belongs to each stimulus, and whether names say so."""
    if count != len(stimuli):
        raise ConfigError(f"{where} is of {count} images, and there are {len(stimuli)} stimuli.")
    if names is None:
        return np.arange(count), False
    if len(names) != count:
        raise ConfigError(f"{where} is of {count} images, and the names beside it are {len(names)}.")
    for short in (str, lambda name: Path(name).name, lambda name: Path(name).stem):
        there, here = [short(name) for name in names], [short(name) for name in stimuli]
        if len(set(there)) == count and set(there) == set(here):
            rows = {name: row for row, name in enumerate(there)}
            return np.array([rows[name] for name in here]), True
    if len(set(names)) < count:
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"{where} has the name {twice!r} more than once.")
    stems = {Path(name).stem for name in stimuli}
    strange = [name for name in names if Path(name).stem not in stems]
    shown = ", ".join((strange or names)[:3])
    raise ConfigError(
        f"The names beside {where} are not those of the stimuli: {shown} there, {', '.join(list(stimuli)[:3])} here."
    )


def _shape(array: np.ndarray) -> str:
    return f"{list(array.shape)} {array.dtype}"
