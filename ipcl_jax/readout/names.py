"""Names of images, matched between what was shown to a model and what was measured."""

import re
import unicodedata
from collections.abc import Iterator, Sequence

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
