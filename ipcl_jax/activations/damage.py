"""A search for images that can't be read."""

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from ipcl_jax.activations.preprocess import Transform
from ipcl_jax.data.decode import MOST_PIXELS, decode, open_image, size_of, unreadable
from ipcl_jax.system.files import error_text

if TYPE_CHECKING:
    from ipcl_jax.activations.stimuli import StimulusSet


def find_damage(stimuli: "StimulusSet", *, threads: int) -> dict[int, str]:
    """Finds the images that can't be read, without decoding those that look complete.

    A JPEG looks complete if it has a header and ends with the end marker, a PNG if its checksums are right. Other
    files, and all of other formats, are decoded.

    Args:
        stimuli: the images.
        threads: number of threads that read them.

    Returns:
        The reason for each image that can't be read, by its index.

    Raises:
        OSError: if a disk or a network fails, which says nothing about the images.
    """
    if isinstance(stimuli[0], np.ndarray):  # reading all arrays would take long and find nothing
        return {}
    damage: dict[int, str] = {}
    total = len(stimuli.names)
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, total, 4096):  # a million tasks at once would take too much memory
            indices = range(start, min(start + 4096, total))
            reasons = pool.map(lambda i: _damage(stimuli, i), indices)
            damage |= {i: reason for i, reason in zip(indices, reasons, strict=True) if reason}
    return damage


def _damage(stimuli: "StimulusSet", i: int) -> str:
    try:
        image = stimuli[i]
        if not (isinstance(image, bytes) and _looks_complete(image)):
            decode(image)
    except Exception as error:  # damaged files raise almost anything
        if not unreadable(error):
            raise
        return error_text(error)
    return ""


def _looks_complete(image: bytes) -> bool:
    """Whether a file is a complete PNG, or a JPEG with both of its markers and no more pixels than are read.

    Raises an exception, any that Pillow raises, for a PNG that isn't.
    """
    if image[:8] == b"\x89PNG\r\n\x1a\n":
        with open_image(image) as file:
            file.verify()
        return True
    if image[:2] != b"\xff\xd8" or image[-2:] != b"\xff\xd9":
        return False
    height, width = size_of(image)
    return height * width <= MOST_PIXELS


def why_unreadable(stimuli: "StimulusSet", i: int, transform: Transform) -> str:
    """Returns the reason why an image can't be read; empty if it can. Raises OSError as `find_damage`."""
    try:
        transform(stimuli[i])
    except Exception as error:  # damaged files raise almost anything
        if not unreadable(error):
            raise
        return error_text(error)
    return ""
