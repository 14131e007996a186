"""What a file says about the model in it: taken for granted by no one, since files come from anywhere."""

import dataclasses
import math

import numpy as np

from ipcl_jax.config import IMAGENET_MEAN, IMAGENET_STD, SMALLEST_IMAGE, Model
from ipcl_jax.errors import ConfigError, InputError

LARGEST_IMAGE = 4096  # side in pixels
_USUAL = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "size": 224, "name": "", "source": "", "steps": 0}


def checked_images(mean: object, std: object, size: object, arch: str, *, where: str = "") -> dict:
    """What images a model is given, if it can be.

    Args:
        mean: of three channels.
        std: of three channels.
        size: side in pixels.
        arch: of the network, which needs images of some size.
        where: they are from, for messages.

    Returns:
        The three by their names; mean and std are tuples of Python's numbers.

    Raises:
        InputError: for one that can't be, such as a std of 0.
    """
    given = {"mean": mean, "std": std, "size": size}
    found = {name: _plain(value) for name, value in given.items()}
    smallest = SMALLEST_IMAGE[arch]
    sound = {
        "mean": _is_colour(found["mean"]) or "three numbers",
        "std": _is_colour(found["std"]) and min(found["std"]) > 0 or "three numbers above 0",
        "size": _is_whole(found["size"], smallest, LARGEST_IMAGE) or f"{smallest} to {LARGEST_IMAGE} pixels",
    }
    for name, expected in sound.items():
        if expected is not True:
            raise InputError(f"{name}{where} is {_shown(given[name])}, expected {expected}")
    return found


def _plain(value: object) -> object:
    """Python's numbers for NumPy's, and a tuple of them for a list or an array."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def read_description(description: object) -> dict:
    """The fields of an `Encoder`, but for its variables, from what `Encoder.description` gave.

    Args:
        description: from a file. `mean`, `std`, `size`, `name`, `source` and `steps` may be missing.

    Returns:
        All fields, each with a value that it can have.

    Raises:
        InputError: if one can't have its value, or isn't known.
    """
    if not isinstance(description, dict):
        raise InputError(f"its description is of type {type(description).__name__}, expected a dict")
    if unknown := sorted(map(_shown, description.keys() - _USUAL.keys() - {"model"})):
        raise InputError(f"its description has fields that this version doesn't know: {', '.join(unknown)}")
    model = read_model(description.get("model"))
    fields = _USUAL | description | {"model": model}
    fields |= checked_images(
        fields["mean"], fields["std"], fields["size"], model.arch, where=" in its description"
    )
    sound = {
        "steps": _is_whole(fields["steps"], 0, 2**62) or "a whole number",
        # It becomes part of a folder's name.
        "name": _is_line(fields["name"]) and not set(fields["name"]) & set("/\\") or "a name, and no path",
        "source": _is_line(fields["source"]) or "a line of text",
    }
    for name, expected in sound.items():
        if expected is not True:
            raise InputError(f"{name} in its description is {_shown(fields[name])}, expected {expected}")
    return fields


def read_model(fields: object) -> Model:
    """A network from a file's description of it.

    Args:
        fields: a dict of fields of `Model`, any of which may be missing.

    Returns:
        The network.

    Raises:
        InputError: if it is something else, or a field has a value that it can't have.
    """
    usual = dataclasses.asdict(Model())
    if not isinstance(fields, dict) or not fields.keys() <= usual.keys():
        raise InputError(
            f"the network in its description is {_shown(fields)}, expected a dict of {', '.join(usual)}"
        )
    try:
        return Model(**fields)
    except ConfigError as error:
        raise InputError(f"the network in its description can't be: {error}") from None


def _is_whole(value: object, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _is_colour(value: object) -> bool:
    """Whether it is a number for each of three channels."""
    return (
        isinstance(value, list | tuple)
        and len(value) == 3
        and all(type(x) in (int, float) and math.isfinite(x) and abs(x) < 1e6 for x in value)
    )


def _is_line(value: object) -> bool:
    return isinstance(value, str) and len(value) < 256 and (value == "" or value.isprintable())


def _shown(value: object) -> str:
    """As much of a value as fits a message."""
    return (
        repr(value)[:99]
        if isinstance(value, str | int | float | bool | tuple | None)
        else f"a {type(value).__name__}"
    )
