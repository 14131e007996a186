"""What every read-out asks of its features and labels."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from ipcl_jax.errors import InputError


def check_features(features: Array, groups: Array | None = None, first: int = 0) -> None:
    """Refuses features that are not finite numbers.

    Args:
        features: `[N, ...]`.
        groups: `[N]`; rows of group -1 are never used, and may hold anything.
        first: row of the first one, for the message.

    Raises:
        InputError: with how many images are concerned, and the first of them.
    """
    bad = np.asarray(_unsound(features, groups))
    if bad.any():
        raise InputError(
            f"Features of {bad.sum()} images are not finite numbers; the first is in row {first + bad.argmax()}. "
            "Leave these images out, or extract them again."
        )


@jax.jit
def _unsound(features: Array, groups: Array | None) -> Array:
    bad = ~jnp.isfinite(features).reshape(len(features), -1).all(1)
    return bad if groups is None else bad & (groups >= 0)


def check_rdms(rdms: np.ndarray, where: str, error: type[InputError] = InputError) -> None:
    """Refuses what is no dissimilarity matrix.

    Args:
        rdms: `[..., N, N]` floats.
        where: what they are, for the message.
        error: the error to raise.

    Raises:
        InputError: if they are not finite, symmetric, and zero on the diagonal.
    """
    if not np.isfinite(rdms).all():
        raise error(f"{where} holds dissimilarities that are not finite numbers.")
    least = 1e-6 * np.abs(rdms).max(initial=0)
    if (np.abs(rdms - rdms.swapaxes(-1, -2)) > least).any():
        raise error(f"{where} is not symmetric, so it holds no RDMs.")
    if (np.abs(np.einsum("...ii->...i", rdms)) > least).any():
        raise error(f"{where} is not zero on its diagonal, so it holds no RDMs (similarities, perhaps?).")


def check_labels(features: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Refuses labels that don't go with their features.

    Args:
        features: `[N, ...]`.
        labels: `[N]`.

    Returns:
        The labels.

    Raises:
        InputError: if the numbers differ, or all labels are the same.
    """
    labels = np.asarray(labels)
    if labels.shape != (features.shape[0],):
        raise InputError(f"There are {features.shape[0]} images and labels of shape {list(labels.shape)}.")
    if len(np.unique(labels)) < 2:
        raise InputError(f"All {len(labels)} images are of one class; a read-out needs two or more.")
    return labels
