"""Several sources as one, each with a given share: a diet."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ipcl_jax.config import ConfigError

if TYPE_CHECKING:
    from ipcl_jax.sources import Source


class MixtureSource:
    """The images of several sources, one source after the other.

    Which images a part gives is drawn once, without repetition, from the part's place in the mixture and
    its number of images: it is the same in every epoch and in every run, whatever the run's seed. Labels
    are those of all parts, one after the other; a name that two parts have is preceded by its part. If
    one part has no labels, the mixture has none.

    Args:
        parts: the sources.
        sizes: images that each gives; None for all of them.

    Raises:
        ConfigError: if a part has fewer images than it shall give.
    """

    def __init__(self, parts: Sequence["Source"], sizes: Sequence[int | None]):
        self.name = " + ".join(part.name for part in parts)
        self._parts = list(parts)
        self._chosen = [
            _choose(part, size, place) for place, (part, size) in enumerate(zip(parts, sizes, strict=True))
        ]
        self._ends = np.cumsum([len(chosen) for chosen in self._chosen])
        labelled = all(part.classes for part in parts)
        self.classes = _names(parts) if labelled else ()
        counts = [len(part.classes) for part in parts]
        self._offsets = np.cumsum([0, *counts[:-1]]) if labelled else None

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, i: int) -> tuple[bytes | np.ndarray, int]:
        """Image i and its label in the mixture (-1: none)."""
        part, place = self._find(i)
        image, label = self._parts[part][place]
        return image, -1 if self._offsets is None or label < 0 else label + int(self._offsets[part])

    def describe(self, i: int) -> str:
        """Where image i is, in the words of its part."""
        part, place = self._find(i)
        return self._parts[part].describe(place)

    def _find(self, i: int) -> tuple[int, int]:
        """A part, and the image's place in it."""
        i = range(len(self))[i]
        part = int(np.searchsorted(self._ends, i, side="right"))
        return part, int(self._chosen[part][i - self._ends[part]])  # counted from the part's end


def _choose(part: "Source", size: int | None, place: int) -> np.ndarray:
    total = len(part)
    if size is None:
        return np.arange(total)
    if not 0 < size <= total:
        raise ConfigError(
            f"{part.name} has {total} images and can't give {size}, the number after its @. Give a number "
            f"from 1 to {total}, or none for all of them."
        )
    return np.sort(np.random.default_rng((place, total)).permutation(total)[:size])


def _names(parts: Sequence["Source"]) -> tuple[str, ...]:
    counts = Counter(name for part in parts for name in part.classes)
    return tuple(
        name if counts[name] == 1 else f"{place}:{name}"
        for place, part in enumerate(parts, 1)
        for name in part.classes
    )
