"""The published numbers that can be checked: one row each, with a tolerance and its reason.

The numbers of the figures 2 and 3 are ours to assign, since only the paper's numbers could be read, not its captions:
`fig2` is the Orientation set, `fig3` the Inanimate set, `fig4` the image sets that models were trained on.

Source: Konkle & Alvarez 2022, Nature Communications 13:491; ImageNet scores: its Supplementary Table 1.
"""

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from ipcl_jax.errors import ConfigError, near_miss
from ipcl_jax.system.files import expand_home, read_json
from ipcl_jax.zoo import MODELS

Quantity = Literal["knn", "linear", "ceiling", "explained", "comparisons", "diets", "outlier"]

SETS = ("orientation", "inanimate")
REGIONS = ("EarlyV", "pOTC", "aOTC")
GROUPS = MappingProxyType({"ipcl": ("ipcl1", "ipcl2", "ipcl3", "ipcl4", "ipcl5"), "category": ("ipcl12", "ipcl13")})
"""The models that are averaged, and compared with each other: the first five, and those trained on categories with the
same views."""
DIETS = ("ipcl7", "ipcl8", "ipcl9", "ipcl10", "ipcl11")
"""Models that were trained on other images than `BASELINE`, and otherwise in the same way."""
BASELINE, FACES = "ipcl6", "ipcl9"
"""The model of that kind that was trained on ImageNet, and the one that was trained on VGGFace2 alone."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One published number.

    Attributes:
        id: such as `s1/knn/ipcl1`.
        quantity: how it is computed.
        what: what it is, for a table.
        published: the number.
        unit: `%`, `r`, or empty for a count.
        tolerance: largest difference, in the same unit, that counts as equal.
        reason: of the tolerance.
        needs: the data, `imagenet` or names among `SETS`.
        models: the released models.
        region: of the brain; empty for all.
        bound: the number is an upper bound.
    """

    id: str
    quantity: Quantity
    what: str
    published: float
    unit: str
    tolerance: float
    reason: str
    needs: tuple[str, ...]
    models: tuple[str, ...] = ()
    region: str = ""
    bound: bool = False


_TOLERANCES: dict[Quantity, tuple[float, str]] = {
    "knn": (
        0.5,
        "JPEG decoders and resized copies of ImageNet change a few predictions; 50,000 images have a standard error of "
        "0.2",
    ),
    "linear": (1.0, "the classifier is trained anew, on other crops in another order"),
    "ceiling": (0.01, "printed to 0.01; which voxels the paper left out is not stated in full"),
    "explained": (3.0, "printed to 1 %; penalties and the scaling of units are not stated"),
    "comparisons": (2.0, "differences close to the threshold depend on penalties, which are not stated"),
    "diets": (0.0, "the published number is a bound"),
    "outlier": (0.0, "a rank"),
}
_BRAIN = {  # ceiling r, and explained share in percent of both groups, by region
    "orientation": {"ceiling": (0.90, 0.90, 0.89), "ipcl": (88, 84, 94), "category": (82, 91, 87)},
    "inanimate": {"ceiling": (0.86, 0.74, 0.60), "ipcl": (74, 47, 32), "category": (65, 41, 28)},
}
_FIGURES = {"orientation": "fig2", "inanimate": "fig3"}


def _row(name: str, quantity: Quantity, what: str, published: float, unit: str, needs: tuple[str, ...], **more) -> Row:
    tolerance, reason = _TOLERANCES[quantity]
    return Row(
        id=name, quantity=quantity, what=what, published=float(published), unit=unit, tolerance=tolerance,
        reason=reason, needs=needs, **more,
    )  # fmt: skip


