"""Mixtures of several sources, each with a given number of images."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from ipcl_jax.data.base import Source, digest
from ipcl_jax.errors import ConfigError
from ipcl_jax.system.files import expand_home

# A path may contain a plus, so a plus separates sources only if a source's prefix follows; with blanks around it,
# also if something like a prefix or a path follows, for the error message.
_PLUS = re.compile(r"\s*\+\s*(?=folder:|array_record:|tfds:|sample(?![^\s@+]))|\s+\+\s+(?=\w+:|[/~.])")
_NUMBER = re.compile(r"[0-9][0-9_,]*")


def split_mixture(spec: str) -> list[tuple[str, int | None]]:
    """Splits the text of a mixture into its parts.

    Args:
        spec: sources separated by ` + `, each followed by `@N` to take N of its images; N may be written 1281167,
            1_281_167 or 1,281,167. A folder whose own name ends like that needs a slash after it.

    Returns:
        Each part's source, and its number of images or None for all of them.

    Raises:
        ConfigError: if a part is empty or repeated, or what follows an @ is not a number.
    """
    parts = [_split_size(part) for part in _PLUS.split(spec.strip())]
    names = [name for name, _ in parts]
    if "" in names:
        raise ConfigError(f"--data.source {spec!r} lacks a source beside a + or an @.")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(
            f"--data.source has {twice} more than once, which would repeat images. Name it once, with the "
            "number of images that it shall give in all."
        )
    return parts


def _split_size(part: str) -> tuple[str, int | None]:
    name, at, number = (text.strip() for text in part.rpartition("@"))
    if not at or "/" in number:  # no @, or one within a path
        return part.strip(), None
    if _NUMBER.fullmatch(number):
        return name, int(re.sub("[_,]", "", number))
    if expand_home(part.partition(":")[2]).is_dir():
        return part, None
    raise ConfigError(
        f"--data.source has {part!r}; after its @ stands a number of images, such as @1000, not {number!r}."
    )


class MixtureSource:
    """The concatenated images of several sources; `loader` shuffles them all together.

    The images of each part are drawn once, without replacement and irrespective of class. The draw is seeded only by
    the part's position in the mixture and its total number of images, so it is the same in every epoch and in every
    run, whatever the run's seed. A larger number of images includes those of a smaller one.

    Classes of the parts are concatenated; a name that occurs in two parts is preceded by its part's number. If one part
    has no labels, the mixture has none.

    Args:
        parts: the sources.
        sizes: number of images to take from each; None for all of them.

    Raises:
        ConfigError: if a part has fewer images than are to be taken.
    """

    def __init__(self, parts: Sequence[Source], sizes: Sequence[int | None]):
        self.name = " + ".join(part.name for part in parts)
        self._parts = list(parts)
        self.notes = tuple(note for part in parts for note in part.notes)
        self.places = tuple(place for part in parts for place in part.places)
        self._sizes = list(sizes)
        self._chosen = self._choose()
        self._ends = np.cumsum([len(chosen) for chosen in self._chosen])
        labelled = all(part.classes for part in parts)
        self.classes = _names(parts) if labelled else ()
        counts = [len(part.classes) for part in parts]
        self._offsets = np.cumsum([0, *counts[:-1]]) if labelled else None

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, i: int) -> tuple[bytes | np.ndarray, int]:
        """Returns image i and its label in the mixture (-1: none)."""
        part, place = self._find(i)
        image, label = self._parts[part][place]
        return image, -1 if self._offsets is None or label < 0 else label + int(self._offsets[part])

    def describe(self, i: int) -> str:
        """Returns the location of image i, as its part describes it."""
        part, place = self._find(i)
        return self._parts[part].describe(place)

    def labels(self) -> np.ndarray:
        """Returns the label in the mixture of every image, `[N]` int32 (-1: none)."""
        if self._offsets is None:
            return np.full(len(self), -1, np.int32)
        of_parts = [part.labels()[chosen] for part, chosen in zip(self._parts, self._chosen, strict=True)]
        shifted = [
            np.where(own < 0, -1, own + start) for own, start in zip(of_parts, self._offsets, strict=True)
        ]
        return np.concatenate(shifted).astype(np.int32)

    def stamps(self) -> Iterator[str]:
        """Yields for each part its name and number of images, and then its stamps."""
        for part, chosen in zip(self._parts, self._chosen, strict=True):
            yield f"{part.name}@{len(chosen)}"
            yield from part.stamps()

    def identity(self) -> str:
        """Returns the sha256 of all stamps."""
        return digest(self.stamps())

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_chosen"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._chosen = self._choose()  # repeats the draw, so that it need not be pickled for each worker process

    def _choose(self) -> list[np.ndarray]:
        parts = zip(self._parts, self._sizes, strict=True)
        return [_choose(part, size, place) for place, (part, size) in enumerate(parts)]

    def _find(self, i: int) -> tuple[int, int]:
        """Returns the part of image i, and the image's index in that part."""
        i = range(len(self))[i]
        part = int(np.searchsorted(self._ends, i, side="right"))
        return part, int(self._chosen[part][i - self._ends[part]])  # a negative index, from the part's end


def _choose(part: Source, size: int | None, place: int) -> np.ndarray:
    total = len(part)
    if size is None:
        return np.arange(total)
    if not 0 < size <= total:
        raise ConfigError(
            f"{part.name} has {total} images and can't give {size}, the number after its @. Give a number "
            f"from 1 to {total}, or none for all of them."
        )
    return np.sort(np.random.default_rng((place, total)).permutation(total)[:size])


def _names(parts: Sequence[Source]) -> tuple[str, ...]:
    counts = Counter(name for part in parts for name in part.classes)
    return tuple(
        name if counts[name] == 1 else f"{place}:{name}"
        for place, part in enumerate(parts, 1)
        for name in part.classes
    )
