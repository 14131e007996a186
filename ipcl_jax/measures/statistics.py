"""Means, intervals and tests of scores whose splits share data, and the choice of a layer on other data.

Scores of cross-validation are not independent, since splits share images or subjects. The variance of their mean is
corrected by the ratio n2 / n1 of the size of what a split is scored on to the size of the rest: 1 for halves,
1 / (K - 1) for K folds, 0 for independent pairs.

Source: Nadeau & Bengio 2003 (the corrected variance); Bouckaert & Frank 2004 (its use for repeated splits).
"""

from typing import NamedTuple

import numpy as np

from ipcl_jax.errors import InputError
from ipcl_jax.measures.base import Difference, Interval

LARGEST = 1 - 1e-12
"""Largest magnitude of r in Fisher's transform, whose value for 1 is infinite; it is 14.2 here."""


def to_z(r: np.ndarray) -> np.ndarray:
    """Applies Fisher's transform to r of any shape; values beyond `LARGEST` count as `LARGEST`."""
    return np.arctanh(np.clip(r, -LARGEST, LARGEST))


def fisher_mean(r: np.ndarray, axis: int | tuple[int, ...] = -1) -> np.ndarray:
    """Averages correlations as Fisher's z, and transforms the mean back; see `to_z` for r of 1."""
    return np.tanh(to_z(np.asarray(r, np.float64)).mean(axis))


def _spread(values: np.ndarray, ratio: float) -> float:
    """Returns the standard error of the mean of dependent values `[K]`."""
    count = len(values)
    return float(np.sqrt((1 / count + ratio) * values.var(ddof=1)))


def _reach(count: int, level: float) -> float:
    """Returns the quantile of Student's t that bounds a two-sided interval of K values."""
    from scipy.stats import t

    return float(t.ppf((1 + level) / 2, count - 1))


def corrected_interval(values: np.ndarray, *, ratio: float, fisher: bool = False, level: float = 0.95) -> Interval:
    """Averages scores of dependent splits, with a confidence interval of Student's t with K - 1 degrees of freedom.

    Args:
        values: `[K]`, one score a split.
        ratio: n2 / n1, see above.
        fisher: average Fisher's z, and transform the mean and both bounds back.
        level: share of intervals that hold the true mean.

    Returns:
        The mean and its bounds; bounds are NaN for a single value.

    Raises:
        InputError: for values of another shape.
    """
    values = _checked(values)
    back = np.tanh if fisher else np.asarray
    values = to_z(values) if fisher else values
    mean = values.mean()
    if len(values) < 2:
        return Interval(float(back(mean)), np.nan, np.nan)
    half = _reach(len(values), level) * _spread(values, ratio)
    low, high = float(back(mean - half)), float(back(mean + half))
    return Interval(float(back(mean)), low, high)


def corrected_ttest(
    scores: np.ndarray, others: np.ndarray, *, ratio: float, fisher: bool = False, level: float = 0.95
) -> Difference:
    """Tests the mean difference of paired scores by Student's t with the corrected variance.

    Args:
        scores: `[K]`, scores of one model.
        others: `[K]`, scores of another on the same splits, or subjects.
        ratio: n2 / n1, see above; 0 gives the plain paired t-test.
        fisher: test differences of Fisher's z. The mean is then the difference of both Fisher-z means; the bounds are
            those of z times the ratio of the mean differences of r and of z, so that they exclude 0 where p < 0.05.
        level: as for `corrected_interval`.

    Returns:
        The difference; t is 0 and p is 1 if all differences are 0, t is infinite if all are equal but not 0, and t, p
        and bounds are NaN for a single pair.

    Raises:
        InputError: for scores of another shape.
    """
    scores, others = _checked(scores), _checked(others)
    if len(scores) != len(others):
        raise InputError(f"There are {len(scores)} and {len(others)} scores; a paired test takes as many of both.")
    a, b = (to_z(scores), to_z(others)) if fisher else (scores, others)
    differences = a - b
    mean, scale, count = differences.mean(), 1.0, len(differences)
    if fisher:
        reached = float(np.tanh(a.mean()) - np.tanh(b.mean()))
        scale = reached / mean if mean else float(1 - np.tanh(a.mean()) ** 2)
    if count < 2:
        return Difference(float(scale * mean), np.nan, np.nan, np.nan, 0, np.nan)
    error = _spread(differences, ratio)
    if not differences.any():
        t, p = 0.0, 1.0
    elif not error:
        t, p = float(np.copysign(np.inf, mean)), 0.0
    else:
        from scipy.stats import t as student

        t = float(mean / error)
        p = float(2 * student.sf(abs(t), count - 1))
    half = _reach(count, level) * error
    return Difference(
        float(scale * mean), float(scale * (mean - half)), float(scale * (mean + half)), t, count - 1, p
    )


def _checked(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not len(values):
        raise InputError(f"Scores are of shape {list(values.shape)}; expected [K], one of each split.")
    return values


class Choice(NamedTuple):
    """Scores of layers that were chosen on other data.

    Attributes:
        scores: `[G, K, ...]`.
        layers: `[G, K, ...]` int64, numbers of the layers; of equal layers the first, and -1 if none can be chosen.
    """

    scores: np.ndarray
    layers: np.ndarray


def _pick(scores: np.ndarray, layers: np.ndarray) -> Choice:
    return Choice(np.take_along_axis(scores, layers[None], 0)[0], layers)


def choose_by_other_side(scores: np.ndarray) -> Choice:
    """Chooses the best layer on one side of each split, and scores it on the other, in both directions.

    Args:
        scores: `[L, G, K, 2]`, of L layers.

    Returns:
        `[G, K, 2]`: entry h is scored on side h, and chosen on the other.
    """
    return _pick(scores, scores[..., ::-1].argmax(0))


def choose_by_rest(scores: np.ndarray) -> Choice:
    """Chooses for each fold the layer with the highest mean over the other folds.

    Args:
        scores: `[L, G, K]`, of L layers and K >= 2 folds.

    Returns:
        `[G, K]`.
    """
    return _pick(scores, (scores.sum(2, keepdims=True) - scores).argmax(0))


def choose_by_others(scores: np.ndarray) -> Choice:
    """Chooses for each group the layer with the highest mean over the other groups.

    Args:
        scores: `[L, G, K]`, of L layers.

    Returns:
        `[G, K]`; NaN and -1 for a single group.
    """
    if scores.shape[1] < 2:
        return Choice(np.full(scores.shape[1:], np.nan), np.full(scores.shape[1:], -1))
    return _pick(scores, (scores.sum(1, keepdims=True) - scores).argmax(0))
