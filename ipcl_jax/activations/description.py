"""Checks of the description of a model in a file. Files can come from anywhere, so every field is checked."""

import dataclasses
import math
from typing import Any

import numpy as np

from ipcl_jax.config import IMAGENET_MEAN, IMAGENET_STD, SMALLEST_IMAGE, Model
from ipcl_jax.errors import ConfigError, InputError

LARGEST_IMAGE = 4096  # side in pixels
_DEFAULTS: dict[str, Any] = {
    "mean": IMAGENET_MEAN, "std": IMAGENET_STD, "size": 224, "name": "", "source": "", "steps": 0,
}  # fmt: skip


def check_image_fields(
    mean: object, std: object, size: object, arch: str, *, where: str = ""
) -> dict[str, tuple | int]:
    """Checks the fields that say which images a model takes.

    Args:
        mean: mean of each of the three channels.
        std: standard deviation of each of the three channels.
        size: side in pixels.
        arch: architecture of the network, which sets the smallest size.
        where: where the fields come from, for messages.

    Returns:
        The three fields by name; mean and std are tuples of Python numbers.

    Raises:
        InputError: for an invalid value, such as a std of 0.
    """
    given = {"mean": mean, "std": std, "size": size}
    found = {name: _to_python(value) for name, value in given.items()}
    smallest = SMALLEST_IMAGE[arch]
    checks = {
        "mean": _is_triple(found["mean"]) or "three numbers",
        "std": _is_triple(found["std"]) and min(found["std"]) > 0 or "three numbers above 0",
        "size": _is_int(found["size"], smallest, LARGEST_IMAGE) or f"{smallest} to {LARGEST_IMAGE} pixels",
    }
    for name, expected in checks.items():
        if expected is not True:
            raise InputError(f"{name}{where} is {_short_repr(given[name])}, expected {expected}")
    return found


def _to_python(value: Any) -> Any:
    """Converts NumPy's numbers to Python's, and a list or an array to a tuple of them."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    return tuple(map(_to_python, value)) if isinstance(value, list | tuple) else value


def read_description(description: object) -> dict:
    """Reads the fields of an `Encoder`, except its variables, from the result of `Encoder.description`.

    Args:
        description: from a file. `mean`, `std`, `size`, `name`, `source` and `steps` may be missing.

    Returns:
        All fields, each with a valid value.

    Raises:
        InputError: for an invalid value, or an unknown field.
    """
    if not isinstance(description, dict):
        raise InputError(f"its description is of type {type(description).__name__}, expected a dict")
    if unknown := sorted(map(_short_repr, description.keys() - _DEFAULTS.keys() - {"model"})):
        raise InputError(f"its description has fields that this version doesn't know: {', '.join(unknown)}")
    model = read_model(description.get("model"))
    fields = _DEFAULTS | description | {"model": model}
    fields |= check_image_fields(
        fields["mean"], fields["std"], fields["size"], model.arch, where=" in its description"
    )
    checks = {
        "steps": _is_int(fields["steps"], 0, 2**62) or "a whole number",
        # The name becomes part of a folder's name.
        "name": _is_line(fields["name"]) and not set(fields["name"]) & set("/\\") or "a name, and no path",
        "source": _is_line(fields["source"]) or "a line of text",
    }
    for name, expected in checks.items():
        if expected is not True:
            raise InputError(f"{name} in its description is {_short_repr(fields[name])}, expected {expected}")
    return fields


def read_model(fields: object) -> Model:
    """Reads the configuration of a network from a file's description.

    Args:
        fields: a dict of fields of `Model`, any of which may be missing.

    Returns:
        The network's configuration.

    Raises:
        InputError: if it is not such a dict, or a field has an invalid value.
    """
    known = dataclasses.asdict(Model())
    if not isinstance(fields, dict) or not fields.keys() <= known.keys():
        raise InputError(
            f"the network in its description is {_short_repr(fields)}, expected a dict of {', '.join(known)}"
        )
    try:
        return Model(**fields)
    except ConfigError as error:
        raise InputError(f"the network in its description is invalid: {error}") from None


def _is_int(value: object, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _is_triple(value: object) -> bool:
    """Whether a value has a number for each of three channels."""
    return (
        isinstance(value, list | tuple)
        and len(value) == 3
        and all(type(x) in (int, float) and math.isfinite(x) and abs(x) < 1e6 for x in value)
    )


def _is_line(value: object) -> bool:
    return isinstance(value, str) and len(value) < 256 and (value == "" or value.isprintable())


def _short_repr(value: object) -> str:
    """Returns a value's repr, shortened to fit a message."""
    return (
        repr(value)[:99]
        if isinstance(value, str | int | float | bool | tuple | None)
        else f"a {type(value).__name__}"
    )
