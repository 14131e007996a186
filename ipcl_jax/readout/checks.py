"""What every read-out asks of its features and labels."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike


def check_features(features: Array, groups: Array | None = None, first: int = 0) -> None:
    """Refuses features that are not finite numbers.

    Args:
        features: `[N, ...]`.
        groups: `[N]`; rows of group -1 are never used, and may hold anything.
        first: row of the first one, for the message.

    Raises:
        ValueError: with how many images are concerned, and the first of them.
    """
    bad = np.asarray(_unsound(features, groups))
    if bad.any():
        raise ValueError(
            f"Features of {bad.sum()} images are not finite numbers; the first is in row {first + bad.argmax()}. "
            "Leave these images out, or extract them again."
        )


@jax.jit
def _unsound(features: Array, groups: Array | None) -> Array:
    bad = ~jnp.isfinite(features).reshape(len(features), -1).all(1)
    return bad if groups is None else bad & (groups >= 0)


def check_labels(features: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Refuses labels that don't go with their features.

    Args:
        features: `[N, ...]`.
        labels: `[N]`.

    Returns:
        The labels.

    Raises:
        ValueError: if the numbers differ, or all labels are the same.
    """
    labels = np.asarray(labels)
    if labels.shape != (features.shape[0],):
        raise ValueError(f"There are {features.shape[0]} images and labels of shape {list(labels.shape)}.")
    if len(np.unique(labels)) < 2:
        raise ValueError(f"All {len(labels)} images are of one class; a read-out needs two or more.")
    return labels
