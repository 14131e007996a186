"""Names of images, matched between what was shown to a model and what was measured."""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ipcl_jax.errors import ConfigError

_SUFFIX = re.compile(r"\.[A-Za-z]\w{1,4}$")


def plain(name: object) -> str:
    """A name as it is compared: one form of accented letters (NFC), slashes, no byte order mark or blanks."""
    text = name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else str(name)
    text = unicodedata.normalize("NFC", text.replace("\\", "/")).strip("\ufeff\0 \t\r\n")
    return text.removeprefix("./")


def match(names: Sequence[object], stimuli: Sequence[str]) -> list[list[int]] | None:
    """Rows of each stimulus in a list of names.

    Names are compared whole, then without folders from the left and without their suffix, until each stimulus has
    rows. A comparison counts only where it tells all stimuli apart and takes no two names for one.

    Args:
        names: of R rows; more than the stimuli's, and the same ones repeatedly, are allowed.
        stimuli: N names.

    Returns:
        For each stimulus its rows, rising; None if no comparison finds all stimuli.
    """
    return next((rows for rows in _comparisons(names, stimuli) if all(rows)), None)


def missing(names: Sequence[object], stimuli: Sequence[str]) -> list[str]:
    """Stimuli that a list of names has no rows of, by the comparison that finds most."""
    nothing: list[list[int]] = [[] for _ in stimuli]
    found = max(_comparisons(names, stimuli), key=lambda rows: sum(map(bool, rows)), default=nothing)
    return [name for name, rows in zip(stimuli, found, strict=True) if not rows]


def _comparisons(names: Sequence[object], stimuli: Sequence[str]) -> Iterator[list[list[int]]]:
    there, here = [plain(name) for name in names], [plain(name) for name in stimuli]
    depth = max((name.count("/") + 1 for name in (*there, *here)), default=1)
    for parts in range(depth, 0, -1):
        for suffix in (True, False):
            short = {name: _short(name, parts, suffix) for name in (*there, *here)}
            keys = [short[name] for name in here]
            wanted = set(keys)
            names_of = {name for name in there if short[name] in wanted}
            if len(wanted) < len(here) or len({short[name] for name in names_of}) < len(names_of):
                continue
            rows: dict[str, list[int]] = {key: [] for key in keys}
            for row, name in enumerate(there):
                if short[name] in wanted:
                    rows[short[name]].append(row)
            yield [rows[key] for key in keys]


def _short(name: str, parts: int, suffix: bool) -> str:
    name = "/".join(name.split("/")[-parts:])
    return name if suffix else _SUFFIX.sub("", name)


_LIKE_NAMES = re.compile(r"stim|image|img|picture|condition|file|name|^ids?$|_ids?$", re.IGNORECASE)


class Rows(NamedTuple):
    """Rows of an array that belong to the stimuli.

    Attributes:
        rows: `[N, R]`: of each stimulus, as often as it was measured.
        by_name: whether names say so.
        notes: what was done, in words.
    """

    rows: np.ndarray
    by_name: bool
    notes: tuple[str, ...] = ()


def find_rows(
    where: str, arrays: Mapping[str, np.ndarray], key: str, count: int, stimuli: Sequence[str]
) -> Rows:
    """Which rows of an array belong to each stimulus.

    Names of images are text with as many rows as the array has images, whatever it is called: beside the array, in a
    group around it, among rsatoolbox's descriptors, or an HDF5 attribute. Of several the nearest that is
    the stimuli's counts; text that is none of their names is refused. Where there is no text, numbers that are
    called an image's (such as stimulus_id) are taken for names.

    Args:
        where: the array, for messages.
        arrays: of the file, by `group/name`; attributes by `group/name@attribute`.
        key: of the array.
        count: images it has.
        stimuli: names of the N images.

    Raises:
        ConfigError: if names don't fit the stimuli, or there are none and the numbers differ.
    """
    for numbers in (False, True):
        levels = [_candidates(arrays, level, count, numbers) for level in _levels(key)]
        for level in levels:
            if fitting := {name: rows for name, names in level.items() if (rows := match(names, stimuli))}:
                return _agreed(where, fitting, count)
        found = {name: names for level in levels for name, names in level.items()}
        if numbers:  # those that only count the rows say nothing
            found = {name: names for name, names in found.items() if not _only_counts(names)}
        if found:
            raise _strange(where, found, stimuli)
    if elsewhere := _elsewhere(arrays, count, stimuli):
        raise ConfigError(
            f"{where} has no names of images beside it, and {elsewhere} is of another group; put them into its own."
        )
    if count != len(stimuli):
        raise ConfigError(
            f"{where} is of {count} images, and there are {len(stimuli)} stimuli; with names of its images, "
            "repeats would be grouped and a subset chosen."
        )
    _refuse_other_lengths(where, arrays, key, count)
    return Rows(np.arange(count)[:, None], False)


