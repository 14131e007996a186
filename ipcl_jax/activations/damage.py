"""Which images of a set can't be read, and why."""

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from ipcl_jax.activations.preprocess import Transform
from ipcl_jax.data.decode import decode, open_image, unreadable
from ipcl_jax.system.files import error_text

if TYPE_CHECKING:
    from ipcl_jax.activations.stimuli import StimulusSet


def find_damage(stimuli: "StimulusSet", *, threads: int) -> dict[int, str]:
    """Images that can't be read, without decoding those that look whole.

    A JPEG must have a header and end in its end marker, a PNG must have the checksums that it says; what
    fails that, and any other format, is decoded.

    Args:
        stimuli: the images.
        threads: that look at them.

    Returns:
        What is wrong, by the image's place.

    Raises:
        OSError: if a disk or a network fails, so that it can't be said what is damaged.
    """
    if isinstance(stimuli[0], np.ndarray):  # not files; reading them all would take long and show nothing
        return {}
    damage: dict[int, str] = {}
    total = len(stimuli.names)
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, total, 4096):  # a million tasks at once would fill the memory
            places = range(start, min(start + 4096, total))
            reasons = pool.map(lambda i: _damage(stimuli, i), places)
            damage |= {i: reason for i, reason in zip(places, reasons, strict=True) if reason}
    return damage


def _damage(stimuli: "StimulusSet", i: int) -> str:
    try:
        image = stimuli[i]
        looks_whole = image[:2] == b"\xff\xd8" and image[-2:] == b"\xff\xd9"
        if looks_whole or image[:8] == b"\x89PNG\r\n\x1a\n":
            with open_image(image) as file:
                file.verify()
        else:
            decode(image)
    except Exception as error:  # damaged files raise almost anything
        if not unreadable(error):
            raise
        return error_text(error)
    return ""


def why_unreadable(stimuli: "StimulusSet", i: int, transform: Transform) -> str:
    """What is wrong with an image; empty if it can be read. Raises what is not about it, as `find_damage`."""
    try:
        transform(stimuli[i])
    except Exception as error:  # damaged files raise almost anything
        if not unreadable(error):
            raise
        return error_text(error)
    return ""
