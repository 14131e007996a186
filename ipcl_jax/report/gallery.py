"""Pictures for a page: what a network sees, and what it finds alike."""

import jax
import numpy as np
from jax import Array
from PIL import Image, ImageOps

from ipcl_jax.augment.views import make_views
from ipcl_jax.config import Train, Views
from ipcl_jax.data.decode import upright
from ipcl_jax.data.loader import eval_batches
from ipcl_jax.data.sources import Source
from ipcl_jax.random_streams import key_of
from ipcl_jax.report.html import Neighbours
from ipcl_jax.report.run_page import ContactSheet
from ipcl_jax.run.monitor import Embedded, nearest_images, spread
from ipcl_jax.training.state import Bank


def contact_sheet(images: Source, config: Train, *, n_images: int = 6) -> ContactSheet:
    """Views of a few images, spread evenly over a source.

    Args:
        images: where they come from.
        config: the run, whose views and seed they are.
        n_images: how many; those that can't be read are left out.

    Returns:
        Images and views as uint8.
    """
    batch = _read(images, spread(len(images), n_images), config.data.canvas)
    if batch["valid"].any():  # what can't be read has no views
        batch = {name: values[batch["valid"]] for name, values in batch.items()}
    views = jax.jit(make_views, static_argnames="options")(
        key_of(config.seed, "pictures"), batch["canvas"], batch["size"], options=config.views
    )
    views = to_uint8(views, config.views).reshape(-1, config.views.per_image, *views.shape[1:])
    return ContactSheet(originals=_upright(batch), views=views)


def draw_sheet(sheet: ContactSheet, *, cell: int = 192) -> Image.Image:
    """A contact sheet as one picture: an image by row, first as it is and then its views.

    Views keep their pixels, each as a square of whole screen pixels if they are small. The
    images are scaled to the same cell, aspect kept.

    Args:
        sheet: images and views.
        cell: views smaller than this are magnified up to it.

    Returns:
        The picture, RGB.
    """
    rows, columns, side = sheet.views.shape[:3]
    scale, gap = max(1, cell // side), 4
    cell = scale * side
    step = cell + gap
    picture = Image.new("RGB", (gap + (columns + 1) * step + gap, gap + rows * step), "white")
    for row, (original, views) in enumerate(zip(sheet.originals, sheet.views, strict=True)):
        top = gap + row * step
        image = ImageOps.contain(Image.fromarray(original), (cell, cell), Image.Resampling.LANCZOS)
        picture.paste(image, (gap + (cell - image.width) // 2, top + (cell - image.height) // 2))
        for column, view in enumerate(views, 1):
            pixels = view.repeat(scale, 0).repeat(scale, 1)
            picture.paste(Image.fromarray(pixels), (2 * gap + column * step, top))
    return picture


def neighbours(
    embedded: Embedded, bank: Bank, held_out: Source, images: Source, config: Train
) -> Neighbours:
    """A few validation images and the training images nearest to them.

    Args:
        embedded: embedded validation images.
        bank: the epoch's training images.
        held_out: where validation images come from.
        images: where training images come from.
        config: the run.

    Returns:
        Images as uint8, with class names if there are classes.
    """
    queries, near, cosines = nearest_images(embedded, bank)
    return pairs(held_out, queries, images, near, cosines, canvas=config.data.canvas)


def pairs(
    held_out: Source, queries: np.ndarray, images: Source, near: np.ndarray, cosines: np.ndarray, *,
    canvas: tuple[int, int],
) -> Neighbours:  # fmt: skip
    """Some images with others that lie nearest to them.

    Args:
        held_out: where the first come from.
        queries: `[Q]` their places there.
        images: where the others come from.
        near: `[Q, n]` their places there.
        cosines: `[Q, n]`.
        canvas: (H, W), H <= W, that pictures are decoded to, in pixels.

    Returns:
        Images as uint8, with class names if there are classes.
    """
    asked, found = _read(held_out, queries, canvas), _read(images, near.ravel(), canvas)
    pictures, names = _upright(found), None
    if images.classes:
        names = [[images.classes[label] for label in labels] for labels in (asked["label"], found["label"])]
    rows = [slice(i * near.shape[1], (i + 1) * near.shape[1]) for i in range(len(near))]
    return Neighbours(
        queries=_upright(asked),
        neighbours=[pictures[row] for row in rows],
        cosines=cosines,
        query_labels=names and names[0],
        neighbour_labels=names and [names[1][row] for row in rows],
    )


def read_images(source: Source, indices: np.ndarray, *, canvas: tuple[int, int]) -> list[np.ndarray]:
    """Images of a source, each `[h, w, 3]` uint8 and small enough for a canvas (H, W), H <= W."""
    return _upright(_read(source, indices, canvas))


def to_uint8(views: Array, options: Views) -> np.ndarray:
    """Normalised views `[..., S, S, 3]` as pictures, uint8."""
    pixels = np.asarray(views) * np.asarray(options.std) + np.asarray(options.mean)
    return np.rint(255 * pixels.clip(0, 1)).astype(np.uint8)


def _read(source: Source, indices: np.ndarray, canvas: tuple[int, int]) -> dict[str, np.ndarray]:
    return next(eval_batches(source, batch_size=len(indices), canvas=canvas, threads=1, indices=indices))


def _upright(batch: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The images of a batch, each `[h, w, 3]` uint8."""
    return [upright(*image).copy() for image in zip(batch["canvas"], batch["size"], strict=True)]
