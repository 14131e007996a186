"""Classes of images from a list, for data sets without class folders, such as ImageNet's validation set."""

import csv
import os
from pathlib import Path

import numpy as np

from ipcl_jax.data.folder import VAL_NAMES
from ipcl_jax.errors import ConfigError

_IDS = "ILSVRC2012_validation_ground_truth.txt"


def read_classes(path: Path, names: list[str]) -> dict[str, str]:
    """Reads the class of every image.

    Args:
        path: a text file with a line per image: its name and its class, separated by a blank, tab or comma (such as
            Kaggle's LOC_val_solution.csv, whose further columns are ignored); or ImageNet's
            `ILSVRC2012_validation_ground_truth.txt`, a number per image in the order of their names,
            with `meta.mat` beside it or in the folder `data` above it.
        names: of the images, in natural order. The list may omit their suffixes.

    Returns:
        The class of each name.

    Raises:
        ConfigError: if the list can't be read or lacks an image.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, ValueError) as error:
        raise ConfigError(f"--val-labels {path} can't be read: {error}") from None
    rows = [row for row in map(_fields, lines) if row]
    if rows and all(len(row) == 1 and row[0].isdecimal() for row in rows):
        found = _by_number(path, [int(row[0]) for row in rows], names)
    else:
        found = _by_name(path, rows, names)
    if unfit := sorted({label for label in found.values() if label in (".", "..") or "/" in label}):
        raise ConfigError(f"--val-labels {path} has the class {unfit[0]!r}, which can't be a folder's name.")
    return found


def class_paths(path: Path, folder: Path, names: list[str]) -> dict[str, str]:
    """Makes paths with a folder of the class, for images directly in the folder of held-out images.

    Args:
        path: of the list of classes; see `read_classes`.
        folder: of the images.
        names: paths of the images in it, in natural order; others than those in `val` itself are ignored.

    Returns:
        The new path of each such image by its old one.

    Raises:
        ConfigError: if there are no such images, or as `read_classes`.
    """
    flat = [name for name in names if os.path.dirname(name).lower() in ("", *VAL_NAMES)]
    if not flat:
        raise ConfigError(f"--val-labels is given, but no image lies in {folder} or {folder / 'val'} itself.")
    classes = read_classes(path, flat)
    return {name: os.path.join(os.path.dirname(name), classes[name], os.path.basename(name)) for name in flat}


def _fields(line: str) -> list[str]:
    return next(csv.reader([line]), []) if "," in line else line.split()


def _by_name(path: Path, rows: list[list[str]], names: list[str]) -> dict[str, str]:
    if short := next((row for row in rows if len(row) < 2), None):
        raise ConfigError(f"--val-labels {path} has the line {' '.join(short)!r}, expected a name and a class.")
    listed: dict[str, str] = {}
    for name, label in ((Path(row[0].strip()), row[1].split()[0] if row[1].split() else "") for row in rows):
        if listed.setdefault(name.stem, label) != label:
            raise ConfigError(f"--val-labels {path} has two classes for {name.stem}.")
    lacking = [name for name in names if not listed.get(Path(name).stem)]
    if lacking:
        raise ConfigError(
            f"--val-labels {path} lacks {len(lacking):,} of {len(names):,} images, such as {lacking[0]}."
        )
    return {name: listed[Path(name).stem] for name in names}


def _by_number(path: Path, numbers: list[int], names: list[str]) -> dict[str, str]:
    if len(numbers) != len(names):
        raise ConfigError(f"--val-labels {path} is of {len(numbers):,} images, and there are {len(names):,}.")
    places = [path.parent / "meta.mat", path.parent / "data" / "meta.mat"]
    meta = next((place for place in places if place.is_file()), None)
    if meta is None:
        raise ConfigError(
            f"--val-labels {path} has numbers of classes; their names are in meta.mat of the same development kit, "
            f"which is expected beside it."
        )
    classes = _synsets(meta)
    if unknown := sorted(set(numbers) - set(classes)):
        raise ConfigError(f"--val-labels {path} has the class {unknown[0]}, which {meta} lacks.")
    return {name: classes[number] for name, number in zip(names, numbers, strict=True)}


def _synsets(meta: Path) -> dict[int, str]:
    """Reads the folder name of each class number from the development kit's table of classes.

    The table also has the groups that classes belong to, whose numbers are no image's.
    """
    from scipy.io import loadmat

    try:
        table = loadmat(meta, squeeze_me=True)["synsets"]
        classes = table[table["num_children"] == 0] if "num_children" in table.dtype.names else table
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in np.atleast_1d(classes)}
    except Exception as error:  # damaged files raise almost any exception
        raise ConfigError(f"{meta} can't be read as the development kit's table of classes: {error!r}") from None
