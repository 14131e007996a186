"""Ridge regression from features to measured responses of each voxel, and RSA of the predicted responses.

Both are computed from a layer's linear kernel, so a layer can have any number of features.

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
from ipcl_jax.readout.base import centre, check_fitted, check_rows
from ipcl_jax.readout.rsa import Comparison, compare_rdms, rdm

ALPHAS = tuple(10.0**power for power in range(-4, 5))
"""Penalties to choose from for each voxel, in units of a layer's mean variance."""


@functools.partial(jax.jit, static_argnames="alphas")
def _fit(kernel: Array, responses: Array, alphas: tuple[float, ...]) -> tuple[Array, Array]:
    """Returns dual weights `[n, V]` for a centred kernel and responses, and the index of each voxel's penalty."""
    count = len(kernel)
    values, vectors = jnp.linalg.eigh(kernel)
    values = jnp.maximum(values, 0)
    rotated = vectors.T @ responses  # [n, V]

    def errors(alpha: Array) -> Array:
        scale = 1 / (values + alpha)
        # The intercept is fitted without the image too, which subtracts 1 / (alpha n) from the diagonal.
        diagonal = jnp.square(vectors) @ scale - 1 / (alpha * count)
        return jnp.square(vectors @ (scale[:, None] * rotated) / diagonal[:, None]).mean(0)  # [V]

    penalties = jnp.array(alphas)
    chosen = jax.lax.map(errors, penalties).argmin(0)  # [V]
    return vectors @ (rotated / (values[:, None] + penalties[chosen][None])), chosen


class _KernelRidge:
    """Ridge regression of V voxels on a kernel; each voxel's penalty has the least leave-one-out error.

    Args:
        kernel: `[n, n]` linear kernel of the images.
        responses: `[n, V]`.
        alphas: penalties to choose from.
    """

    def __init__(self, kernel: np.ndarray, responses: np.ndarray, alphas: Sequence[float]):
        kernel, responses = np.asarray(kernel, np.float64), np.asarray(responses, np.float64)
        self._means, self.intercept = kernel.mean(0), responses.mean(0)
        centred = kernel - self._means - self._means[:, None] + self._means.mean()
        with jax.enable_x64(True):
            weights, chosen = _fit(centred, centre(responses), tuple(map(float, alphas)))
            self.weights, self.alpha = np.asarray(weights), np.asarray(alphas, float)[np.asarray(chosen)]

    def predict(self, kernel: np.ndarray) -> np.ndarray:
        """Predicts responses `[m, V]` to other images, given their kernel with the fitted images `[m, n]`."""
        kernel = np.asarray(kernel, np.float64)
        centred = kernel - kernel.mean(1, keepdims=True) - self._means + self._means.mean()
        return centred @ self.weights + self.intercept


@dataclass
class RidgeReadout:
    """Voxel-wise encoding from given features, as scikit-learn's `RidgeCV(alphas, alpha_per_target=True)`.

        RidgeReadout().fit(X, Y).score(X2, Y2)

    Args:
        alphas: penalties; for each voxel the one with the least leave-one-out error is chosen.

    Attributes:
        alpha_: `[V]`, chosen penalties.
        coef_: `[V, D]`, weights.
        intercept_: `[V]`, intercepts.
    """

    alphas: Sequence[float] = (0.1, 1.0, 10.0)

    def fit(self, X: ArrayLike, Y: ArrayLike) -> "RidgeReadout":
        """Fits the responses of V voxels.

        Args:
            X: `[N, ...]` features; each image's are flattened.
            Y: `[N, V]` responses.

        Returns:
            This object.

        Raises:
            InputError: if X and Y don't fit together, a value isn't finite, or a penalty isn't above 0.
        """
        features, responses = self._flat(X), np.asarray(Y, np.float64)
        count = len(features)
        if responses.ndim != 2 or len(responses) != count or count < 2 or not responses.size:
            raise InputError(
                f"X is of {count} images and Y of shape {list(responses.shape)}; expected [N, V] of two or more."
            )
        if not (np.isfinite(features).all() and np.isfinite(responses).all()):
            raise InputError("X or Y holds values that are not finite numbers.")
        alphas = np.ravel(self.alphas).tolist()
        if not alphas or not all(0 < alpha < np.inf for alpha in alphas):
            raise InputError(f"alphas are {alphas}; one or more must be given, and each must be above 0.")
        centred = centre(features)
        ridge = _KernelRidge(centred @ centred.T, responses, alphas)
        self.alpha_ = ridge.alpha
        self.coef_ = ridge.weights.T @ centred
        self.intercept_ = ridge.intercept - self.coef_ @ features.mean(0)
        return self

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Predicts the responses of V voxels.

        Args:
            X: `[M, ...]` features of other images.

        Returns:
            `[M, V]` float64.

        Raises:
            InputError: before `fit`, or for features of another number or that are not finite.
        """
        check_fitted(self, "coef_")
        features = self._flat(X, self.coef_.shape[1])
        if not np.isfinite(features).all():
            raise InputError("X holds values that are not finite numbers.")
        return features @ self.coef_.T + self.intercept_

    def score(self, X: ArrayLike, Y: ArrayLike) -> np.ndarray:
        """Correlates predicted with measured responses.

        Args:
            X: `[M, ...]` features of two or more images.
            Y: `[M, V]` responses.

        Returns:
            `[V]`, Pearson's r; 0 for a voxel whose responses are constant.

        Raises:
            InputError: as `predict`, and for responses of another shape or that are not finite.
        """
        predicted, responses = self.predict(X), np.asarray(Y, np.float64)
        if responses.shape != predicted.shape or len(responses) < 2:
            raise InputError(
                f"Y is of shape {list(responses.shape)}; expected {list(predicted.shape)}, of two images or more and "
                "the voxels that were fitted."
            )
        if not np.isfinite(responses).all():
            raise InputError("Y holds values that are not finite numbers.")
        return correlation(predicted, responses)

    def _flat(self, X: ArrayLike, width: int | None = None) -> np.ndarray:
        features = np.asarray(check_rows(X, width), np.float64)
        return features.reshape(len(features), -1)


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Computes Pearson's r of the columns of two arrays `[N, V]` float64; 0 if either column is constant."""
    a, b = centre(a), centre(b)
    length = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
    return (a * b).sum(0) / np.where(length > 0, length, 1.0)


