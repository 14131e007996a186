"""The two tables that come with a subject's responses in THINGS-fMRI: of its trials, and of its voxels."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ipcl_jax.brain.names import normalise_name
from ipcl_jax.errors import ConfigError, near_miss

if TYPE_CHECKING:
    import pandas as pd

_LOCALISED = (
    "V1", "V2", "V3", "hV4", "VO1", "VO2", "LO1 (prf)", "LO2 (prf)", "TO1", "TO2", "V3b", "V3a",
    "EBA", "FFA", "OFA", "STS", "PPA", "RSC", "TOS", "LOC", "IT",
)  # fmt: skip
_NO_REGIONS = ("voxel_", "subject_", "nc_", "splithalf_", "prf-")


class Trials(NamedTuple):
    """The T trials of a subject, and the n images shown in them.

    Attributes:
        ids: `[T]` the file's `trial_id`.
        sessions: `[T]` numbers of the sessions.
        images: names, in the order in which they were first listed.
        shown: `[T]` place in `images`.
        test: names of the test images.
        test_repeats: number of trials of each test image.
    """

    ids: np.ndarray
    sessions: np.ndarray
    images: tuple[str, ...]
    shown: np.ndarray
    test: frozenset[str]
    test_repeats: int


class Voxels(NamedTuple):
    """The V voxels of a subject.

    Attributes:
        ids: `[V]` the file's `voxel_id`, ascending.
        noise_ceiling: `[V]` explainable share of variance of the mean over a test image's trials, 0 to 1.
        regions: by name, the `voxel_id` of those in it, ascending.
        missing: regions that were looked for without being asked for, and that have no voxels.
    """

    ids: np.ndarray
    noise_ceiling: np.ndarray
    regions: dict[str, np.ndarray]
    missing: tuple[str, ...]


def read_trials(path: Path, subject: str) -> Trials:
    """Reads `StimulusMetadata.csv`.

    Raises:
        ConfigError: if it lacks columns, is of another subject, or contradicts itself.
    """
    table = _read(path, subject, ("trial_type", "session", "trial_id", "stimulus"))
    types = table["trial_type"].astype(str)
    if odd := sorted(set(types) - {"train", "test"}):
        raise ConfigError(f"{path} has the trial_type {odd[0]!r}, expected train or test.")
    names = [normalise_name(name) for name in table["stimulus"]]
    images = tuple(dict.fromkeys(names))
    place = {name: i for i, name in enumerate(images)}
    shown = np.array([place[name] for name in names], np.int64)
    is_test = np.zeros(len(images), bool)
    is_test[shown[types == "test"]] = True
    if both := sorted(images[i] for i in set(shown[types == "train"]) if is_test[i]):
        raise ConfigError(f"{path} has {both[0]} both as a training and as a test image.")
    repeats = np.unique(np.bincount(shown)[is_test])
    if len(repeats) != 1:
        raise ConfigError(f"{path} has test images of {repeats.tolist()} trials; all should have the same number.")
    return Trials(
        _integers(path, table, "trial_id", unique=True),
        _integers(path, table, "session"),
        images,
        shown,
        frozenset(name for name, test in zip(images, is_test, strict=True) if test),
        int(repeats[0]),
    )


def read_voxels(path: Path, subject: str, regions: Sequence[str] | None) -> Voxels:
    """Reads `VoxelMetadata.csv`, of which only the columns needed are loaded.

    Args:
        path: the file.
        subject: its name.
        regions: as for `open_things_fmri`.

    Raises:
        ConfigError: if it lacks columns, is of another subject, or a region is unknown or empty.
    """
    columns = [name for name in _columns(path) if not name.startswith(_NO_REGIONS)]
    parts = {
        name: [part for part in (name, f"l{name}", f"r{name}") if part in columns] for name in regions or _LOCALISED
    }
    if unknown := [name for name in regions or () if not parts[name]]:
        both = {name[1:] for name in columns if f"l{name[1:]}" in columns and f"r{name[1:]}" in columns}
        atlas = unknown[0].startswith("glasser")  # 180 names, two with a line break
        known = {name.replace("\n", "\\n") for name in {*columns, *both} if name.startswith("glasser") == atlas}
        raise ConfigError(f"{path} has no region {unknown[0]!r}.{near_miss(unknown[0], known)}")
    needed = dict.fromkeys(part for group in parts.values() for part in group)
    table = _read(path, subject, ("voxel_id", "nc_testset", *needed))
    ids = _integers(path, table, "voxel_id", unique=True)
    order = np.argsort(ids)
    ceiling = table["nc_testset"].to_numpy(np.float64, na_value=np.nan)[order]
    if not ((ceiling >= 0) & (ceiling <= 100) | np.isnan(ceiling)).all():
        raise ConfigError(f"{path} has values of nc_testset outside 0 to 100 %.")
    found = {}
    for name, group in parts.items():
        inside = np.zeros(len(ids), bool)
        for part in group:
            if not table[part].isin([0, 1]).all():
                raise ConfigError(f"{path}: the column {part!r} has other values than 0 and 1; it is no region.")
            inside |= table[part].to_numpy()[order] == 1
        found[name] = ids[order][inside]
    empty = tuple(name for name, voxels in found.items() if not voxels.size)
    if empty and (regions or len(empty) == len(found)):
        raise ConfigError(f"{path} has no voxels in {empty[0]}.")
    return Voxels(ids[order], ceiling / 100, {name: v for name, v in found.items() if v.size}, empty)


def _separator(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return "\t" if "\t" in file.readline() else ","  # OpenNeuro's files end in .tsv, and some have commas


def _columns(path: Path) -> list[str]:
    import pandas as pd

    return list(_parsed(path, lambda: pd.read_csv(path, sep=_separator(path), nrows=0)).columns)


def _read(path: Path, subject: str, needed: Sequence[str]) -> "pd.DataFrame":
    import pandas as pd

    known = _columns(path)
    if missing := [name for name in needed if name not in known]:
        raise ConfigError(f"{path} has no column {missing[0]!r}; it has {known[:12]} and so on.")
    wanted = [*needed, *({"subject_id"} & {*known})]
    table = _parsed(path, lambda: pd.read_csv(path, sep=_separator(path), usecols=wanted))
    if table.empty:
        raise ConfigError(f"{path} has no rows.")
    if "subject_id" in table and (_integers(path, table, "subject_id") != int(subject.removeprefix("sub-"))).any():
        raise ConfigError(f"{path} is of subject {table['subject_id'].iloc[0]}, not of {subject}.")
    return table


def _parsed(path: Path, parse: Callable[[], "pd.DataFrame"]) -> "pd.DataFrame":
    try:
        return parse()
    except (ValueError, OSError) as error:  # pandas' and Unicode's errors are ValueErrors
        raise ConfigError(f"{path} can't be read: {error}") from None


def _integers(path: Path, table: "pd.DataFrame", column: str, *, unique: bool = False) -> np.ndarray:
    values = table[column].to_numpy()
    if values.dtype.kind not in "iu":
        raise ConfigError(f"{path}: the column {column!r} holds something else than whole numbers.")
    if unique and len(set(values)) < len(values):
        raise ConfigError(f"{path} has the same {column} twice.")
    return values.astype(np.int64)
