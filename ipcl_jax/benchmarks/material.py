"""Images for the benchmarks, made of the sample photographs."""

import tempfile
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from ipcl_jax.data.decode import decode, place
from ipcl_jax.data.sample import photographs


def write_jpegs(folder: Path, number: int, side: int = 256) -> None:
    """Writes JPEGs of random crops of the sample photographs.

    Args:
        folder: where to write them; it must exist.
        number: of JPEGs.
        side: their shorter side in pixels.
    """
    rng = np.random.default_rng(0)
    originals = [Image.open(path).convert("RGB") for path in photographs()]
    originals = [image for image in originals if min(image.size) >= 300]
    for i in range(number):
        image = originals[i % len(originals)]
        aspect = rng.choice([1, 4 / 3, 3 / 2])
        short = int(rng.integers(200, int(min(min(image.size), max(image.size) / aspect)) + 1))
        long = int(short * aspect)
        tall = image.height > image.width or (image.height == image.width and rng.random() < 0.5)
        width, height = (short, long) if tall else (long, short)
        left = int(rng.integers(image.width - width + 1))
        top = int(rng.integers(image.height - height + 1))
        shape = (side, side * long // short) if tall else (side * long // short, side)
        crop = image.resize(shape, Image.Resampling.BICUBIC, (left, top, left + width, top + height))
        crop.save(folder / f"{i}.jpg", quality=92)


def canvases(
    images: int, canvas: tuple[int, int] = (256, 512)
) -> tuple[list[np.ndarray], dict[str, jax.Array]]:
    """Returns decoded images `[h, w, 3]` uint8, and a batch of them on the device as the loader makes it."""
    with tempfile.TemporaryDirectory() as folder:
        write_jpegs(Path(folder), images)
        files = [Path(folder, f"{i}.jpg").read_bytes() for i in range(images)]
    pixels = [decode(file, short_side=canvas[0], long_side=canvas[1]) for file in files]
    into = np.zeros((images, *canvas, 3), np.uint8)
    for image, where in zip(pixels, into, strict=True):
        place(image, where)
    sizes = np.array([image.shape[:2] for image in pixels], np.int32)
    numbers = np.arange(images, dtype=np.int32)
    batch = {"canvas": into, "size": sizes, "index": numbers, "label": numbers % 3}
    return pixels, jax.device_put(batch)