def is_text(array: np.ndarray) -> bool:
    """Whether an array holds text."""
    if array.dtype.kind == "O":
        return array.size > 0 and all(isinstance(value, str | bytes) for value in array.flat)
    return array.dtype.kind in "SU"


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _levels(key: str) -> Iterator[str]:
    """An array, and the groups around it outwards: `a/b`, `a`, and the root, which is ``."""
    while key:
        yield key
        key = _parent(key)
    yield ""


def _owner(name: str) -> str:
    """What names belong to: the group that an array lies in, the array or group that an attribute is of."""
    path, is_attribute, _ = name.partition("@")
    return path if is_attribute else _parent(path)


def _candidates(
    arrays: Mapping[str, np.ndarray], level: str, count: int, numbers: bool
) -> dict[str, list[str]]:
    """Lists of as many names as there are images, at a level and in groups within it that hold no measurements."""
    others = {*arrays, "rdm_descriptors"} | {
        _parent(name) for name, array in arrays.items() if array.ndim >= 2 and not is_text(array)
    }
    found = {}
    for name, array in arrays.items():
        between = [group for group in _levels(_owner(name)) if group.startswith(f"{level}/" if level else "")]
        inside = _owner(name) == level or (between and not others & set(between) - {level})
        wanted = _is_number_of_images(name, array) if numbers else is_text(array)
        if inside and wanted:
            for place, names in enumerate(_columns(array, count)):
                found[f"{name}[:, {place}]" if place else name] = names
    return found


def _is_number_of_images(name: str, array: np.ndarray) -> bool:
    called = name.rpartition("/")[2]
    return (
        array.dtype.kind in "iu"
        and max(array.shape, default=0) == array.size
        and bool(_LIKE_NAMES.search(called))
    )


def _only_counts(names: list[str]) -> bool:
    return any(names == [str(first + i) for i in range(len(names))] for first in (0, 1))


def _elsewhere(arrays: Mapping[str, np.ndarray], count: int, stimuli: Sequence[str]) -> str | None:
    """A list of the stimuli's names that belongs to something else in the file."""
    return next(
        (
            name for name, array in arrays.items()
            if is_text(array) and any(match(names, stimuli) for names in _columns(array, count))
        ),
        None,
    )  # fmt: skip


def _columns(array: np.ndarray, count: int) -> list[list[str]]:
    """Lists of names in an array `[N]`, `[N, 1]`, `[1, N]`, or with several columns; none if N is another."""
    if array.ndim == 2 and array.shape[0] == 1 != count:
        array = array.T
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or len(array) != count:
        return []
    return [[plain(value) for value in column] for column in array.T]


def _agreed(where: str, fitting: Mapping[str, list[list[int]]], count: int) -> Rows:
    (first, rows), *others = fitting.items()
    if differing := [name for name, other in others if other != rows]:
        raise ConfigError(
            f"{where} has two lists of the stimuli's names in different orders, {first} and {differing[0]}; leave "
            "one in the file."
        )
    repeats = {len(some) for some in rows}
    if len(repeats) > 1:
        raise ConfigError(
            f"{where} has some images {min(repeats)} times and some {max(repeats)} times, by {first}; repeats must be "
            "as many for each image. Leave some out, or average them."
        )
    notes = []
    if (taken := len(rows) * len(rows[0])) < count:
        notes.append(f"{where}: {taken} of {count} rows are of the {len(rows)} stimuli, by {first}.")
    if len(rows[0]) > 1:
        notes.append(f"{where}: {len(rows[0])} repeats of each image, by {first}.")
    return Rows(np.array(rows), True, tuple(notes))


def _strange(where: str, found: Mapping[str, list[str]], stimuli: Sequence[str]) -> ConfigError:
    name, names = min(found.items(), key=lambda item: len(missing(item[1], stimuli)))
    lost = missing(names, stimuli)
    unknown = [known for known in dict.fromkeys(names) if not match(stimuli, [known])]
    text = f"The names beside {where} are not those of the stimuli"
    if unknown:
        return ConfigError(f"{text}: {', '.join(unknown[:3])} there ({name}), {', '.join(lost[:3])} here.")
    twice = next((known for known in names if names.count(known) > 1), None)
    also = f", and has {twice!r} more than once" if twice else ""
    return ConfigError(f"{text}: {name} has no {', '.join(lost[:3])}{also}.")


def _refuse_other_lengths(where: str, arrays: Mapping[str, np.ndarray], key: str, count: int) -> None:
    """Text that is called names, and has another number of rows than there are images."""
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
