"""Checks of arguments that all models share: layer names and image sizes."""

import difflib
from collections.abc import Iterable, Sequence

from jax import Array

from ipcl_jax.errors import InputError


def check_layers(layers: Iterable[str], names: Sequence[str]) -> tuple[str, ...]:
    """Raises InputError if a requested layer does not exist.

    Args:
        layers: requested names.
        names: all names of the model's layers, shallow to deep.

    Returns:
        The requested names, in their order.

    Raises:
        InputError: for an unknown name, with a similar one (if there is one) and all names.
    """
    layers = tuple(layers)
    for name in layers:
        if name in names:
            continue
        if name == "l2norm":
            hint = f": it does not scale its embedding, which is {names[-1]!r}."
        else:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
        raise InputError(f"No layer {name!r} in this model{hint} It has: {', '.join(names)}.")
    return layers


def check_size(images: Array, smallest: int, model: str) -> None:
    """Raises InputError if images are too small for a model.

    Args:
        images: `[B, H, W, 3]`.
        smallest: smallest height and width in pixels.
        model: the model's name, for the message.

    Raises:
        InputError: if a side is shorter than `smallest`.
    """
    height, width = images.shape[1:3]
    if min(height, width) < smallest:
        raise InputError(
            f"Images are {height}x{width} pixels; {model} needs {smallest}x{smallest} at least."
        )
