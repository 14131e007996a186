"""Matching of the names of measured images with the names of stimuli."""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ipcl_jax.errors import ConfigError

_SUFFIX = re.compile(r"\.[A-Za-z]\w{1,4}$")


def normalise_name(name: object) -> str:
    """Normalises a name for comparison: Unicode's form NFC, slashes, no byte order mark or surrounding blanks."""
    text = name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else str(name)
    text = unicodedata.normalize("NFC", text.replace("\\", "/")).strip("\ufeff\0 \t\r\n")
    return text.removeprefix("./")


def match_names(names: Sequence[object], stimuli: Sequence[str]) -> list[list[int]] | None:
    """Finds the rows of each stimulus in a list of names.

    Full names are compared first, then names without leading folders and without suffix, until each stimulus has
    rows. A comparison is used only if all stimuli, and all names found, stay different.

    Args:
        names: names of R rows; names of other images and repeated names are allowed.
        stimuli: N names.

    Returns:
        For each stimulus its rows, in ascending order; None if no comparison finds all stimuli.
    """
    return next((rows for rows in _comparisons(names, stimuli) if all(rows)), None)


def match_some(names: Sequence[object], stimuli: Sequence[str]) -> list[list[int]] | None:
    """As `match_names`, but stimuli may lack rows, and each row must belong to a stimulus."""
    return next((rows for rows in _comparisons(names, stimuli) if sum(map(len, rows)) == len(names)), None)


def unmatched_stimuli(names: Sequence[object], stimuli: Sequence[str]) -> list[str]:
    """Returns the stimuli that a list of names lacks, by the comparison that finds most."""
    nothing: list[list[int]] = [[] for _ in stimuli]
    found = max(_comparisons(names, stimuli), key=lambda rows: sum(map(bool, rows)), default=nothing)
    return [name for name, rows in zip(stimuli, found, strict=True) if not rows]


def _comparisons(names: Sequence[object], stimuli: Sequence[str]) -> Iterator[list[list[int]]]:
    there, here = [normalise_name(name) for name in names], [normalise_name(name) for name in stimuli]
    depth = max((name.count("/") + 1 for name in (*there, *here)), default=1)
    for parts in range(depth, 0, -1):
        for suffix in (True, False):
            short = {name: _short(name, parts, suffix) for name in (*there, *here)}
            keys = [short[name] for name in here]
            wanted = set(keys)
            found = {name for name in there if short[name] in wanted}
            if len(wanted) < len(here) or len({short[name] for name in found}) < len(found):
                continue  # two names would become equal
            rows: dict[str, list[int]] = {key: [] for key in keys}
            for row, name in enumerate(there):
                if short[name] in wanted:
                    rows[short[name]].append(row)
            yield [rows[key] for key in keys]


def _short(name: str, parts: int, suffix: bool) -> str:
    name = "/".join(name.split("/")[-parts:])
    return name if suffix else _SUFFIX.sub("", name)


_LIKE_NAMES = re.compile(r"stim|image|img|picture|condition|file|name|^ids?$|_ids?$", re.IGNORECASE)


class MatchedRows(NamedTuple):
    """Rows of an array that belong to the stimuli.

    Attributes:
        rows: `[N, R]`: row numbers of the R measurements of each stimulus.
        by_name: whether they were matched by name.
        seen: `[N]`: numbers of the stimuli that have rows, ascending.
        notes: messages about the match.
    """

    rows: np.ndarray
    by_name: bool
    seen: np.ndarray
    notes: tuple[str, ...] = ()


def find_rows(
    where: str,
    arrays: Mapping[str, Any],
    key: str,
    count: int,
    stimuli: Sequence[str],
    *,
    some: bool = False,
) -> MatchedRows:
    """Finds the rows of an array that belong to each stimulus.

    Names of images are text arrays of any name with one entry per image: in the array's group, in a group that
    contains it, among rsatoolbox's descriptors, or an HDF5 attribute. Of several that match the stimuli, the nearest
    to the array is used; text that doesn't match is an error. If there is no text, arrays of integers whose name
    refers to images (such as stimulus_id) are used as names.

    Args:
        where: file and name of the array, for messages.
        arrays: all arrays of the file, by `group/name`; attributes by `group/name@attribute`. Those that are
            neither text nor vectors need only shape, dtype, ndim and size.
        key: key of the array in `arrays`.
        count: number of the array's images.
        stimuli: names of the images.
        some: whether stimuli may lack rows if the file's names are text and each is a stimulus's. (Not integers:
            one can't tell whether they count from 0 or from 1 unless all stimuli are there.)

    Raises:
        ConfigError: if names don't match the stimuli, or there are no names and another number of images.
    """
    for numbers in (False, True):
        levels = [_candidates(arrays, level, count, numbers) for level in _levels(key)]
        for match in (match_names, match_some) if some and not numbers else (match_names,):
            for level in levels:
                if fitting := {name: rows for name, names in level.items() if (rows := match(names, stimuli))}:
                    return _matched(where, fitting, count)
        found = {name: names for level in levels for name, names in level.items()}
        if numbers:  # row numbers are no names
            found = {name: names for name, names in found.items() if not _are_row_numbers(names)}
        if found:
            raise _mismatch(where, found, stimuli)
    if elsewhere := _names_elsewhere(arrays, count, stimuli):
        raise ConfigError(
            f"{where} has no names of images in its own group, and {elsewhere} is in another group; copy it to the "
            "array's group."
        )
    if count != len(stimuli):
        raise ConfigError(
            f"{where} is of {count} images, and there are {len(stimuli)} stimuli. If the file had names "
            "of its images, repeats could be grouped and a subset chosen."
        )
    _check_no_names(where, arrays, key, count)
    return MatchedRows(np.arange(count)[:, None], False, np.arange(count))


