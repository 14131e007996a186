"""The tables that a comparison of models with brain data gives; `scores.csv` has the first, `scores.json` all."""

from typing import NamedTuple


class Score(NamedTuple):
    """One score of one layer: a row of `scores.csv`."""

    model: str
    layer: str
    depth: int  # number of the layer along the network, from 0
    measure: str
    region: str
    subject: str  # or a group of subjects, joined by "+"
    split: str
    side: str
    voxels: int
    images: int
    score: float  # Pearson's r, or as the measure says
    ceiling: float | None  # of the same measure, region, subject and split; None where the data can't tell
    ceiling_kind: str


class LayerScore(NamedTuple):
    """A layer's mean over splits."""

    model: str
    layer: str
    depth: int
    measure: str
    region: str
    subject: str
    score: float
    low: float  # 95 % confidence interval
    high: float
    ceiling: float | None
    ceiling_kind: str


class BestScore(NamedTuple):
    """The score of the best layer, chosen on other data than it is scored on."""

    model: str
    measure: str
    region: str
    subject: str
    score: float
    low: float
    high: float
    ceiling: float | None
    ceiling_kind: str
    layers: dict[str, int]  # how often each layer was chosen
    how: str  # what the choice was made on


class ModelDifference(NamedTuple):
    """The paired difference of two models' best layers."""

    model: str
    other: str
    measure: str
    region: str
    subject: str  # empty if the pairs are the subjects
    difference: float
    low: float
    high: float
    t: float | None
    df: int
    p: float | None  # two-sided, corrected for dependent splits; None with fewer than two pairs
    pairs: str  # what was paired: splits, or subjects


class Tables(NamedTuple):
    """All tables of a comparison."""

    scores: list[Score]
    layers: list[LayerScore]
    best: list[BestScore]
    differences: list[ModelDifference]
