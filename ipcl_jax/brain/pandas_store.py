"""Reading of numbers that pandas stored in HDF5 in its fixed format, without unpickling anything.

pandas stores a table as one array for each type, `block0_values` and so on, and the columns' labels beside it. Labels
that are not all of one type are a pickle. A pickle can run code when it is loaded, so that it is never loaded here:
its instructions are listed by `pickletools`, which runs none, and the labels are read off that list.
"""

import pickletools
from pathlib import Path

import h5py
import numpy as np

from ipcl_jax.errors import ConfigError


def find_blocks(path: Path, group: h5py.Group) -> list[tuple[h5py.Dataset, list[int | str] | None]]:
    """Returns a table's arrays `[rows, columns]`, each with the labels of its columns.

    Labels are None if they can't be read off.

    Raises:
        ConfigError: if the group is no such table.
    """
    blocks: list[tuple[h5py.Dataset, list[int | str] | None]] = []
    while f"block{len(blocks)}_values" in group:
        values, items = (group.get(f"block{len(blocks)}_{part}") for part in ("values", "items"))
        numbers = isinstance(values, h5py.Dataset) and values.ndim == 2 and values.dtype.kind in "fiu"
        if not numbers or not isinstance(items, h5py.Dataset) or not values.attrs.get("transposed", True):
            raise ConfigError(f"{path}: {group.name} is no table of numbers in pandas' fixed format.")
        labels = _labels(items)
        if labels is not None and len(labels) != values.shape[1]:
            raise ConfigError(f"{path}: {values.name} has {values.shape[1]} columns and {len(labels)} labels.")
        blocks.append((values, labels))
    if not blocks:
        raise ConfigError(f"{path}: {group.name} is no table in pandas' fixed format; it has {', '.join(group)}.")
    return blocks


def _labels(items: h5py.Dataset) -> list[int | str] | None:
    if items.dtype.kind in "iu":
        return [int(label) for label in items[:].ravel()]
    if items.dtype.kind == "S":
        return [label.decode("utf-8", "replace") for label in items[:].ravel()]
    if items.dtype.kind == "O" and items.shape == (1,) and isinstance(items[0], np.ndarray):
        return _listed(items[0].astype(np.uint8).tobytes())
    return None


def _listed(pickle: bytes) -> list[int | str] | None:
    """Reads off the elements of the one list in a pickled array of objects; None if there is anything else in it."""
    labels: list[int | str] = []
    lists, inside = 0, False
    try:
        for instruction, value, _ in pickletools.genops(pickle):
            match instruction.name:
                case "EMPTY_LIST":
                    lists += 1
                case "MARK" if lists:
                    inside = True
                case "APPEND" | "APPENDS":
                    inside = False
                case "MEMOIZE" | "BINPUT" | "LONG_BINPUT" | "FRAME":
                    pass
                case "BININT" | "BININT1" | "BININT2" | "LONG1" | "SHORT_BINUNICODE" | "BINUNICODE" if lists:
                    labels.append(value if isinstance(value, str) else int(value or 0))
                case "TUPLE" | "BUILD" | "STOP" if not inside:
                    pass
                case _ if lists:
                    return None
    except ValueError:  # no pickle
        return None
    return labels if lists == 1 else None
