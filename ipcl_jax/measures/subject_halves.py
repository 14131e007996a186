"""Comparison of mean RDMs in halves of the subjects, for every split of the subjects.

Source: Konkle & Alvarez 2022, Methods; Bouckaert & Frank 2004 (corrected variance).
"""

import itertools
import math
from abc import abstractmethod
from collections.abc import Mapping

import numpy as np

from ipcl_jax.errors import InputError
from ipcl_jax.measures.base import Best, Difference, Interval, Layer, Measure
from ipcl_jax.measures.geometry import centred, pattern_rdm
from ipcl_jax.measures.options import MeasureOptions
from ipcl_jax.measures.region import Region, check_layer, is_constant
from ipcl_jax.measures.statistics import (
    choose_by_other_side,
    corrected_interval,
    corrected_ttest,
    fisher_mean,
)

LEAST_SUBJECTS = 4  # halves of two
LEAST_IMAGES = 8
RATIO = 1.0  # n2 / n1: both halves of the subjects are of one size


def halves_of(subjects: int, most: int, seed: int) -> np.ndarray:
    """Splits subjects in halves.

    Args:
        subjects: their number S; of an odd number, the first half has one less.
        most: largest number of splits. If there are more, this many different ones are drawn.
        seed: seed of the draw.

    Returns:
        `[K, S]` bool, true for the first half: 35 splits of 7 subjects, 126 of 10.
    """
    size, odd = subjects // 2, subjects % 2
    total = math.comb(subjects, size) if odd else math.comb(subjects, size) // 2
    if total <= most:
        # Of an even number, both halves are of one size, so subject 0 is always in the first.
        first = [half for half in itertools.combinations(range(subjects), size) if odd or 0 in half]
    else:
        rng, drawn = np.random.default_rng(seed), set[tuple[int, ...]]()
        while len(drawn) < most:
            order = rng.permutation(subjects)
            drawn.add(tuple(sorted(order[:size] if odd or 0 in order[:size] else order[size:])))
        first = sorted(drawn)
    found = np.zeros((len(first), subjects), bool)
    for row, half in zip(found, first, strict=True):
        row[list(half)] = True
    return found


class SubjectHalves(Measure):
    """Mean RDMs of a half of the subjects, compared by Pearson's r of their entries below the diagonal.

    Scores are `[1, K, 2]`: one group of all subjects, every split of the subjects, and both halves of a split.

    Args:
        region: responses of 4 subjects or more to the same 8 images or more.
        options: those of konkle2022, and `seed`.

    Attributes:
        responses: `[N, V]` of each subject, without voxels that are the same for all images.

    Raises:
        InputError: for fewer subjects or images, a subject with fewer than 2 voxels that vary, or a half of the subjects
            in whose mean RDM all images are equally far apart.
    """

    def __init__(self, region: Region, options: MeasureOptions):
        subjects = len(region.subjects)
        if subjects < LEAST_SUBJECTS:
            raise InputError(
                f"{self.name} averages RDMs over halves of the subjects, and {subjects} can't be halved; give "
                f"{LEAST_SUBJECTS} or more with the same images, or take versa or rsa."
            )
        region.take_at_least(LEAST_IMAGES, self.name)
        self.options, self.responses = options, region.varying()
        first = halves_of(subjects, options.konkle_splits, options.seed)
        self.groups, self.sides = ("+".join(region.subjects),), ("half 1", "half 2")
        self.splits = tuple("+".join(np.array(region.subjects)[half].tolist()) for half in first)
        self.ceiling_kind = "Pearson's r of the mean RDMs of both halves of the subjects"
        self._halves = np.stack([first, ~first], 1).astype(np.float64)  # [K, 2, S]
        self._measured = centred(np.stack([pattern_rdm(values) for values in self.responses.values()]))  # [S, P]
        products = self._measured @ self._measured.T
        self._squares = self._within(products)
        if not self._squares.all():
            raise InputError(
                f"{self.name}: all images are equally far apart in the measured RDM of a half of the subjects."
            )
        across = np.einsum("ks,st,kt->k", self._halves[:, 0], products, self._halves[:, 1])
        self._ceiling = (across / np.sqrt(self._squares.prod(1)))[None]

    @abstractmethod
    def rdms(self, layer: Layer) -> np.ndarray:
        """Computes the RDM that a layer predicts for each subject, `[S, P]`, or for all, `[1, P]`."""

    def score(self, layer: Layer) -> np.ndarray:
        """Scores a layer, `[1, K, 2]` Pearson's r; 0 if it is the same for all images.

        Raises:
            InputError: for a layer of other images, or not finite.
        """
        check_layer(layer, len(next(iter(self.responses.values()))))
        if is_constant(layer.kernel):
            return np.zeros((1, *self._halves.shape[:2]))
        return self.compare_rdms(self.rdms(layer))

    def compare_rdms(self, rdms: np.ndarray) -> np.ndarray:
        """Correlates mean RDMs of each half with the measured ones.

        Args:
            rdms: `[S, P]`, or `[1, P]` for all subjects.

        Returns:
            `[1, K, 2]`; 0 where all entries of a half's RDM are equal.
        """
        predicted = np.broadcast_to(centred(rdms), self._measured.shape)
        # A mean is a sum over subjects, so products of the subjects' RDMs suffice.
        across = np.einsum("khs,st,kht->kh", self._halves, predicted @ self._measured.T, self._halves)
        length = np.sqrt(self._within(predicted @ predicted.T) * self._squares)
        return np.where(length > 0, across / np.where(length > 0, length, 1), 0.0)[None]

    def _within(self, products: np.ndarray) -> np.ndarray:
        """Returns the squared length of each half's summed RDM, `[K, 2]`, from products `[S, S]`."""
        return np.maximum(np.einsum("khs,st,kht->kh", self._halves, products, self._halves), 0)

    def ceiling(self) -> np.ndarray:
        """Correlates the mean measured RDMs of both halves, `[1, K]`."""
        return self._ceiling

    def best(self, scores: Mapping[str, np.ndarray]) -> Best:
        """Takes the layer that is best in one half and scores it in the other ("cv max-r" of the paper).

        Scores of both directions are averaged as Fisher's z.
        """
        found = choose_by_other_side(np.stack(list(scores.values())))
        return Best(fisher_mean(found.scores), found.layers, "the other half of the subjects")

    def interval(self, scores: np.ndarray) -> tuple[Interval, ...]:
        """Averages scores as Fisher's z, with bounds corrected for dependent splits and transformed back."""
        return (corrected_interval(_by_split(scores)[0], ratio=RATIO, fisher=True),)

    def compare(self, scores: np.ndarray, others: np.ndarray) -> tuple[Difference, ...]:
        """Tests the difference of two models by a paired t-test of Fisher's z, corrected for dependent splits.

        The paper calls p < 0.05 / 30 significant.
        """
        return (corrected_ttest(_by_split(scores)[0], _by_split(others)[0], ratio=RATIO, fisher=True),)


def _by_split(scores: np.ndarray) -> np.ndarray:
    """Averages both halves' scores `[1, K, 2]` as Fisher's z; scores `[1, K]` stay."""
    return fisher_mean(scores) if scores.ndim == 3 else scores
