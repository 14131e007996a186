"""Checks of what is asked of a data set: subjects, regions and voxels."""

import re
from collections.abc import Iterable, Sequence

import numpy as np

from ipcl_jax.errors import ConfigError, InputError, near_miss


def choose_subjects(given: Sequence[str] | None, available: Iterable[str], *, where: str = "") -> tuple[str, ...]:
    """Finds subjects by what a user calls them.

    Args:
        given: names, in upper or lower case, with or without punctuation and leading zeros (`subj01`, `Subj-1`), or
            numbers alone (`1`, `01`); none, or `all`, for every subject.
        available: names of the subjects there are.
        where: the file or folder, for messages.

    Returns:
        Names from `available`, each once, in the order given.

    Raises:
        ConfigError: for a name that fits no subject, or several, or a subject given twice.
    """
    available, given = tuple(available), _listed(given)
    if not given or ("all" in given and "all" not in available):
        return available
    return _each_once("subject", [_choose_subject(str(name), available, where) for name in given])


def _choose_subject(name: str, available: Sequence[str], where: str) -> str:
    if name in available:
        return name
    words, numbers = _words_and_numbers(name)
    found = [one for one in available if _words_and_numbers(one) == (words, numbers)]
    if not found and numbers and not words:
        found = [one for one in available if _words_and_numbers(one)[1] == numbers]
    return _only("subject", name, found, available, where)


def _words_and_numbers(name: str) -> tuple[list[str], list[int]]:
    words, numbers = re.findall(r"[^\W\d_]+", name.casefold()), re.findall(r"[0-9]+", name)
    return words, [int(number) for number in numbers]


def choose_regions(given: Sequence[str] | None, available: Iterable[str], *, where: str = "") -> tuple[str, ...]:
    """Finds regions by what a user calls them.

    Args:
        given: names, in upper or lower case if that isn't what tells regions apart; none, or `all`, for every region.
        available: names of the regions that there are in any subject.
        where: the file or folder, for messages.

    Returns:
        Names from `available`, each once, in the order given.

    Raises:
        ConfigError: for a name that fits no region, or several, or a region given twice.
    """
    available, given = tuple(available), _listed(given)
    if not given or "all" in given:
        return available
    found = []
    for name in given:
        same = [one for one in available if one.casefold() == name.casefold()]
        found.append(name if name in available else _only("region", name, same, available, where))
    return _each_once("region", found)


def _listed(given: Sequence[str] | None) -> list[str]:
    return [given] if isinstance(given, str) else list(given or ())


def _only(kind: str, name: str, found: Sequence[str], available: Sequence[str], where: str) -> str:
    if len(found) > 1:
        raise ConfigError(f"{name} can be {kind} {' or '.join(found)}; write the whole name.")
    if not found:
        place = f" in {where}" if where else ""
        raise ConfigError(f"There is no {kind} {name!r}{place}.{near_miss(name, available)}")
    return found[0]


def _each_once(kind: str, names: list[str]) -> tuple[str, ...]:
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"The {kind} {twice[0]} is named twice.")
    return tuple(names)


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
