"""Regions from arrays of labels: which are asked for, and where each lies."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ipcl_jax.errors import ConfigError, InputError, near_miss


def parse_regions(asked: Sequence[str]) -> dict[str, set[str]]:
    """Sorts regions by atlas: `streams` stands for all regions of an atlas, `streams:ventral` for one of them.

    Returns:
        For each atlas the names asked for; an empty set stands for all.

    Raises:
        ConfigError: if none is asked for, or one is written otherwise.
    """
    atlases: dict[str, set[str]] = {}
    if not asked:
        raise ConfigError("No regions are asked for; name an atlas, such as streams, or one region: streams:ventral.")
    for text in asked:
        atlas, colon, name = text.partition(":")
        if not atlas or (colon and not name):
            raise ConfigError(f"{text!r} is no region: write ATLAS, or ATLAS:REGION, such as streams:ventral.")
        everything = not name or atlases.get(atlas) == set()
        atlases[atlas] = set() if everything else atlases.get(atlas, set()) | {name}
    return atlases


def split_labels(
    labels: np.ndarray, names: Mapping[int, str], asked: set[str], path: Path, prefix: str = ""
) -> dict[str, np.ndarray]:
    """Finds where each region lies.

    Args:
        labels: `[V]` numbers; 0, negative numbers and NaN mean none.
        names: of labels above 0.
        asked: names wanted; empty for all.
        path: the file that holds the labels, for messages.
        prefix: before each region's name in the result.

    Returns:
        For each name `[n]` int64, ascending; empty where the file has no voxel of it.

    Raises:
        ConfigError: for labels that are no whole numbers or have no name, or a name that isn't among them.
    """
    if unknown := sorted(asked - set(names.values())):
        raise ConfigError(f"{path} has no region {unknown[0]!r}.{near_miss(unknown[0], names.values())}")
    labels = np.where(np.isfinite(labels), labels, 0) if labels.dtype.kind == "f" else labels
    if labels.dtype.kind not in "iufb" or (labels != np.rint(labels)).any():
        raise ConfigError(f"{path} holds {labels.dtype} numbers that are no labels: they are not whole.")
    if nameless := sorted(set(np.unique(labels[labels > 0]).astype(int).tolist()) - set(names)):
        raise ConfigError(f"{path} has the label {nameless[0]}, which has no name. Known: {dict(names)}.")
    return {
        prefix + name: np.flatnonzero(labels == label).astype(np.int64)
        for label, name in names.items()
        if not asked or name in asked
    }


def add_regions(regions: dict[str, np.ndarray], more: Mapping[str, np.ndarray], path: Path) -> None:
    """Adds regions of another atlas.

    Raises:
        ConfigError: if two have one name.
    """
    if twice := sorted(set(regions) & set(more)):
        raise ConfigError(f"{path} and another atlas both have a region {twice[0]!r}; use one of them at a time.")
    regions.update(more)


def check_voxels(voxels: np.ndarray, size: int, subject: str) -> np.ndarray:
    """Returns numbers of voxels as int64.

    Args:
        voxels: `[V]` int.
        size: number of voxels that the subject has.
        subject: its name.

    Raises:
        InputError: unless they are whole, ascending, each once and from 0 to below `size`.
    """
    voxels = np.asarray(voxels)
    if voxels.ndim != 1 or (len(voxels) and voxels.dtype.kind not in "iu") or (np.diff(voxels) <= 0).any():
        raise InputError("Numbers of voxels must be whole, [V], ascending, each once.")
    if len(voxels) and not 0 <= voxels[0] <= voxels[-1] < size:
        raise InputError(f"Voxels are numbered from {voxels[0]} to {voxels[-1]}; {subject} has 0 to {size - 1}.")
    return voxels.astype(np.int64)
