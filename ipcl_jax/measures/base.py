"""What every measure gives: scores of a layer by subject, split and side, and how to choose among layers and compare.

A measure is made once for a region, from the responses of all subjects, and then scores one layer after another.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from ipcl_jax.measures.options import MeasureOptions


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer's activations for the N images of a comparison.

    A layer equals only itself. Measures keep what they computed of a layer for the next region while it exists.

    Attributes:
        features: `[N, D]` float32, flattened as in the PyTorch release (channels first); None if they don't fit into
            memory, and only the kernel was computed.
        kernel: `[N, N]` float32 or float64, products of all pairs of rows of `features` after the same vector is
            subtracted from each.
    """

    features: np.ndarray | None
    kernel: np.ndarray


class Best(NamedTuple):
    """Scores of the best layer, which was chosen on other data than those it is scored on.

    Attributes:
        scores: `[G, K]` Pearson's r, by group and split.
        layers: `[G, K, 2]` int: numbers of the layers chosen. Where both sides choose for each other, entry h is the
            layer scored on side h; otherwise both are equal. -1 where none can be chosen, and the score is NaN.
        how: what the choice was made on, for a table.
    """

    scores: np.ndarray
    layers: np.ndarray
    how: str


class Interval(NamedTuple):
    """A mean over splits with its 95 % confidence interval, whose bounds are NaN for a single split."""

    mean: float
    low: float
    high: float


class Difference(NamedTuple):
    """A paired comparison of two models."""

    mean: float  # of the differences of r
    low: float
    high: float
    t: float  # infinite if all differences are equal, and not 0
    df: int
    p: float  # two-sided; NaN with fewer than two pairs, as are t, low and high


class Measure(ABC):
    """A measure of one region.

    Scores are arrays `[G, K, H]`: G groups (the subjects, or one group of all of them), K splits, and H sides of a
    split (the two halves, or one).

    Attributes:
        name: as on the command line.
        about: what is measured, in a sentence.
        groups: names of the G groups.
        splits: names of the K splits, for the table.
        sides: names of the H sides.
        ceiling_kind: how the ceiling is computed, for a table; empty without one.
        pairs: what `compare` pairs: the splits of each group, or the subjects.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    pairs: ClassVar[Literal["splits", "subjects"]]
    groups: tuple[str, ...]
    splits: tuple[str, ...]
    sides: tuple[str, ...]
    ceiling_kind: str

    @classmethod
    def needs_features(cls, options: MeasureOptions) -> bool:
        """Returns whether `score` needs a layer's features, or else its kernel alone."""
        return False

    @abstractmethod
    def score(self, layer: Layer) -> np.ndarray:
        """Scores a layer, `[G, K, H]` float64; 0 where it predicts nothing because it is the same for all images."""

    @abstractmethod
    def ceiling(self) -> np.ndarray:
        """Returns what can be reached at best, `[G, K]` float64; NaN where the data can't tell."""

    @abstractmethod
    def best(self, scores: Mapping[str, np.ndarray]) -> Best:
        """Chooses among layers, from `score` of each, by name."""

    @abstractmethod
    def interval(self, scores: np.ndarray) -> tuple[Interval, ...]:
        """Averages the scores of one layer `[G, K, H]`, or of the best `[G, K]`: one interval for each group."""

    @abstractmethod
    def compare(self, scores: np.ndarray, others: np.ndarray) -> tuple[Difference, ...]:
        """Tests the difference of two models' scores, `[G, K]` each (or `[G, K, H]`), pair by pair.

        Returns one difference for each group, or a single one if the pairs are the subjects.
        """
