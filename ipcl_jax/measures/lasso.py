"""The Lasso with weights that are not negative, for many voxels on the same units.

For each voxel, (1 / 2n) |y - X w - b|^2 + alpha sum(w) is minimised over w >= 0 and b. Few weights are above 0, so each
voxel is solved on a small set of units, to which those that would lower the objective most are added until none is left.

Source: Tibshirani 1996 (the Lasso); Bro & de Jong 1997, after Lawson & Hanson (the solution on a set of units).
"""

from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from ipcl_jax.errors import InputError

BLOCK = 1 << 25  # numbers of gradients, and of units in float64, at a time
ADDED = 32  # units that are added to a voxel's set at a time
ROUNDS = 1000  # far more than needed
TOLERANCE = 1e-6
"""Largest violation of the conditions of a minimum, as a share of the penalty."""


class Lasso(NamedTuple):
    """Weights of V voxels.

    Attributes:
        weights: `[V, D]` float64, sparse, not negative.
        intercepts: `[V]` float64.
    """

    weights: csr_array
    intercepts: np.ndarray

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Predicts responses `[m, V]` float64 from units `[m, D]`."""
        used = np.unique(self.weights.indices)
        return features[:, used].astype(np.float64) @ self.weights[:, used].T.toarray() + self.intercepts


def fit_lasso(features: np.ndarray, responses: np.ndarray, alpha: float) -> Lasso:
    """Fits weights that are not negative.

    The conditions of a minimum hold up to `TOLERANCE`: the mean product of a unit (about its mean) and the residuals is
    alpha where its weight is above 0, and at most alpha elsewhere. So it is scikit-learn's `Lasso(alpha, positive=True)`
    with a small `tol`, and depends on no seed.

    Args:
        features: `[n, D]` units.
        responses: `[n, V]`.
        alpha: penalty, above 0.

    Raises:
        InputError: if no minimum is found, as for a penalty that is tiny beside the responses.
    """
    count, width = features.shape
    means, centre = features.mean(0, dtype=np.float64), responses.mean(0, dtype=np.float64)
    step, rows = max(16, BLOCK // width), []
    for start in range(0, responses.shape[1], step):
        block = responses[:, start : start + step] - centre[start : start + step]
        rows.extend(_fit_block(features, means, block, alpha))
    lengths = [len(units) for units, _ in rows]
    weights = csr_array(
        (np.concatenate([w for _, w in rows]), np.concatenate([units for units, _ in rows]), np.cumsum([0, *lengths])),
        shape=(len(rows), width),
    )
    return Lasso(weights, centre - weights @ means)


def _fit_block(
    features: np.ndarray, means: np.ndarray, responses: np.ndarray, alpha: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Fits centred responses `[n, v]`; returns each voxel's units and their weights."""
    count, width = features.shape
    nothing = np.zeros(0, np.int64), np.zeros(0)
    found, residuals, unsolved = [nothing] * responses.shape[1], responses.copy(), np.arange(responses.shape[1])
    for _ in range(ROUNDS):
        gains = _products(features, residuals[:, unsolved]) / count - alpha  # [D, v]
        still = []
        for gain, voxel in zip(gains.T, unsolved.tolist(), strict=True):
            units, weights = found[voxel]
            gain[units] = 0  # those of the set are solved
            best = np.argpartition(gain, -ADDED)[-ADDED:] if width > ADDED else np.arange(width)
            best = best[gain[best] > TOLERANCE * alpha]
            if not len(best):
                continue
            units, weights = np.r_[units, best], np.r_[weights, np.zeros(len(best))]
            values = features[:, units] - means[units]
            target = values.T @ responses[:, voxel] / count - alpha
            weights = _solve(values.T @ values / count, target, weights, TOLERANCE * alpha / 10)
            residuals[:, voxel] = responses[:, voxel] - values @ weights
            found[voxel] = units[weights > 0], weights[weights > 0]
            still.append(voxel)
        unsolved = np.array(still, np.int64)
        if not still:
            return found
    raise InputError(
        f"The Lasso of {len(unsolved)} voxels found no minimum in {ROUNDS} rounds; a larger penalty makes it easier."
    )


def _products(features: np.ndarray, residuals: np.ndarray) -> np.ndarray:
    """Multiplies units `[n, D]` with residuals `[n, v]` in float64, `[D, v]`; these sum to 0, so means don't matter."""
    found, step = np.empty((features.shape[1], residuals.shape[1])), max(1, BLOCK // len(features))
    for start in range(0, features.shape[1], step):
        found[start : start + step] = features[:, start : start + step].astype(np.float64).T @ residuals
    return found


def _solve(gram: np.ndarray, target: np.ndarray, weights: np.ndarray, tolerance: float) -> np.ndarray:
    """Minimises w' G w / 2 - t' w over w >= 0, from weights that are allowed.

    Args:
        gram: `[k, k]`, overwritten.
        target: `[k]`.
        weights: `[k]`, where to begin.
        tolerance: largest gradient that may be left.
    """
    # With units that depend on each other there is no single minimum without the bounds; this leads to one at a bound.
    gram[np.diag_indices_from(gram)] *= 1 + 1e-10
    free, refused = weights > 0, np.zeros(len(target), bool)
    while True:
        weights, free = _settle(gram, target, weights, free)
        gain = np.where(free | refused, -np.inf, target - gram @ weights)
        entering = int(gain.argmax())
        if not gain[entering] > tolerance:
            return weights
        free[entering] = True
        weights, free = _settle(gram, target, weights, free)
        if free[entering]:
            refused[:] = False
        else:
            refused[entering] = True  # its gain was a rounding error, or is another unit's


def _settle(
    gram: np.ndarray, target: np.ndarray, weights: np.ndarray, free: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Minimises over the free weights; those that reach 0 on the way are fixed there."""
    free = free.copy()
    while free.any():
        wanted = np.zeros_like(weights)
        wanted[free] = np.linalg.solve(gram[np.ix_(free, free)], target[free])
        below = np.flatnonzero(free & (wanted <= 0))
        if not len(below):
            return wanted, free
        shares = weights[below] / (weights[below] - wanted[below] + np.finfo(float).tiny)
        share = shares.min()
        weights = np.maximum(weights + share * (wanted - weights), 0)
        free[below[shares <= share]] = False
        weights[~free] = 0
    return np.zeros_like(weights), free
