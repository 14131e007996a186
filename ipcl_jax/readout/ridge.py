"""From features to measured responses: ridge regression for every voxel, and RSA of what it predicts.

Everything is computed from a layer's linear kernel, so a layer may be of any width.

Source: Hoerl & Kennard 1970 (ridge), its leave-one-out errors as in scikit-learn's RidgeCV; Naselaris et al. 2011
(voxel-wise encoding); Konkle & Alvarez 2022 (voxel-encoding RSA).
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from ipcl_jax.errors import InputError
from ipcl_jax.readout.base import centred, check_fitted, check_rows
from ipcl_jax.readout.rsa import Comparison, compare_rdms, rdm

ALPHAS = tuple(10.0**power for power in range(-4, 5))
"""Penalties tried for each voxel, in units of a layer's mean variance."""


@functools.partial(jax.jit, static_argnames="alphas")
def _fit(kernel: Array, responses: Array, alphas: tuple[float, ...]) -> tuple[Array, Array]:
    """Dual weights `[n, V]` of centred kernel and responses, and which penalty each voxel takes."""
    count = len(kernel)
    values, vectors = jnp.linalg.eigh(kernel)
    values = jnp.maximum(values, 0)
    rotated = vectors.T @ responses  # [n, V]

    def errors(alpha: Array) -> Array:
        scale = 1 / (values + alpha)
        # The intercept is fitted anew without each image, which takes 1 / n of the diagonal.
        diagonal = jnp.square(vectors) @ scale - 1 / (alpha * count)
        return jnp.square(vectors @ (scale[:, None] * rotated) / diagonal[:, None]).mean(0)  # [V]

    penalties = jnp.array(alphas)
    chosen = jax.lax.map(errors, penalties).argmin(0)  # [V]
    return vectors @ (rotated / (values[:, None] + penalties[chosen][None])), chosen


class _KernelRidge:
    """Ridge regression of V voxels on a kernel, the penalty of each by its leave-one-out errors.

    Args:
        kernel: `[n, n]` linear kernel of the images.
        responses: `[n, V]`.
        alphas: penalties to choose from.
    """

    def __init__(self, kernel: np.ndarray, responses: np.ndarray, alphas: Sequence[float]):
        kernel, responses = np.asarray(kernel, np.float64), np.asarray(responses, np.float64)
        self._rows, self.intercept = kernel.mean(0), responses.mean(0)
        doubly = kernel - self._rows - self._rows[:, None] + self._rows.mean()
        with jax.enable_x64(True):
            weights, chosen = _fit(doubly, centred(responses), tuple(map(float, alphas)))
            self.weights, self.alpha = np.asarray(weights), np.asarray(alphas, float)[np.asarray(chosen)]

    def predict(self, kernel: np.ndarray) -> np.ndarray:
        """Responses `[m, V]` to other images, given their kernel with these `[m, n]`."""
        kernel = np.asarray(kernel, np.float64)
        doubly = kernel - kernel.mean(1, keepdims=True) - self._rows + self._rows.mean()
        return doubly @ self.weights + self.intercept