def is_text(array: np.ndarray) -> bool:
    """Whether an array holds text."""
    if array.dtype.kind == "O":
        return array.size > 0 and all(isinstance(value, str | bytes) for value in array.flat)
    return array.dtype.kind in "SU"


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _levels(key: str) -> Iterator[str]:
    """Yields an array's key and the groups that contain it: `a/b`, `a`, and the root, ``."""
    while key:
        yield key
        key = _parent(key)
    yield ""


def _owner(name: str) -> str:
    """Returns the group that contains an array of names, or the array or group that has it as an attribute."""
    path, is_attribute, _ = name.partition("@")
    return path if is_attribute else _parent(path)


def _candidates(
    arrays: Mapping[str, np.ndarray], level: str, count: int, numbers: bool
) -> dict[str, list[str]]:
    """Returns lists of `count` names at a level, and in groups within it that hold no measurements."""
    excluded = {*arrays, "rdm_descriptors"} | {
        _parent(name) for name, array in arrays.items() if array.ndim >= 2 and not is_text(array)
    }
    found = {}
    for name, array in arrays.items():
        between = [group for group in _levels(_owner(name)) if group.startswith(f"{level}/" if level else "")]
        inside = _owner(name) == level or (between and not excluded & set(between) - {level})
        is_names = _are_image_numbers(name, array) if numbers else is_text(array)
        if inside and is_names:
            for place, names in enumerate(_columns(array, count)):
                found[f"{name}[:, {place}]" if place else name] = names
    return found


def _are_image_numbers(name: str, array: np.ndarray) -> bool:
    """Whether an array holds one integer per image, and its name refers to images."""
    last = name.rpartition("/")[2]
    return (
        array.dtype.kind in "iu"
        and max(array.shape, default=0) == array.size
        and bool(_LIKE_NAMES.search(last))
    )


def _are_row_numbers(names: list[str]) -> bool:
    return any(names == [str(first + i) for i in range(len(names))] for first in (0, 1))


def _names_elsewhere(arrays: Mapping[str, np.ndarray], count: int, stimuli: Sequence[str]) -> str | None:
    """Finds an array of the stimuli's names anywhere in the file."""
    return next(
        (
            name for name, array in arrays.items()
            if is_text(array) and any(match_names(names, stimuli) for names in _columns(array, count))
        ),
        None,
    )  # fmt: skip


def _columns(array: np.ndarray, count: int) -> list[list[str]]:
    """Returns the columns of names in an array `[N]`, `[1, N]` or `[N, C]`; none if N isn't `count`."""
    if array.ndim == 2 and array.shape[0] == 1 != count:
        array = array.T
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or len(array) != count:
        return []
    return [[normalise_name(value) for value in column] for column in array.T]


def _matched(where: str, fitting: Mapping[str, list[list[int]]], count: int) -> MatchedRows:
    """Returns the rows that all arrays of names agree on, or raises ConfigError."""
    (first, rows), *others = fitting.items()
    if differing := [name for name, other in others if other != rows]:
        raise ConfigError(
            f"{where} has two lists of the stimuli's names in different orders, {first} and {differing[0]}; leave "
            "one in the file."
        )
    seen = [number for number, own in enumerate(rows) if own]
    repeats = {len(rows[number]) for number in seen}
    if len(repeats) > 1:
        raise ConfigError(
            f"{where} has some images {min(repeats)} times and some {max(repeats)} times, by {first}; repeats must be "
            "as many for each image. Leave some out, or average them."
        )
    times, notes = repeats.pop(), []
    if (taken := len(seen) * times) < count:
        notes.append(f"{where}: {taken} of {count} rows are of the {len(rows)} stimuli, by {first}.")
    if len(seen) < len(rows):
        notes.append(f"{where}: {len(seen)} of the {len(rows)} stimuli were shown, by {first}.")
    if times > 1:
        notes.append(f"{where}: {times} repeats of each image, by {first}.")
    return MatchedRows(np.array([rows[number] for number in seen]), True, np.array(seen), tuple(notes))


def _mismatch(where: str, found: Mapping[str, list[str]], stimuli: Sequence[str]) -> ConfigError:
    """Returns the error for names that don't match the stimuli."""
    name, names = min(found.items(), key=lambda item: len(unmatched_stimuli(item[1], stimuli)))
    missing = unmatched_stimuli(names, stimuli)
    unknown = [known for known in dict.fromkeys(names) if not match_names(stimuli, [known])]
    text = f"The names beside {where} are not those of the stimuli"
    if unknown:
        return ConfigError(f"{text}: {', '.join(unknown[:3])} there ({name}), {', '.join(missing[:3])} here.")
    twice = next((known for known in names if names.count(known) > 1), None)
    also = f", and has {twice!r} more than once" if twice else ""
    return ConfigError(f"{text}: {name} has no {', '.join(missing[:3])}{also}.")


def _check_no_names(where: str, arrays: Mapping[str, np.ndarray], key: str, count: int) -> None:
    """Raises ConfigError for an array of names whose length isn't the number of images."""
    for name, array in arrays.items():
        if (
            _owner(name) in _levels(key)
            and is_text(array)
            and array.ndim
            and _LIKE_NAMES.search(name.rpartition("/")[2])
        ):
            raise ConfigError(
                f"{where} is of {count} images, and the names beside it are {array.size} ({name})."
            )
