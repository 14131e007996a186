"""Decodes images to pixels of bounded size, and places them on a canvas.

simplejpeg decodes the JPEG files that it supports, and Pillow all others; both give the same pixels.
"""

import errno
import io
from collections.abc import Sequence

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from ipcl_jax.errors import InputError

UNBOUNDED = 2**31 - 1  # longer than any side
MOST_PIXELS = 178_956_970  # of an image, as in Pillow: a small file can declare any size

# TIFF tags: bits per sample, photometric interpretation (0: 0 is white), and sample format (2: signed).
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339

# Formats that Pillow may open. It supports others, of which EPS runs an external program.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")

# Permanent errors of the file itself: it doesn't exist, or this user may not open it.
_PERMANENT = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM
}  # fmt: skip


def unreadable(error: Exception) -> bool:
    """Whether an error in reading and decoding an image is permanent: caused by the image, not by the system.

    Damaged files raise almost any exception. Temporary are a lack of memory and errors of a disk, a network or a
    limit (`errno`: EIO, ESTALE, EMFILE, a timeout): the image may be readable a moment later, so it must not count
    as damaged.

    Args:
        error: the exception raised.

    Returns:
        True if reading the image again would fail again: it is not an image, the file doesn't exist, or this user
        may not open it. False if the error should be raised.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _PERMANENT
    return not isinstance(error, MemoryError | TimeoutError)


def decode(
    image: bytes | np.ndarray, *, short_side: int = UNBOUNDED, long_side: int = UNBOUNDED
) -> np.ndarray:
    """Decodes an image and shrinks it (never enlarges it) so that both sides are within bounds.

    Orientation tags are not applied, as in the reference. For the supported modes see `pixels_of`.

    Args:
        image: an encoded file, or `[H, W]`, `[H, W, 1]` or `[H, W, 3]` uint8.
        short_side: largest shorter side in pixels; by default unbounded.
        long_side: largest longer side in pixels; by default unbounded.

    Returns:
        `[h, w, 3]` uint8.

    Raises:
        InputError: for an array of another shape or dtype, and for pixels without a defined range.
        Exception: any that Pillow raises, mostly OSError, if the file is damaged, truncated, not an image, or has
            more than `MOST_PIXELS` by its header.

    Source: sizes as torchvision's Resize (the longer side rounded down to whole pixels), and its antialiased
    bilinear filter, which is Pillow's.
    """
    return decode_into(np.empty(0, np.uint8), image, short_side, long_side)


def decode_into(
    scratch: np.ndarray, image: bytes | np.ndarray, short_side: int, long_side: int
) -> np.ndarray:
    """Decodes as `decode`, into the buffer `scratch`, `[any]` uint8, where that is large enough and of use."""
    if isinstance(image, np.ndarray):
        pixels, full = _to_rgb(image), image.shape[:2]
    else:
        pixels, full = _decode_file(image, short_side, long_side, scratch)
    height, width = _fit(full[0], full[1], short_side, long_side)
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def _decode_file(image: bytes, short_side: int, long_side: int, scratch: np.ndarray) -> tuple:
    """Returns pixels, which may already be shrunk towards the bounds, and the file's (height, width)."""
    if image[:2] == b"\xff\xd8":
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(image)
            full = height, width
            if colours not in ("YCbCr", "RGB", "Gray"):  # simplejpeg converts CMYK differently from Pillow
                raise ValueError(colours)
            if height * width > MOST_PIXELS:
                raise ValueError("too large")  # Pillow raises the error
            low, narrow = _fit(height, width, short_side, long_side)
            if 2 * low <= height:  # at half the size or less, the decoder can shrink
                height, width = simplejpeg.decode_jpeg_header(image, low, narrow, 2)[:2]
            else:
                low, narrow = height, width
            buffer = scratch if scratch.size >= height * width * 3 else None  # fresh memory takes a tenth longer
            return simplejpeg.decode_jpeg(image, "RGB", False, False, low, narrow, 2, buffer), full
        except ValueError:  # simplejpeg also fails on harmless irregularities, which Pillow accepts
            pass
    try:
        file = open_image(image)
    except UnidentifiedImageError:  # its own message has the repr of a Python object
        raise OSError("not an image file, or cut off near its start") from None
    with file:
        pixels = pixels_of(file)
    return pixels, pixels.shape[:2]


