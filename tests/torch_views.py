"""Augmented views in torch, one at a time, after torchvision's float formulas.

An independent implementation for tests and the benchmark; torchvision itself is not used.
It applies given choices (`ipcl_jax.augment.views.ViewParameters` of one view, as numbers) in whatever
dtype the image has.
"""

import math

import torch
import torch.nn.functional as F

from ipcl_jax.config import Views

SET_1 = Views()


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


def hue_yiq(image: torch.Tensor, turn: float) -> torch.Tensor:
    """A rotation of I and Q, by the conversion's matrix and its inverse."""
    to_yiq = torch.tensor(
        [
            [0.299, 0.587, 0.114],
            [0.59590059, -0.27455667, -0.32134392],
            [0.21153661, -0.52273617, 0.31119955],
        ],
        dtype=torch.float64,
    )
    angle = torch.tensor(2 * math.pi * turn, dtype=torch.float64)
    cos, sin = torch.cos(angle), torch.sin(angle)
    rotate = torch.eye(3, dtype=torch.float64)
    rotate[1:, 1:] = torch.stack([torch.stack([cos, sin]), torch.stack([-sin, cos])])
    matrix = torch.linalg.inv(to_yiq) @ rotate @ to_yiq
    return torch.einsum("ij,jhw->ihw", matrix.to(image.dtype), image).clamp(0, 1)


def blur(image: torch.Tensor, sigma: float, reach: int) -> torch.Tensor:
    """A convolution with the Gaussian's two-dimensional samples."""
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=image.dtype) / sigma) ** 2)
    kernel = torch.outer(line, line)
    wide = F.pad(image[:, None], (reach,) * 4, mode="reflect")
    return F.conv2d(wide, (kernel / kernel.sum())[None, None])[:, 0]


def grid(side: int, dtype: torch.dtype) -> torch.Tensor:
    """Places of pixels `[S, S, 2]`, across and down, from -1 to 1 between a view's edges."""
    line = (2 * torch.arange(side, dtype=dtype) + 1) / side - 1
    down, across = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([across, down], -1)


def bend(image: torch.Tensor, angle: float, distortion: float, outside: float) -> torch.Tensor:
    """Rotation (degrees, counter-clockwise) and then radial distortion, by grid_sample."""
    points = grid(image.shape[-1], image.dtype)
    points = points * (1 + distortion * (points**2).sum(-1, keepdim=True))
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    points = points @ torch.tensor([[cos, sin], [-sin, cos]], dtype=image.dtype)
    options = dict(mode="bilinear", padding_mode="zeros", align_corners=False)
    return F.grid_sample((image - outside)[None], points[None], **options)[0] + outside


def fade(image: torch.Tensor, edge: float, distortion: float, outside: float) -> torch.Tensor:
    points = grid(image.shape[-1], image.dtype)
    radius = points.norm(dim=-1)
    radius = radius * (1 + distortion * radius**2)
    soft = 0.5 * (1 + torch.cos(math.pi * (radius - 1 + edge) / edge))
    share = torch.where(radius <= 1 - edge, 1.0, torch.where(radius >= 1, 0.0, soft))
    return share * image + (1 - share) * outside


def view(image: torch.Tensor, choice: dict, side: int, options: Views = SET_1) -> torch.Tensor:
    """One view of an image.

    Args:
        image: `[3, h, w]` float in [0, 1], upright.
        choice: box (top, left, height, width), flip, gray, brightness, contrast, saturation, hue,
            order, and sigma and angle where there are any; as in ViewParameters.
        side: S.
        options: antialias, hue_space, blur_sigma, window, distortion and mean.

    Returns:
        `[3, S, S]` in [0, 1].
    """
    top, left, height, width = choice["box"]
    crop = image[None, :, top : top + height, left : left + width]
    how = dict(mode="bilinear", align_corners=False, antialias=options.antialias)
    out = F.interpolate(crop, (side, side), **how)[0]
    if choice["gray"]:
        out = luma(out).expand(3, -1, -1)
    operations = (brightness, contrast, saturation, {"hsv": hue, "yiq": hue_yiq}[options.hue_space])
    names = ("brightness", "contrast", "saturation", "hue")
    for which in choice["order"]:
        out = operations[which](out, choice[names[which]])
    out = out.flip(-1) if choice["flip"] else out
    if choice.get("sigma"):
        out = blur(out, choice["sigma"], math.ceil(4 * options.blur_sigma[1]))
    gray = 0.299 * options.mean[0] + 0.587 * options.mean[1] + 0.114 * options.mean[2]
    if "angle" in choice or options.distortion:
        out = bend(out, choice.get("angle", 0.0), options.distortion, gray)
    if options.window:
        out = fade(out, options.window, options.distortion, gray)
    return out
