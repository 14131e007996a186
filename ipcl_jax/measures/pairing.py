"""How measures average scores and compare two models: over the splits of each subject, or over the subjects."""

import numpy as np

from ipcl_jax.measures.base import Difference, Interval, Measure
from ipcl_jax.measures.statistics import corrected_interval, corrected_ttest


class PairedSplits(Measure):
    """A measure whose pairs are the splits of one subject; both sides of a split are averaged.

    Attributes:
        ratio: n2 / n1 of `statistics`, which corrects for images that splits share.
    """

    ratio: float

    def interval(self, scores: np.ndarray) -> tuple[Interval, ...]:
        """Averages each subject's scores, with bounds corrected for dependent splits; NaN for a single split."""
        return tuple(corrected_interval(one, ratio=self.ratio) for one in _by_split(scores))

    def compare(self, scores: np.ndarray, others: np.ndarray) -> tuple[Difference, ...]:
        """Tests each subject's difference of two models by a paired t-test, corrected for dependent splits."""
        pairs = zip(_by_split(scores), _by_split(others), strict=True)
        return tuple(corrected_ttest(a, b, ratio=self.ratio) for a, b in pairs)


def _by_split(scores: np.ndarray) -> np.ndarray:
    return scores.mean(2) if scores.ndim == 3 else scores


class PairedSubjects(Measure):
    """A measure whose pairs are the subjects; of two sides, the last is the one that counts."""

    def interval(self, scores: np.ndarray) -> tuple[Interval, ...]:
        """Returns each subject's score; its bounds are NaN, because there is a single one."""
        return tuple(Interval(score, np.nan, np.nan) for score in _by_subject(scores).tolist())

    def compare(self, scores: np.ndarray, others: np.ndarray) -> tuple[Difference, ...]:
        """Tests the mean difference of two models over subjects by a paired t-test."""
        return (corrected_ttest(_by_subject(scores), _by_subject(others), ratio=0),)


def _by_subject(scores: np.ndarray) -> np.ndarray:
    return (scores[..., -1] if scores.ndim == 3 else scores).mean(1)
