"""Measured RDMs from files, in the order of the stimuli."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import squareform

from ipcl_jax.brain.files import Arrays, describe, not_found, open_file
from ipcl_jax.brain.names import find_rows
from ipcl_jax.errors import ConfigError
from ipcl_jax.readout.base import check_rdms

_USUAL = ("rdms", "rdm", "dissimilarities")


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
    path, arrays, name = open_file(spec)
    name = _choose(path, arrays, name)
    rdms = _to_rdms(arrays[name])
    where = f"{path}:{name}"
    if rdms is None:
        raise ConfigError(
            f"{where} is {describe(arrays[name])}, expected RDMs: [N, N], [S, N, N], or [S, N (N - 1) / 2]."
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


def _choose(path: Path, arrays: Arrays, name: str | None) -> str:
    """Returns the key of the array named `name`, or of the only one that can hold RDMs."""
    if name and name in arrays:
        return name
    if name is None:
        fitting = [key for key, array in arrays.items() if _to_rdms(array) is not None]
        named = [key for key in fitting if key.rpartition("/")[2].lower() in _USUAL]
        if len(named or fitting) == 1:
            return (named or fitting)[0]
    raise not_found(path, arrays, name, _USUAL)
