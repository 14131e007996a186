"""What varies, and what only seems to because its mean is rounded."""

from typing import TypeVar

import jax
import numpy as np
from jax import Array

Values = TypeVar("Values", np.ndarray, Array)


def centred(values: Values, axis: int = 0) -> Values:
    """Values less their mean along an axis; exactly 0 where they are the same up to rounding.

    The mean of equal numbers is rounded (of 0.1, say), so that what is left of them is small but not 0, and a
    division by its length would make numbers of any size of it.

    Args:
        values: floats of any shape, NumPy's or JAX's.
        axis: along which the mean is taken.
    """
    apart = values - values.mean(axis, keepdims=True)
    apart = apart - apart.mean(axis, keepdims=True)  # the first mean is rounded at the size of the values
    return apart * (abs(apart).max(axis, keepdims=True) > rounding(values, axis))


def rounding(values: Values, axis: int | tuple[int, ...]) -> Values:
    """The difference that rounding can make between equal numbers of this size and type."""
    return 4 * float(np.finfo(values.dtype).eps) * abs(values).max(axis, keepdims=True)


def without_length(rows: Array) -> Array:
    """Vectors along the last axis at unit length; one of zeros stays as it is.

    Each is brought to the size of 1 before it is squared, so that neither small nor large ones are lost.
    """
    largest = abs(rows).max(-1, keepdims=True)
    rows = rows / (largest + (largest == 0))
    length = jax.numpy.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / (length + (length == 0))
