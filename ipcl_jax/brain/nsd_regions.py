"""Regions of the Natural Scenes Dataset: atlases in files, and names of their labels.

Source: NSD Data Manual, "ROIs", cvnlab.slite.page/p/X_7BBMgghj.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ipcl_jax.brain.labels import add_regions, parse_regions, split_labels
from ipcl_jax.brain.nsd_sessions import load_image, reading
from ipcl_jax.errors import ConfigError, near_miss

_HEMISPHERES = ("lh.", "rh.")


def open_regions(
    root: Path, subject: str, asked: Sequence[str], *, space: str, resolution: str, shape: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """Finds the voxels of regions.

    Args:
        root: folder with `nsddata`.
        subject: such as `subj01`.
        asked: `ATLAS` or `ATLAS:REGION`; see `labels.parse_regions`. An atlas is the name of a file without suffix;
            `lh.` or `rh.` before it means one hemisphere, and then also comes before its regions' names.
        space: `volume` or `surface`.
        resolution: `func1pt8mm` or `func1mm`.
        shape: of the sessions.

    Returns:
        For each region `[V]` int64, ascending, in the sessions' order; empty if the subject lacks it.

    Raises:
        ConfigError: for an unknown atlas or region, or an atlas of another shape than the sessions.
    """
    regions: dict[str, np.ndarray] = {}
    suffixes: tuple[str, ...]
    if space == "surface":
        folder, suffixes = root / "nsddata/freesurfer/fsaverage/label", (".mgz",)
    else:
        folder, suffixes = root / "nsddata/ppdata" / subject / resolution / "roi", (".nii.gz", ".nii")
    for atlas, wanted in parse_regions(asked).items():
        hemisphere = atlas[:3] if atlas.startswith(_HEMISPHERES) else ""
        plain = atlas.removeprefix(hemisphere)
        if space == "surface":
            parts = [(folder / f"{side}{plain}.mgz", side) for side in _HEMISPHERES]
            labels = np.concatenate([
                _read_labels(path, (n, 1, 1)) if hemisphere in ("", side) else np.zeros(n, np.int64)
                for (path, side), n in zip(parts, shape, strict=True)
            ])
            path = parts[_HEMISPHERES.index(hemisphere)][0] if hemisphere else parts[0][0]
        else:
            path = next((p for s in suffixes if (p := folder / f"{atlas}{s}").is_file()), folder / f"{atlas}.nii.gz")
            labels = _read_labels(path, shape)
        names = _names(root, subject, plain, labels, path)
        add_regions(regions, split_labels(labels, names, wanted, path, hemisphere), path)
    return regions


def _read_labels(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Reads an atlas of a certain shape in the order of voxel numbers, `[V]`."""
    if not path.is_file():
        known = {name for p in path.parent.glob("*.*") if (name := _atlas(p))}
        raise ConfigError(f"There is no atlas {path}.{near_miss(_atlas(path), known) if known else ''}")
    with reading(path):
        labels = np.asarray(load_image(path).dataobj)
    if labels.shape != shape:
        raise ConfigError(f"{path} is {list(labels.shape)}, and the sessions are {list(shape)}: another space.")
    return labels.reshape(-1, order="F")


def _atlas(path: Path) -> str:
    """Name of the atlas in a file; empty for other files."""
    for suffix in (".nii.gz", ".nii", ".mgz"):
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix)
    return ""


def _names(root: Path, subject: str, atlas: str, labels: np.ndarray, path: Path) -> dict[int, str]:
    """Reads names of labels; an atlas of one region, whose label is 1, needs no file of names."""
    freesurfer = root / "nsddata/freesurfer"
    choices = [freesurfer / folder / "label" / f"{atlas}.mgz.ctab" for folder in (subject, "fsaverage")]
    choices.append(root / "nsddata/templates" / f"{atlas}.ctab")
    table = next((choice for choice in choices if choice.is_file()), None)
    if table:
        return read_names(table)
    if set(np.unique(labels[labels > 0]).tolist()) <= {1}:
        return {1: atlas}
    raise ConfigError(f"{path} has several regions, and the file with their names is missing: {choices[0]}.")


def read_names(path: Path) -> dict[int, str]:
    """Reads a table of labels, one a line: a number and a name, which colours may follow.

    Returns:
        Names by label, for labels above 0.

    Raises:
        ConfigError: for another line, or if two labels share a number or a name.
    """
    names: dict[int, str] = {}
    with reading(path):
        lines = path.read_text(encoding="utf-8").splitlines()
    for line in lines:
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) < 2 or not words[0].isdecimal():
            raise ConfigError(f"{path}: {line!r} is no number with a name.")
        label, name = int(words[0]), words[1]
        if label in names or (label and name in names.values()):
            raise ConfigError(f"{path}: the label {label} or its name {name!r} is there twice.")
        if label:
            names[label] = name
    return names
