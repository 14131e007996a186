"""RDMs in float64, as the pairs of images below their diagonal, and their Pearson correlation.

Source: Kriegeskorte, Mur & Bandettini 2008.
"""

import numpy as np

ROUNDING = 8 * np.finfo(np.float64).eps  # of correlations near 1
BLOCK = 1 << 25  # numbers that are converted to float64 at a time


def pattern_rdm(values: np.ndarray) -> np.ndarray:
    """Computes the dissimilarities 1 - r (Pearson) of all pairs of images.

    Args:
        values: `[N, V]`, a pattern of each image: voxels or units.

    Returns:
        `[N (N - 1) / 2]` float64, in [0, 2]; 0 where r is 1 up to rounding, and 1 for a pair with an image whose values
        are all equal.
    """
    count, width = values.shape
    means = values.mean(1, dtype=np.float64)
    kernel, size = np.zeros((count, count)), np.zeros(count)
    step = max(1, BLOCK // count)
    for start in range(0, width, step):
        block = values[:, start : start + step].astype(np.float64) - means[:, None]
        kernel += block @ block.T
        size = np.maximum(size, abs(block).max(1))
    rounding = 4 * np.finfo(np.float64).eps * abs(means)
    length = np.where(size > rounding, np.sqrt(np.diag(kernel)), np.inf)
    below = np.tril_indices(count, -1)
    found = 1 - np.clip((kernel / length / length[:, None])[below], -1, 1)
    return found * (found > ROUNDING)


def pattern_matrix(values: np.ndarray) -> np.ndarray:
    """Computes the dissimilarities of `pattern_rdm` as a matrix, `[N, N]` float64, symmetric, 0 on its diagonal."""
    count = len(values)
    found = np.zeros((count, count))
    found[np.tril_indices(count, -1)] = pattern_rdm(values)
    return found + found.T


def correlate(a: np.ndarray, b: np.ndarray) -> float:
    """Computes Pearson's r of two RDMs `[P]`; 0 if all dissimilarities of either are equal."""
    a, b = centred(a), centred(b)
    length = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / length) if length else 0.0


def centred(rdms: np.ndarray) -> np.ndarray:
    """Subtracts the mean of each RDM `[..., P]`; the result is exactly 0 where all are equal up to rounding."""
    found = rdms - rdms.mean(-1, keepdims=True)
    # Dissimilarities of correlations near 1 are differences of numbers near 1, and rounded as such.
    rounding = ROUNDING * np.maximum(1, abs(rdms).max(-1, keepdims=True))
    return found * (abs(found).max(-1, keepdims=True) > rounding)
