"""What every model refuses, in the same words: layers that it lacks, images too small."""

import difflib
from collections.abc import Iterable, Sequence

from jax import Array

from ipcl_jax.errors import InputError


def check_layers(layers: Iterable[str], names: Sequence[str]) -> tuple[str, ...]:
    """The layers asked for, if the model has them all.

    Args:
        layers: names asked for.
        names: every name that the model has, shallow to deep.

    Returns:
        The names asked for, in their order.

    Raises:
        InputError: for one that the model lacks, with the near one (if one is near) and all it has.
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
    """Refuses images that leave the last layers nothing to see.

    Args:
        images: `[B, H, W, 3]`.
        smallest: pixels that each side needs.
        model: what to call the model.

    Raises:
        InputError: if a side is shorter.
    """
    height, width = images.shape[1:3]
    if min(height, width) < smallest:
        raise InputError(
            f"Images are {height}x{width} pixels; {model} needs {smallest}x{smallest} at least."
        )