def pixels_of(image: Image.Image) -> np.ndarray:
    """Converts a Pillow image to RGB pixels, the same as those of the file that it was opened from.

    Palette, grey, CMYK, YCbCr, HSV and LAB images are converted to RGB, alpha is dropped, and of 16 bits (in TIFF
    also 12) the upper eight are kept.

    Args:
        image: of any mode.

    Returns:
        `[h, w, 3]` uint8.

    Raises:
        InputError: for floats, signed integers and integers of 32 bits, whose files don't define the values of black
            and white. (PGM and PNG define them; Pillow may open their 16 bits as 32.)
    """
    tags = getattr(image, "tag_v2", {})
    signed = tags.get(_SAMPLE_FORMAT, (1,))[0] == 2
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PPM", "PNG")):
        grey = (np.asarray(image) >> (tags.get(_BITS, (16,))[0] - 8)).astype(np.uint8)
        return _to_rgb(255 - grey if tags.get(_PHOTOMETRIC) == 0 else grey)
    if image.mode in ("I", "F") or signed:
        kind = "floats" if image.mode == "F" else "signed integers" if signed else "integers of 32 bits"
        raise InputError(
            f"its pixels are {kind}, for which no range from black to white is defined; save it with 8 bits, or "
            "unsigned 16, a channel"
        )
    if "transparency" in image.info:  # otherwise Pillow warns; the colours are the same
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))


def open_image(image: bytes) -> Image.Image:
    """Opens an encoded image with Pillow, which reads its header only.

    Raises:
        UnidentifiedImageError: if it is in none of `FORMATS`.
        Image.DecompressionBombError: if it has more than `MOST_PIXELS`.
    """
    return Image.open(io.BytesIO(image), formats=FORMATS)


def size_of(image: bytes) -> tuple[int, int]:
    """Reads height and width from the header of an image's file.

    Raises:
        Exception: as `open_image`, if the file is no image.
    """
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(image)
        return height, width
    except ValueError:  # not a JPEG, or one that only Pillow accepts
        with open_image(image) as file:
            return file.height, file.width


def _to_rgb(image: np.ndarray) -> np.ndarray:
    shape, hint = image.shape, ""
    if image.dtype != np.uint8:
        hint = ". Scale it to 0-255 and round it first" if image.dtype.kind in "fiub" else ""
    elif image.ndim == 3 and shape[-1] == 4:
        hint = ". Drop its alpha: image[..., :3]"
    elif image.ndim == 3 and shape[0] in (1, 3):
        hint = ". Channels come last: image.transpose(1, 2, 0)"
    if image.ndim == 2:
        image = image[..., None]
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] not in (1, 3) or not image.size:
        raise InputError(f"an image is [H, W, 3] or [H, W] uint8, not {list(shape)} {image.dtype}{hint}")
    return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))


def _fit(height: int, width: int, short_side: int, long_side: int) -> tuple[int, int]:
    short, long = min(height, width), max(height, width)
    new_short = min(short, short_side)
    new_long = int(new_short * long / short)
    if new_long > long_side:
        new_short, new_long = max(1, int(long_side * short / long)), long_side
    return (new_short, new_long) if height <= width else (new_long, new_short)


def place(image: np.ndarray, canvas: np.ndarray) -> None:
    """Copies an image to the top left corner of a canvas; one taller than H is stored in it seen as `[W, H, 3]`.

    Args:
        image: `[h, w, 3]` uint8, with shorter side <= H and longer side <= W.
        canvas: `[H, W, 3]` uint8, contiguous; pixels outside the image are not written.
    """
    upright(canvas, image.shape[:2])[...] = image


def upright(canvas: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Returns a view of the image on a canvas.

    Args:
        canvas: `[H, W, 3]` uint8, contiguous.
        size: the image's height and width.

    Returns:
        `[h, w, 3]` uint8.
    """
    height, width = size
    if height > canvas.shape[0]:
        canvas = canvas.reshape(canvas.shape[1], canvas.shape[0], 3)
    return canvas[:height, :width]
