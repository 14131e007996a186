"""What activations depend on besides the model and the request: the images, and the code that computes them."""

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
"""Files of this package, as patterns, that turn an image's bytes and a model's weights into numbers on disk."""

SAME_NUMBERS = frozenset({"0.1.0, 87ccaa3008a757e8"})
"""Earlier values of `code_version` whose code computed the same numbers, to the bit, when both were compared."""

_AT_ONCE = 4096  # a million tasks at once would fill the memory


class Images(Protocol):
    """Images in a fixed order."""

    @property
    def names(self) -> Sequence[str]:
        """One for each image."""

    def __getitem__(self, i: int) -> bytes | np.ndarray:
        """Image i: an encoded file, or its pixels."""


@functools.cache
def code_version() -> str:
    """Tells apart versions of the code that computes activations.

    Returns:
        The package's version, and the start of a sha256 of the files in `CODE`: it changes with every edit, so none
        can be forgotten. Other packages (JAX, Pillow) aren't part of it.

    Raises:
        FileNotFoundError: if a pattern in `CODE` has no file.
    """
    root, state = Path(__file__).parents[1], hashlib.sha256()
    for pattern in CODE:
        paths = sorted(root.glob(pattern))
        if not paths:
            raise FileNotFoundError(f"The package has no file {pattern}.")
        for path in paths:
            state.update(path.relative_to(root).as_posix().encode() + b"\0")
            state.update(path.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    try:
        name = version("ipcl_jax")
    except PackageNotFoundError:  # run from its folder, without being installed
        name = "not installed"
    return f"{name}, {state.hexdigest()[:16]}"


def image_digests(images: Images, count: int, *, threads: int) -> np.ndarray:
    """What the first images are now; reads all of them.

    Args:
        images: the images.
        count: how many.
        threads: that read.

    Returns:
        `[count]` bytes, the hexadecimal sha256 of each file (of its pixels, if it is an array), as
        `stimuli.StimulusBatch` has them; empty for a file that is gone or may not be read.
    """

    def digest(i: int) -> str:
        try:
            image = images[i]
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError):
            return ""
        return hashlib.sha256(image).hexdigest()

    found = np.zeros(count, "S64")
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, count, _AT_ONCE):
            places = range(start, min(start + _AT_ONCE, count))
            found[places.start : places.stop] = list(pool.map(digest, places))
    return found
