"""Tiny pictures under given names."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def write_pictures(folder: Path, names: Iterable[str]) -> tuple[str]:
    """Writes a picture of 2 x 2 pixels for each name, whose folders are made; returns `folder` as `--images`."""
    for place, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((2, 2, 3), place, np.uint8)).save(path)
    return (str(folder),)
