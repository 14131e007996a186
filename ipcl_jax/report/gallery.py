"""Pictures for a run's page: views of training images, and nearest neighbours of held-out images."""

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
from ipcl_jax.run.bank import References
from ipcl_jax.run.monitor import Embedded, evenly_spaced, nearest_images


def contact_sheet(images: Source, config: Train, *, n_images: int = 6) -> ContactSheet:
    """Draws views of a few images, evenly spaced over a source.

    Args:
        images: the source.
        config: the run, whose views and seed are used.
        n_images: number of images; those that can't be read are left out.

    Returns:
        Images and views as uint8.
    """
    batch = _read(images, evenly_spaced(len(images), n_images), config.data.canvas)
    if batch["valid"].any():  # leaves out unreadable images
        batch = {name: values[batch["valid"]] for name, values in batch.items()}
    views = jax.jit(make_views, static_argnames="options")(
        key_of(config.seed, "pictures"), batch["canvas"], batch["size"], options=config.views
    )
    views = to_uint8(views, config.views).reshape(-1, config.views.per_image, *views.shape[1:])
    return ContactSheet(originals=_upright(batch), views=views)


def draw_sheet(sheet: ContactSheet, *, cell: int = 192) -> Image.Image:
    """Draws a contact sheet as one picture: a row for each image, the image itself first and then its views.

    Small views are magnified by a whole factor without interpolation. The images are scaled to the same size, with
    their aspect ratio kept.

    Args:
        sheet: images and views.
        cell: views are magnified as long as they don't exceed this side in pixels.

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
    embedded: Embedded, references: References, held_out: Source, images: Source, config: Train
) -> Neighbours:
    """Returns a few held-out images and the training images nearest to them.

    Args:
        embedded: embeddings of held-out images.
        references: prototypes of the epoch's training images.
        held_out: the source of held-out images.
        images: the source of training images.
        config: the run.

    Returns:
        Images as uint8, with class names if there are classes.
    """
    queries, near, cosines = nearest_images(embedded, references)
    return neighbour_pictures(held_out, queries, images, near, cosines, canvas=config.data.canvas)


def neighbour_pictures(
    held_out: Source, queries: np.ndarray, images: Source, near: np.ndarray, cosines: np.ndarray, *,
    canvas: tuple[int, int],
) -> Neighbours:  # fmt: skip
    """Reads queries and their nearest neighbours.

    Args:
        held_out: the source of the queries.
        queries: `[Q]` their indices there.
        images: the source of the neighbours.
        near: `[Q, n]` their indices there.
        cosines: `[Q, n]`.
        canvas: (H, W), H <= W, that pictures are decoded to, in pixels.

    Returns:
        Images as uint8, with class names if there are classes.
    """
    asked, found = _read(held_out, queries, canvas), _read(images, near.ravel(), canvas)
    pictures = _upright(found)
    rows = [slice(i * near.shape[1], (i + 1) * near.shape[1]) for i in range(len(near))]
    query_labels, neighbour_labels = None, None
    if images.classes:
        query_labels = [images.classes[label] for label in asked["label"]]
        names = [images.classes[label] for label in found["label"]]
        neighbour_labels = [names[row] for row in rows]
    return Neighbours(
        queries=_upright(asked),
        neighbours=[pictures[row] for row in rows],
        cosines=cosines,
        query_labels=query_labels,
        neighbour_labels=neighbour_labels,
    )


def read_images(source: Source, indices: np.ndarray, *, canvas: tuple[int, int]) -> list[np.ndarray]:
    """Reads images of a source, each `[h, w, 3]` uint8, shrunk to fit a canvas (H, W), H <= W."""
    return _upright(_read(source, indices, canvas))


def to_uint8(views: Array, options: Views) -> np.ndarray:
    """Undoes the normalisation of views `[..., S, S, 3]`; returns uint8."""
    pixels = np.asarray(views) * np.asarray(options.std) + np.asarray(options.mean)
    return np.rint(255 * pixels.clip(0, 1)).astype(np.uint8)


def _read(source: Source, indices: np.ndarray, canvas: tuple[int, int]) -> dict[str, np.ndarray]:
    return next(
        eval_batches(source, batch_size=len(indices), canvas=canvas, threads=1, indices=indices.tolist())
    )


def _upright(batch: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Returns the images of a batch, each `[h, w, 3]` uint8."""
    return [upright(*image).copy() for image in zip(batch["canvas"], batch["size"], strict=True)]