@dataclass
class RidgeReadout:
    """Voxel-wise encoding on features at hand, as scikit-learn's `RidgeCV(alphas, alpha_per_target=True)`.

        RidgeReadout().fit(X, Y).score(X2, Y2)

    Args:
        alphas: penalties to choose from, for each voxel the one with the least leave-one-out error.

    Attributes:
        alpha_: `[V]`.
        coef_: `[V, D]`.
        intercept_: `[V]`.
    """

    alphas: Sequence[float] = (0.1, 1.0, 10.0)

    def fit(self, X: ArrayLike, Y: ArrayLike) -> "RidgeReadout":
        """Fits V voxels.

        Args:
            X: `[N, ...]` features; each image's are flattened.
            Y: `[N, V]` responses.

        Returns:
            This object.

        Raises:
            InputError: if X and Y don't go together, something isn't finite, or a penalty isn't above 0.
        """
        X, Y = self._flat(X), np.asarray(Y, np.float64)
        if Y.ndim != 2 or len(Y) != len(X) or len(X) < 2 or not Y.size:
            raise InputError(
                f"X is of {len(X)} images and Y of shape {list(Y.shape)}; expected [N, V] of two or more."
            )
        if not (np.isfinite(X).all() and np.isfinite(Y).all()):
            raise InputError("X or Y holds values that are not finite numbers.")
        alphas = np.ravel(self.alphas).tolist()
        if not alphas or not all(0 < alpha < np.inf for alpha in alphas):
            raise InputError(f"alphas are {alphas}; one or more must be given, and each must be above 0.")
        apart = centred(X)
        ridge = _KernelRidge(apart @ apart.T, Y, alphas)
        self.alpha_ = ridge.alpha
        self.coef_ = ridge.weights.T @ apart
        self.intercept_ = ridge.intercept - self.coef_ @ X.mean(0)
        return self

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Predicts V voxels.

        Args:
            X: `[M, ...]` features of other images.

        Returns:
            `[M, V]` float64.

        Raises:
            InputError: before `fit`, or for features of another width or that are not finite.
        """
        check_fitted(self, "coef_")
        X = self._flat(X, self.coef_.shape[1])
        if not np.isfinite(X).all():
            raise InputError("X holds values that are not finite numbers.")
        return X @ self.coef_.T + self.intercept_

    def score(self, X: ArrayLike, Y: ArrayLike) -> np.ndarray:
        """Compares predicted with measured responses.

        Args:
            X: `[M, ...]` features of two images or more.
            Y: `[M, V]` responses.

        Returns:
            `[V]`, Pearson's r; 0 for a voxel that is the same for all images.

        Raises:
            InputError: as `predict`, and for responses of another shape or that are not finite.
        """
        found, Y = self.predict(X), np.asarray(Y, np.float64)
        if Y.shape != found.shape or len(Y) < 2:
            raise InputError(
                f"Y is of shape {list(Y.shape)}; expected {list(found.shape)}, of two images or more and the voxels "
                "that were fitted."
            )
        if not np.isfinite(Y).all():
            raise InputError("Y holds values that are not finite numbers.")
        return correlation(found, Y)

    def _flat(self, X: ArrayLike, width: int | None = None) -> np.ndarray:
        X = np.asarray(check_rows(X, width), np.float64)
        return X.reshape(len(X), -1)


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's r of the columns of two arrays `[N, V]` float64; 0 where one is the same in all rows."""
    a, b = centred(a), centred(b)
    length = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
    return (a * b).sum(0) / np.where(length > 0, length, 1.0)


def reliability_ceiling(responses: np.ndarray) -> np.ndarray | None:
    """The highest correlation with the mean of repeats that a perfect model can be expected to have.

    Args:
        responses: `[R, N, V]`.

    Returns:
        `[V]`, the root of the mean's reliability (Spearman-Brown, from the mean correlation of two
        repeats); None for a single repeat.
    """
    repeats = len(responses)
    if repeats < 2:
        return None
    pairs = [correlation(responses[i], responses[j]) for i in range(repeats) for j in range(i)]
    single = np.clip(np.mean(pairs, axis=0), 0, 1)
    return np.sqrt(repeats * single / (1 + (repeats - 1) * single))


def encode(
    kernel: np.ndarray,
    responses: np.ndarray,
    *,
    n_folds: int = 5,
    alphas: Sequence[float] = ALPHAS,
    seed: int = 0,
) -> np.ndarray:
    """Cross-validated encoding of voxels by a layer.

    Args:
        kernel: `[N, N]`, the layer's linear kernel.
        responses: `[R, N, V]`; repeats are averaged.
        n_folds: parts of the images; each is predicted from the others.
        alphas: penalties, in units of the layer's mean variance over the images that are fitted.
        seed: of the folds.

    Returns:
        `[V]`, Pearson's r of predicted and measured responses, the mean over folds.

    Raises:
        InputError: if a fold would have fewer than 3 images.
    """
    mean, count = responses.mean(0), len(kernel)
    if not 2 <= n_folds <= count // 3:
        raise InputError(
            f"{count} images can't be dealt out to {n_folds} folds of 3 or more; take 2 to {count // 3}."
        )
    folds = np.random.default_rng(seed).permutation(count) % n_folds
    found = []
    for fold in range(n_folds):
        fitted, tested = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        found.append(correlation(_predicted(kernel, mean, fitted, tested, alphas), mean[tested]))
    return np.mean(found, axis=0)


