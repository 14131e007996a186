"""The built-in images: windows of photographs that come with two Python packages."""

import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from ipcl_jax.data.base import digest
from ipcl_jax.errors import ConfigError

SAMPLE_BORDER = 0.7  # share of a photograph's width that is for training
SAMPLE_TRAIN, SAMPLE_VAL = 64, 24  # windows of each photograph in either split

# Left out: drawings, binary pictures, the second image of a stereo pair, and five photographs of an even texture or
# blur (brick, grass, gravel, cell, clock_motion), whose windows look alike. These five were removed after the
# untrained network had scored high on most of them, which biases the sample in favour of trained networks.
_PHOTOGRAPHS = {
    ("skimage", "data"): (
        "astronaut.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "hubble_deep_field.jpg",
        "ihc.png", "moon.png", "motorcycle_left.png", "page.png", "retina.jpg", "rocket.jpg",
    ),
    ("sklearn", "datasets/images"): ("china.jpg", "flower.jpg"),
}  # fmt: skip


class SampleSource:
    """Square windows of the photographs inside scikit-image's and scikit-learn's wheels.

    Windows don't overlap, because instance discrimination can't learn to separate two windows that share most of their
    pixels. Each photograph is a class; its left 70 % is for training and its right 30 % for validation. All classes
    have the same number of windows, whose side is the largest of which a tiling of the region gives that many.

    Args:
        split: `train` or `val`.
    """

    def __init__(self, split: Literal["train", "val"]):
        self.name = f"sample {split}"
        self.notes: tuple[str, ...] = ()
        self.places: tuple[str, ...] = ()
        number = SAMPLE_TRAIN if split == "train" else SAMPLE_VAL
        paths = photographs()
        self.classes = tuple(path.stem for path in paths)
        self._windows: list[np.ndarray] = []
        for path in paths:
            with Image.open(path) as file:
                photograph = np.asarray(file.convert("RGB"))
            border = int(photograph.shape[1] * SAMPLE_BORDER)
            region = photograph[:, :border] if split == "train" else photograph[:, border:]
            self._windows += _windows(region, number)

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        """Returns window i, `[S, S, 3]` uint8 (S differs by photograph), and the index of its photograph."""
        return self._windows[i], i * len(self.classes) // len(self._windows)

    def describe(self, i: int) -> str:
        """Names the photograph and the window."""
        return f"{self.name}: {self.classes[self[i][1]]}, window {i % (len(self) // len(self.classes))}"

    def labels(self) -> np.ndarray:
        """Returns the index of every window's photograph, `[N]` int32."""
        return np.arange(len(self), dtype=np.int32) * len(self.classes) // len(self)

    def stamps(self) -> Iterator[str]:
        """Yields each window's photograph and index, size in bytes and sha256 of its pixels."""
        for i, window in enumerate(self._windows):
            yield f"{self.classes[self[i][1]]}/{i} {window.nbytes} {hashlib.sha256(window.data).hexdigest()}"

    def identity(self) -> str:
        """Returns the sha256 of all stamps."""
        return digest(self.stamps())


def photographs() -> list[Path]:
    """Lists the files that `SampleSource` cuts its windows from."""
    found = []
    for (package, folder), names in _PHOTOGRAPHS.items():
        module = importlib.util.find_spec(package)  # finds the files without running the package
        if module is None or module.origin is None:
            raise ConfigError(
                "--data.source sample is cut from photographs that come with scikit-image and scikit-learn, "
                f"and {package} is not installed: pip install 'ipcl_jax[demo]'"
            )
        paths = [Path(module.origin).parent / folder / name for name in names]
        found += [path for path in paths if path.is_file()]
    return found


def _windows(region: np.ndarray, number: int) -> list[np.ndarray]:
    """Cuts `number` squares from a region `[H, W, 3]`, spread evenly over a tiling of it."""
    height, width = region.shape[:2]
    side = max(s for s in range(1, min(height, width) + 1) if (height // s) * (width // s) >= number)
    down, across = height // side, width // side
    corners = [divmod(k * down * across // number, across) for k in range(number)]
    corners = [(side * row, side * column) for row, column in corners]
    return [np.ascontiguousarray(region[y : y + side, x : x + side]) for y, x in corners]