def _rows() -> Iterable[Row]:
    for name, record in MODELS.items():
        yield _row(
            f"s1/knn/{name}", "knn", f"ImageNet top-1, kNN, {name}", record.knn, "%", ("imagenet",), models=(name,)
        )
    for name, record in MODELS.items():
        if record.linear is not None:
            yield _row(
                f"s1/linear/{name}", "linear", f"ImageNet top-1, linear, {name}", record.linear, "%", ("imagenet",),
                models=(name,),
            )  # fmt: skip
    for data, known in _BRAIN.items():
        figure = _FIGURES[data]
        for region, value in zip(REGIONS, known["ceiling"], strict=True):
            yield _row(
                f"{figure}/{data}/ceiling/{region}", "ceiling", f"noise ceiling, {data}, {region}", value, "r", (data,),
                region=region,
            )  # fmt: skip
        for group, models in GROUPS.items():
            for region, value in zip(REGIONS, known[group], strict=True):
                yield _row(
                    f"{figure}/{data}/{group}/{region}", "explained",
                    f"explained share, {data}, {group} models, {region}", value, "%", (data,), models=models,
                    region=region,
                )  # fmt: skip
    yield _row(
        "fig2-3/comparisons", "comparisons", "IPCL better than category, or not different, of 60 comparisons", 56, "",
        SETS, models=(*GROUPS["ipcl"], *GROUPS["category"]),
    )  # fmt: skip
    for data in SETS:
        yield _row(
            f"fig4/{data}/diets", "diets", f"mean |difference of r| from {BASELINE}, other images, {data}", 0.044, "r",
            (data,), models=(BASELINE, *DIETS), bound=True,
        )  # fmt: skip
        yield _row(
            f"fig4/{data}/outlier", "outlier", f"rank of VGGFace2 ({FACES}) by that difference, {data}", 1, "",
            (data,), models=(BASELINE, *DIETS),
        )  # fmt: skip


ROWS = MappingProxyType({row.id: row for row in _rows()})
"""All rows, by id."""


def choose_rows(patterns: Iterable[str], rows: Mapping[str, Row] = ROWS) -> tuple[tuple[Row, ...], frozenset[str]]:
    """Chooses rows by ids and patterns.

    Args:
        patterns: ids, or patterns such as `fig3/*`, in which `*` also stands for slashes.
        rows: to choose from, by id.

    Returns:
        The rows in their own order, and the ids of those that were asked for by name.

    Raises:
        ConfigError: for a pattern that no row has.
    """
    patterns = tuple(patterns)
    for pattern in patterns:
        if not fnmatch.filter(rows, pattern):
            hint = near_miss(pattern, rows).partition(" Known:")[0]
            raise ConfigError(f"--rows: no row {pattern!r}.{hint} Without options all rows are listed.")
    chosen = tuple(row for row in rows.values() if any(fnmatch.fnmatchcase(row.id, p) for p in patterns))
    return chosen, frozenset(patterns) & set(rows)


def read_published(path: Path, rows: Mapping[str, Row] = ROWS) -> dict[str, Row]:
    """Replaces published numbers by those of a file.

    Args:
        path: a JSON object from ids to numbers, or to objects with `published` and, if it differs, `tolerance`.
        rows: the rows, by id.

    Returns:
        All rows, by id; those that the file lacks are unchanged.

    Raises:
        ConfigError: if the file can't be read, has an unknown id, or something else than numbers.
    """
    changed = dict(rows)
    for name, found in read_json(expand_home(path)).items():
        if name not in rows:
            raise ConfigError(f"{path}: no row {name!r}.{near_miss(name, rows)}")
        values = found if isinstance(found, dict) else {"published": found}
        numbers = {key: value for key, value in values.items() if _is_number(value)}
        if numbers != values or not {"published"} <= set(values) <= {"published", "tolerance"}:
            raise ConfigError(f"{path}: {name} is {found!r}; give a number, or published and tolerance.")
        if values.get("tolerance", 0) < 0:
            raise ConfigError(f"{path}: the tolerance of {name} is {values['tolerance']}; it must be 0 or more.")
        row = replace(rows[name], published=float(values["published"]))
        if "tolerance" in values:
            row = replace(row, tolerance=float(values["tolerance"]), reason=f"from {path.name}")
        changed[name] = row
    return changed


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
