"""Preprocessing of test images: resized, cropped and normalised as in the reference."""

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
from ipcl_jax.system.files import error_text, read_file

# Shorter side after resizing, as a multiple of the side of the crop.
_RESIZE = {"stimulus": 1, "validation": 256 / 224}

Stimulus = str | os.PathLike | bytes | np.ndarray | Image.Image


@dataclass(frozen=True)
class Transform:
    """Resize of the shorter side, then centre crop.

    Attributes:
        size: side of the square crop, in pixels.
        resize: shorter side before the crop, in pixels.

    Source: torchvision's Resize (bilinear, antialiased by Pillow) and CenterCrop, in the reference's
    models and knn_eval.py.
    """

    size: int
    resize: int

    def __call__(self, image: bytes | np.ndarray) -> np.ndarray:
        """Decodes, resizes and crops a stimulus.

        Args:
            image: an encoded file, or `[h, w]`, `[h, w, 1]` or `[h, w, 3]` uint8.

        Returns:
            `[size, size, 3]` uint8, equal to Pillow's resize of the uncropped image, byte for byte.

        Raises:
            Exception: as `ipcl_jax.data.decode.decode`.
        """
        pixels = decode(image)
        height, width = pixels.shape[:2]
        short = min(height, width)
        if short != self.resize:
            # The longer side is rounded down to an integer.
            height, width = (int(self.resize * side / short) for side in (height, width))
            if height * width > MOST_PIXELS:
                raise OSError(
                    f"its sides are too unlike: with {self.resize} pixels on the shorter side it has {height} x {width}"
                )
            pixels = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
        top, left = (round((side - self.size) / 2) for side in (height, width))
        return pixels[top : top + self.size, left : left + self.size]

    def __str__(self) -> str:
        """Describes the transform, as stored with activations."""
        return f"shorter side to {self.resize} pixels (Pillow, bilinear), centre crop {self.size}x{self.size}"


def make_transform(name: Literal["stimulus", "validation"] = "stimulus", size: int = 224) -> Transform:
    """Makes one of the reference's two transforms for test images.

    Args:
        name: `stimulus` keeps the full shorter side, as the transform that the reference returns with a
            model; `validation` resizes to more than the crop (256 for 224) and so cuts off the border, as in
            ImageNet's standard validation.
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
    """Loads images and preprocesses them for a model.

    Args:
        images: paths, encoded files, Pillow images, or arrays `[h, w, 3]` or `[h, w]` uint8; one or
            several, in any iterable (an array `[B, h, w, 3]` is several, and so is an array of paths). An object with
            `__array__`, such as a torch tensor on the CPU, is converted to an array. All of these give the same
            pixels.
        params: the model, for its mean and std.
        transform: see `make_transform`.
        size: side in pixels; by default the size of the model's training images (224 for the released models).

    Returns:
        `[B, size, size, 3]` float32, normalised; bitwise equal to torchvision's ToTensor and Normalize.

    Raises:
        OSError: if a file is missing or can't be read; the message names it.
        InputError: for no images, an object that is no image, pixels of a dtype without a defined range, or an
            unknown transform.

    Source: the transform that the reference's models/ipcl.py returns with a model.
    """
    chosen = make_transform(transform, size or params.size)
    pixels = _map_images(chosen, images)
    mean, std = np.asarray(params.mean, np.float32), np.asarray(params.std, np.float32)
    return (np.stack(pixels) / np.float32(255) - mean) / std


def load_canvases(
    images: Stimulus | Iterable[Stimulus], *, canvas: tuple[int, int] = (256, 512)
) -> tuple[np.ndarray, np.ndarray]:
    """Loads images into canvases of one shape, for `make_views` and `center_views`.

    Args:
        images: paths, encoded files, Pillow images, or arrays `[h, w, 3]` or `[h, w]` uint8, as for `load_stimuli`.
        canvas: largest short and long side of an image, in pixels; larger images are shrunk.

    Returns:
        Canvases `[B, H, W, 3]` uint8 and sizes `[B, 2]` int32. Each image lies in the top left corner of its
        canvas; an image taller than H is stored in the same memory as `[W, H, 3]`. Pixels outside of it are 0 and
        never used.

    Raises:
        OSError, InputError: as `load_stimuli`.

    Source: the input format of this package's training (`data.canvas` of a recipe).
    """
    height, width = canvas
    if not 1 <= height <= width:
        raise InputError(f"canvas is {canvas}; give the short side first, then the long one.")
    shrunk = _map_images(functools.partial(decode, short_side=height, long_side=width), images)
    canvases = np.zeros((len(shrunk), height, width, 3), np.uint8)
    for image, target in zip(shrunk, canvases, strict=True):
        place(image, target)
    return canvases, np.array([image.shape[:2] for image in shrunk], np.int32)


def _map_images(
    function: Callable[[bytes | np.ndarray], np.ndarray], images: Stimulus | Iterable[Stimulus]
) -> list[np.ndarray]:
    """Applies a function to each image, read as an encoded file or an array."""
    if isinstance(images, str | os.PathLike | bytes | Image.Image):
        images = [images]
    elif hasattr(images, "__array__") and not isinstance(images, list | tuple):
        array = _as_array(images, "images")
        images = array.ravel().tolist() if array.dtype.kind in "USO" else array if array.ndim == 4 else [array]
    elif not isinstance(images, Iterable):
        raise InputError(f"images are a {type(images).__name__}, expected paths, Pillow images or arrays.")
    results = [_apply(function, image, index) for index, image in enumerate(images)]
    if not results:
        raise InputError("There are no images to load.")
    return results


def _as_array(image: object, name: str) -> np.ndarray:
    try:
        return np.asarray(image)
    except Exception as error:  # such as a tensor on another device, or one that requires grad
        raise InputError(f"{name} can't be taken as an array: {error_text(error)}") from None


def _apply(function: Callable[[bytes | np.ndarray], np.ndarray], image: Stimulus, index: int) -> np.ndarray:
    if isinstance(image, str | os.PathLike):
        name = os.fspath(image)
    else:
        name = f"image {index}, of type {type(image).__name__},"
    try:
        if isinstance(image, Image.Image):
            return function(pixels_of(image))
        if isinstance(image, str | os.PathLike):
            image = read_file(os.path.expanduser(image))
        elif not isinstance(image, bytes):
            if not hasattr(image, "__array__"):
                raise InputError("expected a path, an encoded file, a Pillow image or an array")
            image = _as_array(image, name)
        return function(image)
    except FileNotFoundError:
        raise
    except InputError as error:
        raise InputError(f"{name} can't be used: {error}.") from None
    except Exception as error:
        if not unreadable(error):
            raise
        raise OSError(f"{name} can't be read as an image: {error}") from error
