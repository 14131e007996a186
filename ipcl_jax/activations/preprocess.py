"""From image files to what a model is tested on: resized, cropped and normalised as in the reference."""

import functools
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from ipcl_jax.activations.encoder import Encoder
from ipcl_jax.data.decode import MOST_PIXELS, decode, pixels_of, place, unreadable
from ipcl_jax.errors import InputError, near_miss
from ipcl_jax.system.files import error_text

# Shorter side after resizing, as a multiple of the side of the crop.
_RESIZE = {"stimulus": 1, "validation": 256 / 224}

Stimulus = str | os.PathLike | bytes | np.ndarray | Image.Image


@dataclass(frozen=True)
class Transform:
    """Resize to a shorter side, then cut out the centre.

    Attributes:
        size: side of the square that is cut out, in pixels.
        resize: shorter side before that, in pixels.

    Source: torchvision's Resize (bilinear, antialiased by Pillow) and CenterCrop, in the reference's
    models and knn_eval.py.
    """

    size: int
    resize: int

    def __call__(self, image: bytes | np.ndarray) -> np.ndarray:
        """A stimulus as pixels.

        Args:
            image: an encoded file, or `[h, w]`, `[h, w, 1]` or `[h, w, 3]` uint8.

        Returns:
            `[size, size, 3]` uint8: every byte as Pillow's resize of the full image gives it.

        Raises:
            Exception: as `ipcl_jax.decoding.decode`.
        """
        pixels = decode(image)
        height, width = pixels.shape[:2]
        short = min(height, width)
        if short != self.resize:
            # The longer side is cut to whole pixels.
            height, width = (int(self.resize * side / short) for side in (height, width))
            if height * width > MOST_PIXELS:
                raise OSError(
                    f"its sides are too unlike: with {self.resize} pixels on the shorter side it has {height} x {width}"
                )
            pixels = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
        top, left = (round((side - self.size) / 2) for side in (height, width))
        return pixels[top : top + self.size, left : left + self.size]

    def __str__(self) -> str:
        """In words, as stored beside activations."""
        return f"shorter side to {self.resize} pixels (Pillow, bilinear), centre crop {self.size}x{self.size}"


def make_transform(name: Literal["stimulus", "validation"] = "stimulus", size: int = 224) -> Transform:
    """One of the reference's two transforms for test images.

    Args:
        name: `stimulus` keeps the whole shorter side in view, and is what the reference returns with a
            model; `validation` enlarges first (256 for 224) and so cuts off the border, as in ImageNet's
            standard validation.
        size: side of the result in pixels.

    Raises:
        InputError: for another name.
    """
    if name not in _RESIZE:
        raise InputError(f"No transform {name!r}.{near_miss(name, _RESIZE)}")
    return Transform(size, round(size * _RESIZE[name]))


def load_stimuli(
    images: Stimulus | Iterable[Stimulus],
    params: Encoder,
    *,
    transform: Literal["stimulus", "validation"] = "stimulus",
    size: int | None = None,
) -> np.ndarray:
    """Images as a model wants them.

    Args:
        images: paths, encoded files, Pillow images, or arrays `[h, w, 3]` or `[h, w]` uint8; one or several, in
            any iterable (an array `[B, h, w, 3]` is several, and so is one of paths). What offers itself as an
            array, such as a torch tensor on the CPU, is taken as one. Every route gives the same pixels.
        params: the model, for its mean and std.
        transform: see `make_transform`.
        size: side in pixels; by default that of the images which the model was trained on (224 for
            the released models).

    Returns:
        `[B, size, size, 3]` float32, normalised; the same bits as torchvision's ToTensor and Normalize give.

    Raises:
        OSError: if a file is missing or can't be read; the message names it.
        InputError: for no images, for what is no image or has pixels without a defined range, or an unknown
            transform.

    Source: the transform that the reference's models/ipcl.py returns with a model.
    """
    chosen = make_transform(transform, size or params.size)
    pixels = _each(images, chosen)
    mean, std = np.float32(params.mean), np.float32(params.std)
    return (np.stack(pixels) / np.float32(255) - mean) / std


def load_canvases(
    images: Stimulus | Iterable[Stimulus], *, canvas: tuple[int, int] = (256, 512)
) -> tuple[np.ndarray, np.ndarray]:
    """Images on canvases of one shape, for `make_views` and `center_views`.

    Args:
        images: paths, encoded files, Pillow images, or arrays `[h, w, 3]` or `[h, w]` uint8, as for `load_stimuli`.
        canvas: largest short and long side kept of an image, in pixels; larger images are shrunk.

    Returns:
        Canvases `[B, H, W, 3]` uint8 and sizes `[B, 2]` int32. Each image lies in the top left corner; one taller
        than H fills the same memory seen as `[W, H, 3]`. What it leaves free is 0, and is never seen.

    Raises:
        OSError, InputError: as `load_stimuli`.

    Source: what this package's own training reads (`data.canvas` of a recipe).
    """
    height, width = canvas
    if not 1 <= height <= width:
        raise InputError(f"canvas is {canvas}; give the short side first, then the long one.")
    shrunk = _each(images, functools.partial(decode, short_side=height, long_side=width))
    canvases = np.zeros((len(shrunk), height, width, 3), np.uint8)
    for image, place_of_it in zip(shrunk, canvases, strict=True):
        place(image, place_of_it)
    return canvases, np.array([image.shape[:2] for image in shrunk], np.int32)


def _each(
    images: Stimulus | Iterable[Stimulus], make: Callable[[bytes | np.ndarray], np.ndarray]
) -> list[np.ndarray]:
    """What is made of each image, given as an encoded file or as an array."""
    if isinstance(images, str | os.PathLike | bytes | Image.Image):
        images = [images]
    elif hasattr(images, "__array__") and not isinstance(images, list | tuple):
        array = _as_array(images, "images")
        images = array.ravel().tolist() if array.dtype.kind in "USO" else array if array.ndim == 4 else [array]
    elif not isinstance(images, Iterable):
        raise InputError(f"images are a {type(images).__name__}, expected paths, Pillow images or arrays.")
    made = [_made(image, place, make) for place, image in enumerate(images)]
    if not made:
        raise InputError("There are no images to load.")
    return made


def _as_array(image: object, name: str) -> np.ndarray:
    try:
        return np.asarray(image)
    except Exception as error:  # such as of a tensor on another device, or one that needs its gradient
        raise InputError(f"{name} can't be taken as an array: {error_text(error)}") from None


def _made(image: Stimulus, place: int, make: Callable[[bytes | np.ndarray], np.ndarray]) -> np.ndarray:
    named = isinstance(image, str | os.PathLike)
    name = os.fspath(image) if named else f"image {place}, of type {type(image).__name__},"
    try:
        if isinstance(image, Image.Image):
            return make(pixels_of(image))
        if isinstance(image, str | os.PathLike):
            with open(os.path.expanduser(image), "rb") as file:
                image = file.read()
        elif not isinstance(image, bytes):
            if not hasattr(image, "__array__"):
                raise InputError("expected a path, an encoded file, a Pillow image or an array")
            image = _as_array(image, name)
        return make(image)
    except FileNotFoundError:
        raise
    except InputError as error:
        raise InputError(f"{name} can't be used: {error}.") from None
    except Exception as error:
        if not unreadable(error):
            raise
        raise OSError(f"{name} can't be read as an image: {error}") from error
