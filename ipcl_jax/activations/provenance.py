"""Digests of what activations depend on besides the model and the request: the images and the code."""

import functools
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol

import numpy as np

CODE = (
    "models/*.py", "augment/views.py", "data/decode.py", "activations/cache.py", "activations/compute.py",
    "activations/encoder.py", "activations/extract.py", "activations/layout.py", "activations/preprocess.py",
    "activations/projection.py", "activations/stimuli.py", "activations/store.py",
)  # fmt: skip
"""Patterns of this package's files whose code computes activations from images and weights, and stores them."""

SAME_NUMBERS = frozenset({"0.1.0, 87ccaa3008a757e8"})
"""Earlier values of `code_version` whose code was found to compute bitwise the same activations."""

_TASKS = 4096  # submitted at a time; a million would take too much memory


class Images(Protocol):
    """Images in a fixed order."""

    @property
    def names(self) -> Sequence[str]:
        """Name of each image."""

    def __getitem__(self, i: int) -> bytes | np.ndarray:
        """Image i: an encoded file, or its pixels."""


@functools.cache
def code_version(patterns: tuple[str, ...] = CODE) -> str:
    """Returns the version of the code that computes activations, or something else.

    Args:
        patterns: of this package's files that compute it.

    Returns:
        The package's version, and the start of a sha256 of the files, which changes with every edit. It
        doesn't include versions of other packages (JAX, Pillow).

    Raises:
        FileNotFoundError: if a pattern has no file.
    """
    root, state = Path(__file__).parents[1], hashlib.sha256()
    for pattern in patterns:
        paths = sorted(root.glob(pattern))
        if not paths:
            raise FileNotFoundError(f"The package has no file {pattern}.")
        for path in paths:
            state.update(path.relative_to(root).as_posix().encode() + b"\0")
            state.update(path.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    try:
        name = version("ipcl_jax")
    except PackageNotFoundError:  # run from its folder, not installed
        name = "not installed"
    return f"{name}, {state.hexdigest()[:16]}"


def image_digests(images: Images, count: int, *, threads: int) -> np.ndarray:
    """Computes the sha256 of the first images, reading each file.

    Args:
        images: the images.
        count: number of images.
        threads: number of threads that read.

    Returns:
        `[count]` bytes, the hexadecimal sha256 of each file (of the pixels, for an array), as in
        `stimuli.StimulusBatch`; empty for a file that doesn't exist or can't be opened.
    """

    def digest(i: int) -> str:
        try:
            image = images[i]
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError):
            return ""
        return hashlib.sha256(image if isinstance(image, bytes) else image.data).hexdigest()

    found = np.zeros(count, "S64")
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, count, _TASKS):
            indices = range(start, min(start + _TASKS, count))
            found[indices.start : indices.stop] = list(pool.map(digest, indices))
    return found
