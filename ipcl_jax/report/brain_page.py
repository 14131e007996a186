"""The page of a comparison of models with brain data, `brain.html`: one self-contained HTML file.

Equal comparisons give equal pages.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from ipcl_jax.comparison.table import BestScore, ModelDifference, Tables
from ipcl_jax.errors import InputError
from ipcl_jax.report.brain_figures import BROAD, MOST_MARKED, NARROW, draw_layers_by_region, draw_models
from ipcl_jax.report.brain_summary import (
    FEWEST,
    LIMIT,
    ceiling,
    grouped,
    measures,
    part,
    summarise,
    surviving,
    unique,
)
from ipcl_jax.report.html import by_width, cell, list_table, section, wide_table, write_page

MOST_ROWS = 1000
"""Rows of a table of the page; `scores.json` has all."""
_LAYERS = 3  # chosen layers that are named in a row
_CONFIDENCE = "95\N{NO-BREAK SPACE}% confidence intervals"


@dataclass(frozen=True)
class Comparison:
    """What was compared, for the page's words.

    Attributes:
        command: that makes the comparison again.
        data: name of the set of brain data.
        images: number of images that the models are compared on.
        models: sha256 of each model's weights, by its name in the tables; or other words where there is none.
        files: sha256 of each file of brain data, by its name.
        code: version of this package.
        measures: a sentence on each measure, by name.
        notes: messages for the reader, such as images that were left out.
    """

    command: str
    data: str
    images: int
    models: Mapping[str, str]
    files: Mapping[str, str]
    code: str
    measures: Mapping[str, str]
    notes: Sequence[str] = ()


def write_brain_page(path: Path, tables: Tables, about: Comparison) -> None:
    """Writes the page.

    Args:
        path: the page; `scores.json` is expected beside it.
        tables: of the comparison.
        about: the comparison in words.

    Raises:
        InputError: if a model of the tables has no hash in `about`; or as in `brain_summary.part`.
    """
    names, models = measures(tables), unique(row.model for row in tables.layers)
    if unknown := [model for model in models if model not in about.models]:
        raise InputError(f"The model {unknown[0]!r} has scores but no sha256 in `Comparison.models`.")
    subjects = unique(name for row in tables.layers for name in row.subject.split("+"))
    regions = unique(row.region for row in tables.layers)
    lead = (
        f"{_count(models, 'model')} ({_listed(models)}) beside the brains of {_count(subjects, 'subject')} "
        f"({_listed(subjects)}), who saw {about.images:,} images of {about.data}. How well does each layer "
        f"predict the responses in {_count(regions, 'region')} ({_listed(regions)})? That is measured in "
        f"{_count(names, 'way')}: {_listed(names)}. A model's best layer is chosen on other data than it is scored on. "
        "Each measure's ceiling says how far the data agree with themselves; scores are not divided by it."
    )
    hashes = {f"model {name}": about.models[name] for name in models}
    hashes |= {f"data {name}": value for name, value in about.files.items()} | {"code": about.code}
    write_page(
        path,
        title=f"{_count(models, 'model')} and the brain",
        kicker=f"brain data, {about.data}",
        lead=lead,
        head="\n".join(f'<p class="alert">{escape(note)}</p>' for note in about.notes),
        body=[
            *(_measure(tables, name, about.measures.get(name, "")) for name in names),
            section(
                "What was compared", "sha256 of weights and data, and the version of the code.",
                f'<div class="section whole card">{list_table(hashes)}</div>',
            ),
            section(
                "Again", "This command makes the comparison again.",
                f'<div class="card"><pre><code>{escape(about.command)}</code></pre></div>',
            ),
        ],
        footer="Every score on this page is in scores.json beside it, or is a mean over subjects of scores there.",
    )  # fmt: skip


def _measure(tables: Tables, name: str, words: str) -> str:
    """Returns the section of one measure."""
    rows = part(tables, name)
    how, kinds = unique(row.how for row in rows.best), unique(row.ceiling_kind for row in rows.layers if row.ceiling_kind)
    about = [words, f"The best layer is chosen on {_listed(how)}." if how else ""]
    bounded = any(row.ceiling is not None for row in rows.layers)
    about.append(f"Ceiling: {_listed(kinds) or 'of an unnamed kind'}." if bounded else "The data give no ceiling.")
    groups, many = unique(row.subject for row in rows.layers), len(unique(row.model for row in rows.layers)) > MOST_MARKED
    layers = f"{'Scores' if len(groups) == 1 else 'Mean scores'} from the first layer to the last"
    layers += "." if many or 1 < len(groups) < FEWEST else ", with 95\N{NO-BREAK SPACE}% intervals."
    models = "Scores of each model's best layer."
    if not many and any(surviving(found) for found in grouped(rows.differences, "region").values()):
        models += f" Lines at the right tie models that differ, p < {LIMIT:g}: a dot and the ticks its line reaches."
    content = [
        section("Layers", layers, _figure(draw_layers_by_region, tables, name, "scores of layers"), level=3),
    ]
    if rows.best:
        content += [
            section("Models", models, _figure(draw_models, tables, name, "scores of the best layers"), level=3),
            section("Best layers", _intervals(len(groups)), _best(rows.best) + _chosen(rows.best), level=3),
            _differences(rows.differences),
        ]
    else:
        content.append(section("Best layers", "There are no other data that a best layer could be chosen on.", "", level=3))
    return section(name, " ".join(filter(None, about)), "".join(content))


def _intervals(groups: int) -> str:
    """Explains the scores and intervals of a measure with some groups of subjects."""
    if groups == 1:
        return f"Scores with {_CONFIDENCE}."
    if groups < FEWEST:
        return f"Means over {groups} subjects, too few for an interval."
    return f"Means over {groups} subjects, with {_CONFIDENCE} by Student's t over the subjects."


def _figure(draw: Callable, tables: Tables, measure: str, what: str) -> str:
    broad, narrow = io.BytesIO(), io.BytesIO()
    draw(tables, measure, broad, width=BROAD)
    draw(tables, measure, narrow, width=NARROW)
    return by_width(broad.getvalue(), narrow.getvalue(), f"{measure}: {what}, by region")


# --- tables ------------------------------------------------------------------------------


def _best(rows: Sequence[BestScore]) -> str:
    """Returns a table of models by regions, with the ceilings, lowest to highest, in the last row."""
    regions, found = unique(row.region for row in rows), grouped(rows, "model", "region")
    lines = [[cell(text, "th") for text in ("model", *regions)]]
    for model in unique(row.model for row in rows):
        line = [cell(model, "th")]
        for region in regions:
            if own := found.get((model, region)):
                mean = summarise(own)
                line.append(cell(_number(mean.score), below=_interval(mean.low, mean.high)))
            else:
                line.append(cell("–"))
        lines.append(line)
    bounds = {region: ceiling(row for row in rows if row.region == region) for region in regions}
    if any(bounds.values()):
        lines.append([cell("ceiling", "th"), *(cell(_range(bounds[region])) for region in regions)])
    return wide_table(lines)


def _chosen(rows: Sequence[BestScore]) -> str:
    """Returns a folded table with a row for each score, as measured, and the layers that were chosen."""
    several = len({row.subject for row in rows}) > 1
    heads = ["region", "model", *["subject"] * several, "score", "ceiling", "layers chosen (how often)"]
    lines = [[cell(head, "th") for head in heads]]
    for row in rows[:MOST_ROWS]:
        often = sorted(row.layers.items(), key=lambda item: -item[1])
        layers = ", ".join(f"{layer} ({count})" for layer, count in often[:_LAYERS])
        layers += f" and {len(often) - _LAYERS} more" * (len(often) > _LAYERS)
        score = cell(_number(row.score), below=_interval(row.low, row.high))
        names = map(cell, (row.region, row.model, *[row.subject] * several))
        lines.append([*names, score, cell(_number(row.ceiling)), cell(layers)])
    title = "Each subject, and the layers chosen" if several else "The layers chosen"
    return f"<details><summary>{title}</summary>{_left_out(rows, 'the first')}{wide_table(lines)}</details>"


def _differences(rows: Sequence[ModelDifference]) -> str:
    """Returns the section of differences between models; empty if there are none."""
    if not rows:
        return ""
    about = f"Differences of the best layers' scores with {_CONFIDENCE}, and paired t tests of them. "
    if any(row.pairs == "splits" for row in rows):
        about += "Splits share data, and their t is corrected for that. "
    about += f"p is two-sided and not corrected for the number of differences; bold: p < {LIMIT:g}."
    if len(rows) > 1:
        about += f" For {len(rows):,} differences Bonferroni's limit is {LIMIT / len(rows):.2g}."
    several = any(row.subject for row in rows) and len({row.subject for row in rows}) > 1
    heads = ["region", "models", *["subject"] * several, "mean difference", "p", "t", "df", "pairs"]
    lines = [[cell(head, "th") for head in heads]]
    shown = list(rows)
    if len(rows) > MOST_ROWS:
        shown.sort(key=lambda row: math.inf if row.p is None else row.p)
    for row in shown[:MOST_ROWS]:
        lines.append(
            [
                cell(row.region),
                cell(row.model, below=f"minus {row.other}"),
                *[cell(row.subject)] * several,
                cell(_number(row.difference), below=_interval(row.low, row.high)),
                cell(_probability(row.p), bold=row.p is not None and row.p < LIMIT),
                *map(cell, (_number(row.t, 2), str(row.df), row.pairs)),
            ]
        )
    table = _left_out(rows, "those with the smallest p,") + wide_table(lines)
    if len(lines) > 31:
        table = f"<details><summary>{len(lines) - 1:,} differences</summary>{table}</details>"
    return section("Differences", about, table, level=3)


def _left_out(rows: Sequence, which: str) -> str:
    if len(rows) <= MOST_ROWS:
        return ""
    return f'<p class="about">{MOST_ROWS:,} of {len(rows):,} rows, {which} are shown; scores.json has all.</p>'


# --- words and numbers -------------------------------------------------------------------


def _number(value: float | None, places: int = 3) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:z.{places}f}"


def _interval(low: float | None, high: float | None) -> str:
    return "" if "–" in (_number(low), _number(high)) else f"[{_number(low)}, {_number(high)}]"


def _range(bounds: tuple[float, float] | None) -> str:
    if bounds is None:
        return "–"
    low, high = map(_number, bounds)
    return low if low == high else f"{low} to {high}"


def _probability(p: float | None) -> str:
    return "–" if p is None else "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def _count(names: Sequence[str], one: str, many: str = "") -> str:
    return f"{len(names)} {one if len(names) == 1 else many or one + 's'}"


def _listed(names: Sequence[str], most: int = 8) -> str:
    """Joins names with commas and a final "and"; of more than `most`, the first are named."""
    if len(names) > most:
        return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
