"""Images for the benchmarks, made of the sample photographs, or of noise where these are not installed."""

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from ipcl_jax.data.decode import decode, place
from ipcl_jax.data.sample import photographs
from ipcl_jax.errors import ConfigError


def write_jpegs(folder: Path, number: int, side: int = 256) -> None:
    """Writes JPEGs of random crops of the sample photographs, or of noise.

    Args:
        folder: where to write them; it must exist.
        number: of JPEGs.
        side: their shorter side in pixels.
    """
    rng = np.random.default_rng(0)
    originals = _photographs() or _clouds()

    def write(i: int, shape: tuple[int, int], box: tuple[int, int, int, int]) -> None:
        crop = originals[i % len(originals)].resize(shape, Image.Resampling.BICUBIC, box)
        crop.save(folder / f"{i}.jpg", quality=92)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        written = []
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
            written.append(pool.submit(write, i, shape, (left, top, left + width, top + height)))
    for done in written:
        done.result()


def origin() -> str:
    """Returns what the JPEGs are made of, as a phrase."""
    return "of photographs" if _photographs() else "of noise, without scikit-image and scikit-learn"


def _photographs() -> list[Image.Image]:
    """Opens the sample photographs of 300 pixels and more; none if their packages are not installed."""
    try:
        paths = photographs()
    except ConfigError:
        return []
    images = [Image.open(path).convert("RGB") for path in paths]
    return [image for image in images if min(image.size) >= 300]


def _clouds(number: int = 8, shape: tuple[int, int] = (600, 800)) -> list[Image.Image]:
    """Draws noise whose amplitude falls with frequency as that of photographs does."""
    rng = np.random.default_rng(1)
    rows, columns = (np.fft.fftfreq(side)[:, None] for side in shape)
    frequency = np.maximum(np.hypot(rows, columns.T), 1 / max(shape))[:, :, None]
    images = []
    for _ in range(number):
        spectrum = np.fft.fft2(rng.normal(size=(*shape, 3)), axes=(0, 1)) / frequency
        values = np.fft.ifft2(spectrum, axes=(0, 1)).real
        images.append(Image.fromarray(np.clip(128 + 50 * values / values.std(), 0, 255).astype(np.uint8)))
    return images


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
