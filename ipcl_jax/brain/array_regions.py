"""Regions of interest in files of arrays: masks of voxels, or a label for each voxel."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ipcl_jax.brain.files import StoredArray, describe
from ipcl_jax.brain.names import is_text
from ipcl_jax.data.sources import natural_key
from ipcl_jax.errors import ConfigError, near_miss

_KEY = "regions"
_BLANK = "\0 \t\r\n"


def find_regions(
    path: Path,
    arrays: Mapping[str, np.ndarray | StoredArray],
    key: str,
    subject: str,
    subjects: Sequence[str],
    count: int,
) -> dict[str, np.ndarray]:
    """Finds the regions of one subject; `arrays.open_arrays` describes the layout.

    Args:
        path: the file, for messages.
        arrays: its arrays, by `group/name`.
        key: of the subject's responses.
        subject: the subject's name.
        subjects: names of all subjects in the file.
        count: number V of the subject's voxels.

    Returns:
        For each region its voxels, `[v]` int64, ascending; a mask may be empty. One region `all` if the file has none.

    Raises:
        ConfigError: for an array of another length, or one that is neither masks nor labels.
    """
    level = key
    while level:
        level = level.rpartition("/")[0]
        root = f"{level}/{_KEY}" if level else _KEY
        inside = {name.removeprefix(f"{root}/"): name for name in arrays if name.startswith(f"{root}/")}
        if root in arrays and inside:
            raise ConfigError(f"{path} has both an array {root} and arrays {root}/NAME; leave one of them in the file.")
        if root in arrays:
            return _from_labels(f"{path}:{root}", arrays[root], key, count)
        if inside:
            return _from_group(path, arrays, inside, key, subject, subjects, count)
    return {"all": np.arange(count)}


def _from_group(
    path: Path,
    arrays: Mapping[str, np.ndarray | StoredArray],
    inside: Mapping[str, str],
    key: str,
    subject: str,
    subjects: Sequence[str],
    count: int,
) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for name, full in inside.items():
        owner = next((one for one in subjects if name == one or name.startswith(f"{one}/")), None)
        if owner not in (None, subject):
            continue
        where, region = f"{path}:{full}", name if owner is None else name[len(owner) + 1 :]
        if "/" in region:
            hint = near_miss(region.partition("/")[0], subjects)
            raise ConfigError(f"{where} is in a group that no subject is named after.{hint}")
        if region:
            more = {region: _from_mask(where, arrays[full], key, count)}
        else:
            more = _from_labels(where, arrays[full], key, count)
        if twice := found.keys() & more.keys():
            raise ConfigError(f"{path} has region {min(twice)} of {subject} twice; leave one of them in the file.")
        found |= more
    if not found:
        raise ConfigError(f"{path} has regions of other subjects, and none of {subject}; write them for all.")
    return found


def _from_mask(where: str, array: np.ndarray | StoredArray, key: str, count: int) -> np.ndarray:
    values = _vector(where, array, key, count)
    if values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
        raise ConfigError(
            f"{where} is no mask: it is {describe(values)}, and expected are bool, or 0 and 1. Labels of all regions "
            f"are in one array named {_KEY}, or, of one subject, {_KEY}/SUBJECT."
        )
    return np.flatnonzero(values)


def _from_labels(where: str, array: np.ndarray | StoredArray, key: str, count: int) -> dict[str, np.ndarray]:
    values = _vector(where, array, key, count)
    if (texts := _texts(values)) is not None:
        labels, names = texts, sorted(set(texts.tolist()) - {""}, key=natural_key)
    else:
        whole = values.dtype.kind in "biuf" and bool(np.isfinite(values).all() and (values == np.round(values)).all())
        if not whole or values.min() < 0:
            raise ConfigError(
                f"{where} is {describe(values)}, expected a label for each voxel: text, or whole numbers from 0, where "
                "0 (or empty text) is outside of all regions."
            )
        if values.max() <= 1:
            raise ConfigError(f"{where} is a mask without a name; name it after its region, {_KEY}/NAME.")
        labels = values.astype(np.int64).astype(str)
        names = sorted(set(labels.tolist()) - {"0"}, key=natural_key)
    if not names:
        raise ConfigError(f"{where} has no voxel in a region; all its labels are empty.")
    return {name: np.flatnonzero(labels == name) for name in names}


def _vector(where: str, array: np.ndarray | StoredArray, key: str, count: int) -> np.ndarray:
    if isinstance(array, StoredArray) or array.size != count or max(array.shape, default=0) != count:
        raise ConfigError(f"{where} is {describe(array)}, expected a value for each of the {count} voxels of {key}.")
    return array.ravel()


def _texts(values: np.ndarray) -> np.ndarray | None:
    """Returns labels that are text, `[V]` str without blanks around them; None if they are something else."""
    if values.dtype.kind == "O":  # MATLAB's empty text is an empty array
        values = np.array(["" if getattr(one, "size", 1) == 0 else one for one in values], object)
    if not is_text(values):
        return None
    decoded = [one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one) for one in values]
    return np.array([text.strip(_BLANK) for text in decoded])