def reliability_ceiling(responses: np.ndarray) -> np.ndarray | None:
    """Computes the correlation with the mean of repeats that is expected of a perfect model.

    Args:
        responses: `[R, N, V]`.

    Returns:
        `[V]`, the square root of the mean's reliability (Spearman-Brown, from the mean correlation of two
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
    """Computes cross-validated encoding scores of voxels from a layer.

    Args:
        kernel: `[N, N]`, the layer's linear kernel.
        responses: `[R, N, V]`; repeats are averaged.
        n_folds: number of folds; each is predicted from the others.
        alphas: penalties, in units of the layer's mean variance over the fitted images.
        seed: seed of the folds.

    Returns:
        `[V]`, Pearson's r of predicted and measured responses, averaged over folds.

    Raises:
        InputError: if a fold would have fewer than 3 images.
    """
    mean, count = responses.mean(0), len(kernel)
    if not 2 <= n_folds <= count // 3:
        raise InputError(
            f"{count} images can't be split into {n_folds} folds of 3 or more; take 2 to {count // 3}."
        )
    folds = np.random.default_rng(seed).permutation(count) % n_folds
    found = []
    for fold in range(n_folds):
        fitted, tested = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        found.append(correlation(_predict_tested(kernel, mean, fitted, tested, alphas), mean[tested]))
    return np.mean(found, axis=0)


def _predict_tested(
    kernel: np.ndarray, responses: np.ndarray, fitted: np.ndarray, tested: np.ndarray, alphas: Sequence[float]
) -> np.ndarray:
    """Predicts responses to the tested images by ridge regression on the fitted ones."""
    own = np.asarray(kernel[np.ix_(fitted, fitted)], np.float64)
    size, error = np.trace(own) / len(own), np.finfo(np.result_type(kernel, np.float16)).eps
    variance = size - own.mean()
    unit = variance if variance > 4 * error * size else np.inf  # constant features predict the mean response
    ridge = _KernelRidge(own / unit, responses[fitted], alphas)
    return ridge.predict(kernel[np.ix_(tested, fitted)] / unit)


def varying_mean(responses: np.ndarray) -> np.ndarray:
    """Averages repeats, `[R, N, V]` to `[N, V]`, and drops voxels whose mean is the same for all images."""
    mean = responses.mean(0)
    return mean[:, centre(mean).any(0)]


def versa(
    kernel: np.ndarray,
    responses: Sequence[np.ndarray],
    *,
    method: Comparison = "spearman",
    alphas: Sequence[float] = ALPHAS,
    n_splits: int = 4,
    seed: int = 0,
) -> tuple[np.ndarray, tuple[float, float] | None]:
    """Computes voxel-encoding RSA: the agreement of RDMs of predicted and of measured responses.

    Each voxel's ridge regression on the layer is fitted to half of the images. Its predictions for the other half
    give an RDM (correlation), which is compared with the measured one. Then the halves are swapped, and scores are
    averaged over both and over several random splits.

    Differs: the paper, which fits voxels by ridge regression too, leaves out one image at a time and compares RDMs that
    are averaged over halves of the subjects, by Pearson's r; that is `ipcl_jax.measures`' konkle2022.

    Args:
        kernel: `[N, N]`, the layer's linear kernel.
        responses: for each subject `[R, N, V]`; repeats are averaged, voxels that are the same for all images are
            dropped, and V can differ.
        method: how RDMs are compared.
        alphas: penalties, in units of the layer's mean variance over the fitted images.
        n_splits: number of random splits into halves.
        seed: seed of the splits.

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
        raise InputError(f"Subject {poor[0]} has fewer than two voxels that vary; an RDM needs two or more.")
    scores: list[list[float]] = []
    ceilings: list[tuple[float, float]] = []
    rng = np.random.default_rng(seed)
    for _ in range(n_splits):
        order = rng.permutation(count)
        halves = order[: count // 2], order[count // 2 :]
        for fitted, tested in (halves, halves[::-1]):
            measured = np.stack([rdm(mean[tested]) for mean in means])
            predicted = [rdm(_predict_tested(kernel, mean, fitted, tested, alphas)) for mean in means]
            found = compare_rdms(
                {str(s): found for s, found in enumerate(predicted)}, measured, method=method
            )
            # Each subject's prediction against the same subject's responses.
            scores.append([found.by_subject[str(s)][s] for s in range(len(means))])
            if found.ceiling:
                ceilings.append(found.ceiling)
    if not ceilings:
        return np.mean(scores, axis=0), None
    low, high = np.mean(ceilings, axis=0).tolist()
    return np.mean(scores, axis=0), (low, high)
