"""The pixels of a data set's images, from where the user has them."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from ipcl_jax.activations.stimuli import StimulusSet, open_stimuli
from ipcl_jax.brain.names import match_names, normalise_name, unmatched_stimuli
from ipcl_jax.errors import ConfigError, InputError


class NamedStimuli:
    """Some stimuli, in another order and under other names.

    Args:
        stimuli: the images as they are.
        names: N names.
        rows: for each name, the index in `stimuli`.
    """

    def __init__(self, stimuli: StimulusSet, names: Sequence[str], rows: Sequence[int]):
        self._stimuli, self.names, self._rows = stimuli, list(names), list(rows)

    @property
    def categories(self) -> list[str]:
        categories = self._stimuli.categories
        return [categories[row] for row in self._rows]

    def __getitem__(self, i: int) -> bytes | np.ndarray:
        return self._stimuli[self._rows[i]]


def choose_stimuli(stimuli: StimulusSet, names: Sequence[str]) -> NamedStimuli:
    """Chooses stimuli by name.

    Args:
        stimuli: a set.
        names: of those wanted, in the order wanted.

    Raises:
        InputError: for a name that no stimulus has, or several have.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for place, name in enumerate(stimuli.names):
        places[name].append(place)
    if missing := [name for name in names if name not in places]:
        raise InputError(f"{len(missing)} images are not among the stimuli, such as {missing[0]}.")
    if doubled := [name for name in names if len(places[name]) > 1]:
        raise InputError(f"Several of the stimuli are named {doubled[0]}.")
    return NamedStimuli(stimuli, names, [places[name][0] for name in names])


def open_pixels(images: Sequence[str], names: Sequence[str], what: str) -> NamedStimuli:
    """Opens the pixels of a data set's images, matched by name; other images are left out.

    Args:
        images: as for `activations.stimuli.open_stimuli`.
        names: the data set's names, each once. Folders and suffixes count only where images differ in nothing else.
        what: the data set, for messages.

    Raises:
        ConfigError: if a name has no image, or several.
    """
    stimuli = open_stimuli(images)
    rows = match_names(stimuli.names, names)
    if rows and all(len(found) == 1 for found in rows):
        return NamedStimuli(stimuli, names, [found[0] for found in rows])
    where = ", ".join(images)
    if twice := _twice(stimuli.names, names):
        raise ConfigError(f"{where} has two images for {what}: {twice[0]} and {twice[1]}; leave one of them there.")
    missing = unmatched_stimuli(stimuli.names, names)
    raise ConfigError(
        f"{where} lacks {len(missing)} of the {len(names)} images of {what}, such as {', '.join(missing[:3])}; "
        f"its images have names such as {', '.join(stimuli.names[:3])}. Their file names must be those of the data set."
    )


def _twice(files: Sequence[str], names: Sequence[str]) -> list[str]:
    """Returns two files with the same wanted name, if there are such."""
    wanted, found = {_last(name) for name in names}, defaultdict(list)
    for file in files:
        last = _last(file)
        if last in wanted or last.rpartition(".")[0] in wanted:
            found[last].append(file)
    return next((same for same in found.values() if len(same) > 1), [])


def _last(name: str) -> str:
    return normalise_name(name).rpartition("/")[2]
