"""What a file says about the model in it: taken for granted by no one, since files come from anywhere."""

import dataclasses
import math

from ipcl_jax.config import IMAGENET_MEAN, IMAGENET_STD, SMALLEST_IMAGE, Model

LARGEST_IMAGE = 4096  # side in pixels
_MOST_WIDE = 2**20  # outputs of a layer
_USUAL = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "size": 224, "name": "", "source": "", "steps": 0}
_CHOICES = {"arch": tuple(SMALLEST_IMAGE), "norm": ("group", "batch")}


def read_description(description: object) -> dict:
    """The fields of an `Encoder`, but for its variables, from what `Encoder.description` gave.

    Args:
        description: from a file. `mean`, `std`, `size`, `name`, `source` and `steps` may be missing.

    Returns:
        All fields, each with a value that it can have.

    Raises:
        ValueError: if one can't have its value, or isn't known.
    """
    if not isinstance(description, dict):
        raise ValueError(f"its description is of type {type(description).__name__}, expected a dict")
    if unknown := sorted(map(_shown, description.keys() - _USUAL.keys() - {"model"})):
        raise ValueError(f"its description has fields that this version doesn't know: {', '.join(unknown)}")
    model = read_model(description.get("model"))
    fields = _USUAL | description | {"model": model}
    smallest = SMALLEST_IMAGE[model.arch]
    sound = {
        "mean": _is_colour(fields["mean"]) or "three numbers",
        "std": _is_colour(fields["std"]) and min(fields["std"]) > 0 or "three numbers above 0",
        "size": _is_whole(fields["size"], smallest, LARGEST_IMAGE) or f"{smallest} to {LARGEST_IMAGE} pixels",
        "steps": _is_whole(fields["steps"], 0, 2**62) or "a whole number",
        # It becomes part of a folder's name.
        "name": _is_line(fields["name"]) and not set(fields["name"]) & set("/\\") or "a name, and no path",
        "source": _is_line(fields["source"]) or "a line of text",
    }
    for name, expected in sound.items():
        if expected is not True:
            raise ValueError(f"{name} in its description is {_shown(fields[name])}, expected {expected}")
    return fields | {"mean": tuple(fields["mean"]), "std": tuple(fields["std"])}


def read_model(fields: object) -> Model:
    """A network from a file's description of it.

    Args:
        fields: a dict of fields of `Model`, any of which may be missing.

    Returns:
        The network.

    Raises:
        ValueError: if it is something else, or a field has a value that it can't have.
    """
    usual = dataclasses.asdict(Model())
    if not isinstance(fields, dict) or not fields.keys() <= usual.keys():
        raise ValueError(
            f"the network in its description is {_shown(fields)}, expected a dict of {', '.join(usual)}"
        )
    for name, value in fields.items():
        if isinstance(usual[name], bool):
            sound = isinstance(value, bool)
        elif name in _CHOICES:
            sound = value in _CHOICES[name]
        else:
            sound = _is_whole(value, 1, _MOST_WIDE)
        if not sound:
            raise ValueError(f"{name} of the network in its description is {_shown(value)}")
    return Model(**fields)


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
        if isinstance(value, str | int | float | bool | None)
        else f"a {type(value).__name__}"
    )
