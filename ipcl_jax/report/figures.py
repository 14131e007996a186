"""Pictures of the page on models: a map of embeddings, and the filters of the first layer."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from ipcl_jax.report.drawing import load_matplotlib

SIDE = 1100  # of a map, in pixels
_FRAME, _GAP = 2, 2


def class_colours(labels: np.ndarray) -> dict[int, str]:
    """Returns a colour `#rrggbb` for each class in `labels`; empty if there are more than twenty classes."""
    matplotlib = load_matplotlib()
    known = [int(label) for label in np.unique(labels) if label >= 0]
    palette = matplotlib.color_sequences["tab20"]
    if len(known) > len(palette):
        return {}
    return {label: matplotlib.colors.to_hex(colour) for label, colour in zip(known, palette, strict=False)}


def draw_map(points: np.ndarray, images: Sequence[np.ndarray], labels: np.ndarray) -> Image.Image:
    """Draws images at the positions of their embeddings, with frames in the colours of their classes.

    Args:
        points: `[N, 2]` positions, in any range.
        images: N images `[h, w, 3]` uint8; their central square is shown.
        labels: `[N]` classes, int from 0; -1 for none.

    Returns:
        The map, RGB.
    """
    side = int(np.clip(SIDE / (1.35 * np.sqrt(len(points))), 24, 96))
    span = np.ptp(points, axis=0)
    places = (points - points.min(0)) / np.where(span > 0, span, 1) * (SIDE - side)
    colours, sheet = class_colours(labels), Image.new("RGB", (SIDE, SIDE), "white")
    for (x, y), image, label in zip(places.astype(int), images, labels, strict=True):
        frame = _FRAME if int(label) in colours else 0
        inner = side - 2 * frame
        thumbnail = ImageOps.fit(Image.fromarray(image), (inner, inner), Image.Resampling.LANCZOS)
        sheet.paste(ImageOps.expand(thumbnail, frame, colours.get(int(label), "white")), (int(x), int(y)))
    return sheet


def draw_filters(kernel: np.ndarray, *, columns: int = 16) -> Image.Image:
    """Draws the filters of the first convolution, each scaled to its own range.

    Args:
        kernel: `[h, w, 3, N]`.
        columns: filters in a row.

    Returns:
        The filters, RGB; each weight is a square of n x n pixels.
    """
    height, width, _, count = kernel.shape
    low, high = kernel.min((0, 1, 2)), kernel.max((0, 1, 2))
    pixels = np.rint(255 * (kernel - low) / np.where(high > low, high - low, 1)).astype(np.uint8)
    scale = max(1, 44 // height)
    pixels = pixels.repeat(scale, 0).repeat(scale, 1)
    columns, (height, width) = min(columns, count), pixels.shape[:2]
    rows = -(-count // columns)
    size = columns * (width + _GAP) - _GAP, rows * (height + _GAP) - _GAP
    sheet = Image.new("RGB", size, "white")
    for place in range(count):
        row, column = divmod(place, columns)
        sheet.paste(Image.fromarray(pixels[..., place]), (column * (width + _GAP), row * (height + _GAP)))
    return sheet
