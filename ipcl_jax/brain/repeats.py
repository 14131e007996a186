"""Means over repeats of an image, and the ceilings that follow from the repeats' variance.

Source: Allen et al. 2022, Nature Neuroscience 25:116 (noise ceiling of the Natural Scenes Dataset); the code of
THINGS-fMRI (`MRI/thingsmri/anc.py`) and of BOLD5000's release 2 (`compute_BOLD5000_NCSNR_v5.m`) use the same formula.
"""

import numpy as np

from ipcl_jax.errors import ConfigError


def z_score(values: np.ndarray, axis: int, voxels: np.ndarray, where: str) -> np.ndarray:
    """Scales the trials of a session to mean 0 and variance 1 in each voxel.

    Args:
        values: trials along `axis`, voxels along the other axis.
        axis: 0 or 1.
        voxels: `[V]` numbers of the voxels, for messages.
        where: file or session, for messages.

    Returns:
        An array of the same shape, float64. The variance is the unbiased one (divided by the number of trials less 1).

    Raises:
        ConfigError: if a voxel is the same in all trials.
    """
    values = values - values.mean(axis, keepdims=True, dtype=np.float64)
    spread = values.std(axis, keepdims=True, ddof=1) if values.shape[axis] > 1 else np.zeros_like(values)
    constant = ~(spread.ravel() > 0)
    if constant.any():
        raise ConfigError(
            f"{where}: {constant.sum()} of {len(voxels)} voxels are the same in all trials, such as voxel "
            f"{voxels[constant][0]}, and can't be z-scored; leave such regions out, or give zscore=False."
        )
    return values / spread


def ceiling_r(signal: np.ndarray, noise: np.ndarray, repeats: np.ndarray) -> np.ndarray:
    """Computes the correlation with mean responses that is expected of a model that predicts the signal perfectly.

    Args:
        signal: `[V]` variance over images of the response without noise; negative estimates count as 0.
        noise: `[V]` variance of one trial's noise.
        repeats: `[n]` number of trials that were averaged for each image.

    Returns:
        `[V]` float32: sqrt(signal / (signal + noise * mean(1 / repeats))); NaN where signal and noise are 0 or unknown.
    """
    signal = np.maximum(signal, 0)
    total = signal + noise * np.mean(1 / np.asarray(repeats, np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt(signal / np.where(total > 0, total, np.nan)).astype(np.float32)


class RepeatMeans:
    """Means over repeats and the variance between them, from one trial after another.

    Args:
        repeats: `[n]` number of trials that each image will have.
        voxels: number of voxels V.

    Attributes:
        mean: `[n, V]` float32, means of the trials so far.
        noise: `[V]` float64, the unbiased variance across an image's trials, averaged over images with two or more;
            NaN if there are none. Valid once all trials were added.
    """

    def __init__(self, repeats: np.ndarray, voxels: int):
        self._repeats, self._seen = np.asarray(repeats), np.zeros(len(repeats), np.int64)
        self._noise = np.zeros(voxels)
        self.mean = np.zeros((len(repeats), voxels), np.float32)

    def add(self, image: int, response: np.ndarray) -> None:
        """Adds a trial of an image, `[V]` (Welford 1962: sums of squares without cancellation)."""
        self._seen[image] += 1
        before = response - self.mean[image]
        self.mean[image] += (before / self._seen[image]).astype(np.float32)
        if self._repeats[image] > 1:
            self._noise += before * (response - self.mean[image]) / (self._repeats[image] - 1)

    @property
    def noise(self) -> np.ndarray:
        repeated = np.count_nonzero(self._repeats > 1)
        return self._noise / repeated if repeated else np.full_like(self._noise, np.nan)
