"""Augmentation set 1 in torch, one view at a time, after torchvision's float formulas.

An independent implementation for tests and the benchmark; torchvision itself is not used.
It applies given choices (`ipcl_jax.views.ViewParameters` of one view, as numbers) in whatever
dtype the image has.
"""

import torch
import torch.nn.functional as F


def luma(image: torch.Tensor) -> torch.Tensor:
    red, green, blue = image.unbind(-3)
    return (0.299 * red + 0.587 * green + 0.114 * blue).unsqueeze(-3)


def blend(image: torch.Tensor, other: torch.Tensor | float, factor: float) -> torch.Tensor:
    return (factor * image + (1 - factor) * other).clamp(0, 1)


def brightness(image: torch.Tensor, factor: float) -> torch.Tensor:
    return blend(image, 0.0, factor)


def contrast(image: torch.Tensor, factor: float) -> torch.Tensor:
    return blend(image, luma(image).mean(), factor)


def saturation(image: torch.Tensor, factor: float) -> torch.Tensor:
    return blend(image, luma(image), factor)


def hue(image: torch.Tensor, turn: float) -> torch.Tensor:
    """RGB to HSV, hue turned by a share of the circle, and back by the six-sector table."""
    red, green, blue = image.unbind(-3)
    value, smallest = image.amax(-3), image.amin(-3)
    chroma = value - smallest
    gray = chroma == 0
    sat = chroma / torch.where(value == 0, 1.0, value)
    width = torch.where(gray, 1.0, chroma)
    to_red, to_green, to_blue = ((value - c) / width for c in (red, green, blue))
    angle = torch.where(
        value == red, to_blue - to_green,
        torch.where(value == green, 2 + to_red - to_blue, 4 + to_green - to_red),
    )
    angle = torch.where(gray, 0.0, angle)
    angle = (angle / 6 + turn) % 1.0
    sector = torch.floor(angle * 6)
    inside = angle * 6 - sector
    p, q, t = value * (1 - sat), value * (1 - sat * inside), value * (1 - sat * (1 - inside))
    sector = sector.to(torch.int64) % 6
    table = [(value, t, p), (q, value, p), (p, value, t), (p, q, value), (t, p, value), (value, p, q)]
    planes = [torch.stack(channel).gather(0, sector[None])[0] for channel in zip(*table, strict=True)]
    return torch.stack(planes, -3)


def view(image: torch.Tensor, choice: dict, side: int) -> torch.Tensor:
    """One view of an image.

    Args:
        image: `[3, h, w]` float in [0, 1], upright.
        choice: box (top, left, height, width), flip, gray, brightness, contrast, saturation, hue,
            order; as in ViewParameters.
        side: S.

    Returns:
        `[3, S, S]` in [0, 1].
    """
    top, left, height, width = choice["box"]
    crop = image[None, :, top : top + height, left : left + width]
    out = F.interpolate(crop, (side, side), mode="bilinear", align_corners=False, antialias=True)[0]
    if choice["gray"]:
        out = luma(out).expand(3, -1, -1)
    operations = (brightness, contrast, saturation, hue)
    names = ("brightness", "contrast", "saturation", "hue")
    for which in choice["order"]:
        out = operations[which](out, choice[names[which]])
    return out.flip(-1) if choice["flip"] else out
