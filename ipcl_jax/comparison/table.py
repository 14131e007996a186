"""The tables that a comparison of models with brain data gives; `scores.csv` has the first, `scores.json` all."""

import csv
import io
import itertools
import math
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ipcl_jax.measures.base import Measure


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
    low: float | None  # 95 % confidence interval; None with a single split
    high: float | None
    ceiling: float | None
    ceiling_kind: str


class BestScore(NamedTuple):
    """The score of the best layer, chosen on other data than it is scored on; there is none without such data."""

    model: str
    measure: str
    region: str
    subject: str
    score: float
    low: float | None  # None with a single split
    high: float | None
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
    low: float | None
    high: float | None
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


def tables_of(
    measure: Measure,
    scores: Mapping[str, Mapping[str, np.ndarray]],
    *,
    region: str,
    voxels: Mapping[str, int],
    images: int,
) -> Tables:
    """Makes the tables of one measure in one region.

    Args:
        measure: the measure.
        scores: `[G, K, H]` by model and layer, layers in order along the network.
        region: its name.
        voxels: number of voxels of each group.
        images: number of images.
    """
    tables = Tables([], [], [], [])
    ceiling = np.asarray(measure.ceiling(), np.float64)  # [G, K]
    mean_ceiling = [_number(interval.mean) for interval in measure.interval(ceiling)]
    kind = measure.ceiling_kind
    chosen = {}
    for model, layers in scores.items():
        for depth, (layer, found) in enumerate(layers.items()):
            for (g, group), (k, split), (h, side) in itertools.product(
                enumerate(measure.groups), enumerate(measure.splits), enumerate(measure.sides)
            ):
                tables.scores.append(
                    Score(
                        model, layer, depth, measure.name, region, group, split, side, voxels[group], images,
                        float(found[g, k, h]), _number(ceiling[g, k]), kind,
                    )
                )  # fmt: skip
            for g, interval in enumerate(measure.interval(found)):
                tables.layers.append(
                    LayerScore(
                        model, layer, depth, measure.name, region, measure.groups[g], float(interval.mean),
                        _number(interval.low), _number(interval.high), mean_ceiling[g], kind,
                    )
                )  # fmt: skip
        best = chosen[model] = measure.best(layers)
        names = list(layers)
        for g, interval in enumerate(measure.interval(best.scores)):
            if math.isnan(interval.mean):
                continue
            counts = Counter(names[i] for pair in best.layers[g].tolist() for i in dict.fromkeys(pair) if i >= 0)
            tables.best.append(
                BestScore(
                    model, measure.name, region, measure.groups[g], float(interval.mean), _number(interval.low),
                    _number(interval.high), mean_ceiling[g], kind,
                    dict(sorted(counts.items(), key=lambda item: names.index(item[0]))), best.how,
                )
            )  # fmt: skip
    for model, other in itertools.combinations(chosen, 2):
        for g, test in enumerate(measure.compare(chosen[model].scores, chosen[other].scores)):
            if math.isnan(test.mean):
                continue
            tables.differences.append(
                ModelDifference(
                    model, other, measure.name, region, measure.groups[g] if measure.pairs == "splits" else "",
                    float(test.mean), _number(test.low), _number(test.high), _number(test.t), test.df, _number(test.p),
                    measure.pairs,
                )
            )  # fmt: skip
    return tables


def joined(parts: list[Tables]) -> Tables:
    """Joins tables, one after the other."""
    return Tables(*(list(itertools.chain.from_iterable(rows)) for rows in zip(*parts, strict=True)))


def to_csv(rows: list[Score]) -> str:
    """Writes scores as text, a row each; numbers so that they are read back exactly, a missing one as nothing."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Score._fields)
    writer.writerows(["" if value is None else value for value in row] for row in rows)
    return text.getvalue()


def to_json(tables: Tables) -> dict[str, list[dict]]:
    """Converts the tables of means to JSON-compatible values; not the scores, which are in `to_csv`."""
    return {name: [row._asdict() for row in getattr(tables, name)] for name in ("layers", "best", "differences")}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
