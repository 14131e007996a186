"""Ridge regression from kernels, until `readout.ridge` has these two functions (with the same arguments); this file is deleted then.

Float64 and plain: one eigendecomposition for each set of fitted images.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from ipcl_jax.readout.base import centre
from ipcl_jax.readout.ridge import correlation


class Fit(NamedTuple):
    """Ridge regression of V voxels.

    Attributes:
        predictions: `[m, V]` to other images.
        alpha: `[V]`, chosen penalties.
        held_out: `[V]`, leave-one-out score of each voxel with that penalty: mean squared error, or r.
    """

    predictions: np.ndarray
    alpha: np.ndarray
    held_out: np.ndarray


class LeftOut(NamedTuple):
    """Predictions of each image by a fit to all others: `[N, V]`, with the penalties `[N, V]` or `[N]`."""

    predictions: np.ndarray
    alpha: np.ndarray


def fit_predict(
    own: np.ndarray,
    cross: np.ndarray,
    responses: np.ndarray,
    alphas: Sequence[float],
    *,
    by: Literal["error", "correlation"] = "error",
    per_voxel: bool = True,
) -> Fit:
    """Fits ridge regression to n images and predicts m others.

    Args:
        own: `[n, n]` linear kernel of the fitted images.
        cross: `[m, n]` linear kernel of the other images with them.
        responses: `[n, V]`.
        alphas: penalties to choose from.
        by: choose penalties by the least squared leave-one-out error, or by the highest correlation of leave-one-out
            predictions and responses.
        per_voxel: choose for each voxel, or else once for all by the mean over voxels.
    """
    own, cross = np.asarray(own, np.float64), np.asarray(cross, np.float64)
    means, count = own.mean(0), len(own)
    values, vectors = np.linalg.eigh(own - means - means[:, None] + means.mean())
    values = np.maximum(values, 0)
    cross = cross - cross.mean(1, keepdims=True) - means + means.mean()
    targets = centre(responses)
    rotated, predictions, scores = vectors.T @ targets, [], []
    for alpha in alphas:
        scale = 1 / (values + alpha)
        weights = vectors @ (scale[:, None] * rotated)
        errors = weights / (vectors**2 @ scale - 1 / (alpha * count))[:, None]
        predictions.append(cross @ weights + responses.mean(0))
        scores.append(correlation(responses - errors, responses) if by == "correlation" else -(errors**2).mean(0))
    table = np.array(scores)
    chosen = (table if per_voxel else table.mean(1, keepdims=True).repeat(table.shape[1], 1)).argmax(0)
    columns = np.arange(table.shape[1])
    return Fit(
        np.array(predictions)[chosen, :, columns].T,
        np.asarray(alphas, float)[chosen],
        table[chosen, columns] * (1 if by == "correlation" else -1),
    )


def leave_one_out(
    kernel: np.ndarray, responses: np.ndarray, alphas: Sequence[float], *, per_voxel: bool = False
) -> LeftOut:
    """Predicts each image by scikit-learn's cross-validated ridge regression on all others; see `fit_predict`."""
    found, chosen = [], []
    for image in range(len(kernel)):
        others = np.arange(len(kernel)) != image
        fit = fit_predict(
            kernel[np.ix_(others, others)], kernel[image, others][None], responses[others], alphas,
            per_voxel=per_voxel,
        )  # fmt: skip
        found.append(fit.predictions[0])
        chosen.append(fit.alpha if per_voxel else fit.alpha[0])
    return LeftOut(np.array(found), np.array(chosen))
