"""Numbers of the paper's figures, from the tables of a comparison with brain data.

The paper's text doesn't say all of how its numbers were made; what is our choice is named where it is made.

Source: Konkle & Alvarez 2022.
"""

import itertools
import statistics
from collections.abc import Mapping
from typing import Literal, NamedTuple

from ipcl_jax.comparison.table import Tables
from ipcl_jax.errors import InputError
from ipcl_jax.reproduction.published import BASELINE, DIETS, FACES, GROUPS, REGIONS, Row

Share = Literal["variance", "correlation"]

ALPHA = 0.05 / 30
"""Level of a comparison: 0.05, corrected for the 30 comparisons in each of two sets."""


class Value(NamedTuple):
    """A number of ours.

    Attributes:
        value: in the row's unit.
        details: what it was computed from, JSON-compatible.
    """

    value: float
    details: dict[str, object]


def explained_share(r: float, ceiling: float, share: Share) -> float:
    """Computes the share of what can be explained, in percent.

    Args:
        r: the model's score, Pearson's r.
        ceiling: the noise ceiling, Pearson's r.
        share: `variance` is the squared ratio of both, with the sign of r; `correlation` the ratio. The paper doesn't
            say which it prints; `variance` is our choice.

    Raises:
        InputError: if the ceiling isn't above 0.
    """
    if not ceiling > 0:
        raise InputError(f"The noise ceiling is {ceiling}; no share of it can be explained.")
    ratio = r / ceiling
    return 100 * (ratio if share == "correlation" else ratio * abs(ratio))


def brain_value(
    row: Row, tables: Mapping[str, Tables], *, share: Share = "variance", leave_out: tuple[str, ...] = ()
) -> Value:
    """Computes a row of the figures.

    Args:
        row: the row.
        tables: of one measure, by data set; with the row's models.
        share: see `explained_share`.
        leave_out: models that `diets` leaves out of the mean, such as `ipcl9`.

    Returns:
        The value. `ceiling` is the mean over splits of the subjects; `explained` the mean of the models' shares, each of
        its best layers' score ("cv max-r"); `comparisons` the number of pairs in which an IPCL model is not
        significantly worse; `diets` the mean over models and regions of the absolute difference from `BASELINE`;
        `outlier` the rank of `FACES` among the models by its own mean.

    Raises:
        InputError: if a score or ceiling can't be computed from the data.
    """
    if row.quantity == "comparisons":
        return _comparisons(tables)
    (data,) = row.needs
    scores = Scores(tables[data], data)
    if row.quantity == "ceiling":
        return Value(scores.ceiling(row.region), {})
    if row.quantity == "explained":
        ceiling = scores.ceiling(row.region)
        found = {model: scores.best(model, row.region) for model in row.models}
        shares = [explained_share(r, ceiling, share) for r in found.values()]
        return Value(statistics.fmean(shares), {"ceiling": ceiling, "r": found, "share": share})
    if row.quantity not in ("diets", "outlier"):
        raise InputError(f"{row.id} is not computed from brain data.")
    differences = {
        model: statistics.fmean(
            abs(scores.best(model, region) - scores.best(BASELINE, region)) for region in REGIONS
        )
        for model in DIETS
    }
    if row.quantity == "diets":
        kept = {model: value for model, value in differences.items() if model not in leave_out}
        return Value(statistics.fmean(kept.values()), {"differences": differences, "left out": list(leave_out)})
    larger = sum(value > differences[FACES] for value in differences.values())
    return Value(1.0 + larger, {"differences": differences})


class Scores:
    """Scores of best layers, and ceilings, of one data set.

    Args:
        tables: of one measure with one group of subjects.
        name: of the data set, for messages.
    """

    def __init__(self, tables: Tables, name: str):
        self._name = name
        self._best = {(row.model, row.region): row for row in tables.best}

    def best(self, model: str, region: str) -> float:
        """Returns a model's score.

        Raises:
            InputError: if there is none.
        """
        row = self._best.get((model, region))
        if row is None or row.score is None:
            raise InputError(f"There is no score of {model} in {region} of the {self._name} set.")
        return row.score

    def ceiling(self, region: str) -> float:
        """Returns the noise ceiling of a region.

        Raises:
            InputError: if there is none.
        """
        for (_, other), row in self._best.items():
            if other == region and row.ceiling is not None:
                return row.ceiling
        raise InputError(f"There is no noise ceiling in {region} of the {self._name} set.")


def _comparisons(tables: Mapping[str, Tables]) -> Value:
    """Counts the comparisons in which an IPCL model is better than one trained on categories, or not different."""
    worse, count = [], 0
    for data, found in tables.items():
        known = {(row.model, row.other, row.region): row for row in found.differences}
        for model, other, region in itertools.product(GROUPS["ipcl"], GROUPS["category"], REGIONS):
            row = known.get((model, other, region))
            if row is None or row.p is None or row.difference is None:
                raise InputError(f"{model} and {other} can't be compared in {region} of the {data} set.")
            count += 1
            if row.p < ALPHA and row.difference < 0:
                worse.append(f"{data}, {region}: {model} below {other} by {-row.difference:.3f}, p = {row.p:.1g}")
    return Value(float(count - len(worse)), {"comparisons": count, "alpha": ALPHA, "IPCL worse": worse})