def _predicted(
    kernel: np.ndarray, responses: np.ndarray, fitted: np.ndarray, tested: np.ndarray, alphas: Sequence[float]
) -> np.ndarray:
    own = np.asarray(kernel[np.ix_(fitted, fitted)], np.float64)
    size, error = np.trace(own) / len(own), np.finfo(np.result_type(kernel, np.float16)).eps
    variance = size - own.mean()
    unit = variance if variance > 4 * error * size else np.inf  # the same in all images: predicts nothing
    ridge = _KernelRidge(own / unit, responses[fitted], alphas)
    return ridge.predict(kernel[np.ix_(tested, fitted)] / unit)


def varying_mean(responses: np.ndarray) -> np.ndarray:
    """The mean of repeats `[N, V]`, of `[R, N, V]`, without voxels that are the same for all images."""
    mean = responses.mean(0)
    return mean[:, centred(mean).any(0)]


def versa(
    kernel: np.ndarray,
    responses: Sequence[np.ndarray],
    *,
    method: Comparison = "spearman",
    alphas: Sequence[float] = ALPHAS,
    n_splits: int = 4,
    seed: int = 0,
) -> tuple[np.ndarray, tuple[float, float] | None]:
    """Voxel-encoding RSA: does the layer, fitted to the voxels, have the geometry of the measured responses?

    Each voxel is predicted from the layer on half of the images, by ridge regression. The RDM (correlation)
    of the responses that this predicts to the other half is compared with the measured one. Both
    halves take both parts, and several random halvings are averaged.

    Differs: voxels are fitted by ridge regression, on all units of the layer; the paper has a regression of
    its own, so scores can't be compared with published ones digit by digit.

    Args:
        kernel: `[N, N]`, the layer's linear kernel.
        responses: of each subject `[R, N, V]`; repeats are averaged, voxels that are the same for all images are
            left out, and V may differ.
        method: of comparison.
        alphas: penalties, in units of the layer's mean variance over the images that are fitted.
        n_splits: random halvings.
        seed: of the halvings.

    Returns:
        Each subject's score `[S]`, and the noise ceiling of `rsa.Agreement` (None for one subject).

    Raises:
        InputError: for fewer than 8 images, or a subject without two voxels that vary.
    """
    count = len(kernel)
    if count < 8:
        raise InputError(f"Voxel-encoding RSA of {count} images; it takes 8, for halves of 4.")
    means = [varying_mean(subject) for subject in responses]
    if poor := [s for s, mean in enumerate(means) if mean.shape[1] < 2]:
        raise InputError(f"Subject {poor[0]} has no two voxels that vary; a geometry takes two or more.")
    scores, ceilings, rng = [], [], np.random.default_rng(seed)
    for _ in range(n_splits):
        order = rng.permutation(count)
        halves = order[: count // 2], order[count // 2 :]
        for fitted, tested in (halves, halves[::-1]):
            measured = np.stack([rdm(mean[tested]) for mean in means])
            predicted = [rdm(_predicted(kernel, mean, fitted, tested, alphas)) for mean in means]
            found = compare_rdms(
                {str(s): found for s, found in enumerate(predicted)}, measured, method=method
            )
            # Each subject's prediction against the same subject's responses.
            scores.append([found.by_subject[str(s)][s] for s in range(len(means))])
            ceilings.append(found.ceiling)
    ceiling = None if ceilings[0] is None else tuple(np.mean(ceilings, axis=0).tolist())
    return np.mean(scores, axis=0), ceiling
