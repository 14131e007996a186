"""Images of the Natural Scenes Dataset by the names that their responses have: `nsd-00013`, counted from 0."""

import re
from collections.abc import Sequence
from pathlib import Path

from ipcl_jax.activations.stimuli import StimulusSet, open_stimuli
from ipcl_jax.brain.pixels import NamedStimuli
from ipcl_jax.errors import ConfigError

FILE, DATASET = "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5", "imgBrick"
_NUMBER = re.compile(r"(?:.*[^0-9a-z])?nsd-(\d{5})", re.IGNORECASE)


def image_name(number: int) -> str:
    """Names an image by its row in `nsd_stimuli.hdf5`, from 0, as Algonauts 2023 does."""
    return f"nsd-{number:05d}"


def open_images(given: Sequence[str] | None, root: Path, numbers: Sequence[int]) -> StimulusSet:
    """Opens the images that subjects saw.

    Args:
        given: images as for `open_stimuli`: an HDF5 dataset, whose rows count from 0, or files named `nsd-00013.png`
            (any text may come before `nsd`); by default the data set's own file, in `root`.
        root: the data set's folder.
        numbers: of the images wanted, from 0, ascending.

    Raises:
        ConfigError: if there are no such images.
    """
    if not given:
        path = root / FILE
        if not path.is_file():
            raise ConfigError(f"There is no file {path} with the images; download it, or name other images (stimuli).")
        given = [f"{path}:{DATASET}"]
    given = [given] if isinstance(given, str) else list(given)
    stimuli = open_stimuli(given)
    places: dict[int, int] = {}
    for place, name in enumerate(stimuli.names):
        number = _number(name)
        if number is not None and places.setdefault(number, place) != place:
            raise ConfigError(f"Two of the images in {', '.join(given)} are {image_name(number)}.")
    if missing := [number for number in numbers if number not in places]:
        raise ConfigError(
            f"{', '.join(given)} lacks {len(missing)} of {len(numbers)} images, such as {image_name(missing[0])}. Rows "
            f"count from 0, and files are named as {image_name(13)}.png is (also counted from 0; names without the "
            "hyphen, which the data set counts from 1, are not taken)."
        )
    return NamedStimuli(stimuli, [image_name(n) for n in numbers], [places[number] for number in numbers])


def _number(name: str) -> int | None:
    """Reads an image's number from the name of a file or a row; None if it has none."""
    if name.isdecimal():
        return int(name)
    match = _NUMBER.fullmatch(Path(name).stem)
    return int(match[1]) if match else None
