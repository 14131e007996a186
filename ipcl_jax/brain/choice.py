"""Checks of what is asked of a data set: subjects, regions and voxels."""

from collections.abc import Iterable, Sequence

import numpy as np

from ipcl_jax.errors import ConfigError, InputError, near_miss


def choose(kind: str, asked: Sequence[str] | None, known: Iterable[str]) -> tuple[str, ...]:
    """Returns the names that were asked for, or all if none were.

    Args:
        kind: what they name, such as `subject`, for messages.
        asked: names, each once; None or empty for all.
        known: all names.

    Raises:
        ConfigError: for an unknown name, or one given twice.
    """
    known = tuple(known)
    if not asked:
        return known
    for name in asked:
        if name not in known:
            raise ConfigError(f"There is no {kind} {name!r}.{near_miss(name, known)}")
        if asked.count(name) > 1:
            raise ConfigError(f"The {kind} {name!r} is named twice.")
    return tuple(asked)


def check_voxels(name: str, voxels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Checks numbers of voxels and returns them as int64.

    Args:
        name: the subject's, for messages.
        voxels: `[V]` numbers.
        known: numbers of all voxels of the subject, ascending.

    Raises:
        InputError: if they aren't integers, ascending, each once and among `known`.
    """
    voxels = np.asarray(voxels)
    if voxels.ndim != 1 or voxels.dtype.kind not in "iu" or not len(voxels):
        raise InputError(f"Voxels are {voxels.dtype} {list(voxels.shape)}, expected integers [V].")
    if (np.diff(voxels.astype(np.int64)) <= 0).any():
        raise InputError("Voxels are not ascending, each once; sort them with numpy.unique.")
    if (unknown := voxels[~np.isin(voxels, known)]).size:
        raise InputError(
            f"{name} has no voxel {unknown[0]}; {unknown.size} of {voxels.size} voxels are in none of its regions."
        )
    return voxels.astype(np.int64)
