"""Measured responses from files, in the order of the stimuli."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ipcl_jax.brain.files import StoredArray, describe, not_found, open_file
from ipcl_jax.brain.names import MatchedRows, find_rows
from ipcl_jax.errors import ConfigError

_USUAL = ("responses", "betas", "voxels")


class MeasuredResponses(NamedTuple):
    """Responses of S subjects.

    Attributes:
        subjects: by name, `[R, N, V]` float64: R repeats of N images in V voxels.
        by_name: whether images were ordered by name, rather than assumed to be in the order of the stimuli.
        notes: messages about how they were matched to the stimuli.
    """

    subjects: dict[str, np.ndarray]
    by_name: bool
    notes: tuple[str, ...] = ()


def read_responses(spec: str, stimuli: Sequence[str]) -> MeasuredResponses:
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
    path, arrays, name = open_file(spec)
    subjects, found = {}, {}
    for subject, key in find_responses(path, arrays, name).items():
        where, array = f"{path}:{key}", arrays[key]
        check_shape(where, array)
        array = np.asarray(array, np.float64).reshape(-1, *array.shape[-2:])
        found[key] = rows = find_rows(where, arrays, key, array.shape[1], stimuli)
        # [R * repeats, N, V]
        array = array[:, rows.rows.T].reshape(-1, *rows.rows.shape[:1], array.shape[-1])
        if not np.isfinite(array).all():
            raise ConfigError(f"{where} holds responses that are not finite numbers; leave those voxels out.")
        subjects[subject] = array
    by_name = check_all_named(path, found)
    notes = tuple(dict.fromkeys(note for rows in found.values() for note in rows.notes))
    return MeasuredResponses(subjects, by_name, notes)


def find_responses(
    path: Path, arrays: Mapping[str, np.ndarray | StoredArray], name: str | None
) -> dict[str, str]:
    """Finds the array of each subject.

    Args:
        path: the file, for messages.
        arrays: its arrays, by `group/name`.
        name: of an array or a group; None for the first of responses, betas and voxels that there is.

    Returns:
        Keys of `arrays`, by the subject's name: an array's own key, or its name in the group.

    Raises:
        ConfigError: if there is no such array.
    """
    groups = {key.rpartition("/")[0] for key in arrays} - {""}
    wanted = name or next((known for known in _USUAL if known in arrays.keys() | groups), None)
    if wanted is None:
        raise not_found(path, arrays, name, _USUAL)
    if wanted in arrays:
        return {wanted: wanted}
    inside = {
        key.removeprefix(f"{wanted}/"): key for key, array in arrays.items()
        if key.startswith(f"{wanted}/") and array.dtype.kind in "fiu" and array.ndim >= 2
        and not key.startswith(f"{wanted}/regions/")
    }  # fmt: skip
    if not inside:
        raise not_found(path, arrays, name, _USUAL)
    return inside


def check_shape(where: str, array: np.ndarray | StoredArray) -> None:
    """Raises ConfigError for an array that can't hold responses, `[N, V]` or `[R, N, V]`."""
    if array.ndim not in (2, 3) or array.dtype.kind not in "fiu" or not array.size:
        raise ConfigError(f"{where} is {describe(array)}, expected responses: [N, V] or [R, N, V].")


def check_all_named(path: Path, found: Mapping[str, MatchedRows]) -> bool:
    """Returns whether subjects were matched to the stimuli by name.

    Args:
        path: the file, for the message.
        found: the rows of each subject's array, by its key.

    Raises:
        ConfigError: if only some were.
    """
    unnamed = [key for key, rows in found.items() if not rows.by_name]
    if unnamed and len(unnamed) < len(found):
        raise ConfigError(
            f"{path} has names of images for some subjects, and none for {', '.join(unnamed[:3])}; give all names."
        )
    return not unnamed
