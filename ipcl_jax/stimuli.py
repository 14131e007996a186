"""From image files to what a model is tested on: resized, cropped and normalised as in the reference."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from ipcl_jax.decoding import MOST_PIXELS, decode, unreadable
from ipcl_jax.encoder import Encoder
from ipcl_jax.errors import near_miss

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
        ValueError: for another name.
    """
    if name not in _RESIZE:
        raise ValueError(f"No transform {name!r}.{near_miss(name, _RESIZE)}")
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
        images: paths, encoded files, Pillow images, or arrays `[h, w, 3]` or `[h, w]` uint8; one or several
            (an array `[B, h, w, 3]` is several).
        params: the model, for its mean and std.
        transform: see `make_transform`.
        size: side in pixels; by default that of the images which the model was trained on (224 for
            the released models).

    Returns:
        `[B, size, size, 3]` float32, normalised; the same bits as torchvision's ToTensor and Normalize give.

    Raises:
        OSError: if a file is missing or can't be read; the message names it.
        ValueError: for an array that is no image, or an unknown transform.

    Source: the transform that the reference's models/ipcl.py returns with a model.
    """
    if isinstance(images, Stimulus) and not (isinstance(images, np.ndarray) and images.ndim == 4):
        images = [images]
    chosen = make_transform(transform, size or params.size)
    pixels = [_pixels(image, chosen, place) for place, image in enumerate(images)]
    if not pixels:
        raise ValueError("There are no images to load.")
    mean, std = np.float32(params.mean), np.float32(params.std)
    return (np.stack(pixels) / np.float32(255) - mean) / std


def _pixels(image: Stimulus, transform: Transform, place: int) -> np.ndarray:
    if isinstance(image, Image.Image):
        return transform(np.asarray(image.convert("RGB")))
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8:
            raise ValueError(f"image {place} is an array of {image.dtype}, expected uint8 in 0-255.")
        return transform(image)
    name = f"image {place}" if isinstance(image, bytes) else os.fspath(image)
    try:
        if not isinstance(image, bytes):
            with open(os.path.expanduser(image), "rb") as file:
                image = file.read()
        return transform(image)
    except Exception as error:  # damaged files raise almost anything
        if isinstance(error, FileNotFoundError) or not unreadable(error):
            raise
        raise OSError(f"{name} can't be read as an image: {error}") from error
