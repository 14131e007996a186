"""Means over an image's repeats, and the noise ceiling that the repeats allow, from trials that come in parts."""

import numpy as np

from ipcl_jax.brain.base import Responses

_ROWS = 256  # images whose means are squared at a time


class TrialMeans:
    """Adds up trials by image.

    The ceiling follows the Natural Scenes Dataset. The variance within an image's repeats is noise, the rest of the
    variance over all trials is signal, `ncsnr` is the ratio of their standard deviations, and a perfect model's
    correlation with the mean of n repeats is sqrt(ncsnr^2 / (ncsnr^2 + 1 / n)). For images with different n, the mean
    of 1 / n is used.

    Args:
        repeats: `[n]` int, how many trials of each image will be added.
        voxels: number of voxels.

    Source: Allen et al. 2022, Methods; cvnlab/nsddatapaper, `main/export_noiseceiling.m` and
        `translatevmetric.m`; for different n, gifale95/algonauts_2023, `challenge_data_preparation.py`.

    Differs: the source takes images with three repeats only. Here all with two or more count, each by its degrees of
        freedom, which is the same if all have three.
    """

    def __init__(self, repeats: np.ndarray, voxels: int):
        self._repeats = np.asarray(repeats, np.int64)
        self._sums = np.zeros((len(repeats), voxels), np.float32)
        self._trials = 0
        self._sum, self._squares, self._repeated_squares = np.zeros((3, voxels))  # over trials, float64

    def add(self, first: int, trials: np.ndarray, rows: np.ndarray) -> None:
        """Adds trials in consecutive voxels.

        Args:
            first: number of their first voxel. Trials count as new ones if this is 0.
            trials: `[T, v]` float64.
            rows: `[T]` int, the image of each; -1 for one whose mean is not wanted.
        """
        place = slice(first, first + trials.shape[1])
        self._trials += len(trials) if first == 0 else 0
        squares = trials**2
        self._sum[place] += trials.sum(0)
        self._squares[place] += squares.sum(0)
        wanted = np.flatnonzero(rows >= 0)
        self._repeated_squares[place] += squares[wanted[self._repeats[rows[wanted]] > 1]].sum(0)
        for trial in wanted:
            self._sums[rows[trial], place] += trials[trial]

    def finish(self) -> Responses:
        """Returns means and ceilings; to be called once, as the sums become the means."""
        mean, repeats = self._sums, self._repeats
        mean /= repeats[:, None].astype(np.float32)
        repeated = repeats > 1
        if not repeated.any():
            return Responses(mean, np.full(mean.shape[1], np.nan, np.float32))
        weight = np.where(repeated, repeats, 0).astype(np.float64)
        of_means = np.zeros(mean.shape[1])
        for start in range(0, len(mean), _ROWS):
            of_means += weight[start : start + _ROWS] @ mean[start : start + _ROWS].astype(np.float64) ** 2
        noise = np.maximum(self._repeated_squares - of_means, 0) / (repeats[repeated] - 1).sum()
        total = self._squares / self._trials - (self._sum / self._trials) ** 2
        signal = np.maximum(total - noise, 0)
        ceiling = np.sqrt(signal / (signal + noise * (1 / repeats).mean()))
        return Responses(mean, ceiling.astype(np.float32))
