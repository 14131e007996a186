"""What the figures and the page of a comparison with brain data compute from its tables: means over subjects."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from scipy import stats

from ipcl_jax.comparison.table import BestScore, LayerScore, ModelDifference, Tables
from ipcl_jax.errors import InputError, near_miss

Row = TypeVar("Row", LayerScore, BestScore, ModelDifference)

LIMIT = 0.05
"""A difference is marked if p is below; p is not corrected for the number of differences."""
FEWEST = 3  # subjects that an interval is computed from


class Summary(NamedTuple):
    """A mean over subjects, or the score of a single group."""

    score: float
    low: float  # 95 % confidence interval; NaN if it isn't known
    high: float
    by_subject: dict[str, float]


def part(tables: Tables, measure: str) -> Tables:
    """Returns the rows of one measure.

    Raises:
        InputError: for an unknown measure; for a score or a ceiling that isn't a finite number; for a row that occurs
            twice; or if the models have different subjects in a region, so that their means can't be compared.
    """
    known = measures(tables)
    if measure not in known:
        raise InputError(f"No scores of the measure {measure!r}.{near_miss(measure, known)}")
    rows = Tables(
        scores=[row for row in tables.scores if row.measure == measure],
        layers=[row for row in tables.layers if row.measure == measure],
        best=[row for row in tables.best if row.measure == measure],
        differences=[row for row in tables.differences if row.measure == measure],
    )
    for kind, table in (("layers", rows.layers), ("best", rows.best)):
        _check(f"{measure}, {kind}", table)
    return rows


def _check(name: str, table: Sequence[LayerScore] | Sequence[BestScore]) -> None:
    seen: set[tuple[str, ...]] = set()
    subjects: dict[tuple[str, ...], set[str]] = {}  # by region, model and layer
    for row in table:
        place: tuple[str, ...] = (row.region, row.model)
        place += (row.layer,) if isinstance(row, LayerScore) else ()
        where = f"{name}: {', '.join((*place, row.subject))}"
        if not math.isfinite(row.score) or not (row.ceiling is None or math.isfinite(row.ceiling)):
            raise InputError(f"{where}: score {row.score} and ceiling {row.ceiling}, expected finite numbers.")
        if (*place, row.subject) in seen:
            raise InputError(f"{where} occurs twice; give each model a name of its own.")
        seen.add((*place, row.subject))
        subjects.setdefault(place, set()).add(row.subject)
    everyone: dict[str, set[str]] = {}
    for (region, *_), found in subjects.items():
        everyone.setdefault(region, set()).update(found)
    for place, found in subjects.items():
        if missing := everyone[place[0]] - found:
            raise InputError(
                f"{name}: {', '.join(place)} has no score of {', '.join(sorted(missing))}; means are compared over the "
                "same subjects only."
            )


def measures(tables: Tables) -> list[str]:
    """Returns the names of the measures, in the tables' order."""
    return unique(row.measure for row in tables.layers)


def unique(names: Iterable[str]) -> list[str]:
    """Returns each name once, in the order of their first appearance."""
    return list(dict.fromkeys(names))


def grouped(rows: Iterable[Row], *names: str) -> dict[tuple[str, ...], list[Row]]:
    """Groups rows by the values of some of their fields, in the order of first appearance."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(getattr(row, name) for name in names), []).append(row)
    return groups


def summarise(rows: Sequence[LayerScore] | Sequence[BestScore]) -> Summary:
    """Averages scores over subjects; a single row keeps its own interval.

    Args:
        rows: of one model (and layer), measure and region: one a subject.
    """
    by_subject = {row.subject: row.score for row in rows}
    if len(rows) == 1:
        low, high = (math.nan if bound is None else bound for bound in (rows[0].low, rows[0].high))
        return Summary(rows[0].score, low, high, by_subject)
    scores = np.array(list(by_subject.values()))
    mean, half = float(scores.mean()), math.nan
    if len(scores) >= FEWEST:
        half = float(stats.t.ppf(0.975, len(scores) - 1) * scores.std(ddof=1) / math.sqrt(len(scores)))
    return Summary(mean, mean - half, mean + half, by_subject)


def ceiling(rows: Iterable[LayerScore | BestScore]) -> tuple[float, float] | None:
    """Returns the lowest and highest ceiling of some rows; None if none has one."""
    known = [row.ceiling for row in rows if row.ceiling is not None]
    return (min(known), max(known)) if known else None


def surviving(differences: Iterable[ModelDifference]) -> set[tuple[str, str]]:
    """Returns the pairs of models that differ, with p below `LIMIT`: in every subject, in the same direction.

    Args:
        differences: of one measure and region.
    """
    return {
        (model, other)
        for (model, other), rows in grouped(differences, "model", "other").items()
        if all(row.p is not None and row.p < LIMIT for row in rows) and len({row.difference > 0 for row in rows}) == 1
    }
