"""The page on one model or several: read-outs and pictures, one self-contained HTML file."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from ipcl_jax.report.curves import Curve, card, share
from ipcl_jax.report.figures import class_colours, draw_filters, draw_map
from ipcl_jax.report.html import Neighbours, cell, embedded, neighbour_rows, section, wide_table, write_page
from ipcl_jax.report.rdm_figures import draw_rdms

_COLOURS, _STYLES = ("one", "two", "three", "four", "five"), ("line", "dash", "dot")
MOST_UNFOLDED = 3  # with more models, the pictures of each are folded away until a click
EXTREMES = 12  # easiest and hardest classes that are shown if there are too many to show all
_COLUMNS = 8  # models side by side in a table of classes


@dataclass(frozen=True)
class Findings:
    """The measurements of one model.

    Attributes:
        title: the model.
        about: its network, in words.
        scores: its entry in `scores.json`.
        neighbours: of the chosen images.
        points: `[N, 2]` positions of N held-out images on the map.
        thumbnails: these images, `[h, w, 3]` uint8.
        labels: `[N]` their classes, int from 0.
        categories: their classes' names.
        rdms: `[N, N]` of each layer.
        filters: `[h, w, 3, F]` of the first convolution.
    """

    title: str
    about: str
    scores: dict
    neighbours: Neighbours
    points: np.ndarray
    thumbnails: Sequence[np.ndarray]
    labels: np.ndarray
    categories: Sequence[str]
    rdms: dict[str, np.ndarray]
    filters: np.ndarray


def write_model_page(
    path: Path, found: Sequence[Findings], source: str, classes: Sequence[str], n_references: int
) -> None:
    """Writes the page.

    Args:
        path: the page.
        found: the measurements of each model.
        source: of the images, such as `folder:/path`.
        classes: names of all classes.
        n_references: number of training images.
    """
    first = found[0].scores
    names = [findings.title for findings in found]
    title = f"What {names[0]} knows" if len(names) == 1 else f"What {len(names)} models know"
    lead = (
        f"{first['queries']:,} held-out images of {source} in {len(classes)} classes, told apart by their "
        f"{first['k']} nearest among {n_references:,} training images. Chance is {share(1 / len(classes))}."
    )
    write_page(
        path,
        title=title,
        kicker="read-outs",
        lead=lead,
        head="",
        body=[
            section("Read-outs", _ABOUT_SCORES, _scores(found)),
            _by_epoch(found, len(classes)),
            section("By class", *_by_class(found)),
            *(_model(findings, unfolded=len(found) <= MOST_UNFOLDED) for findings in found),
        ],
        footer="Every number on this page is in scores.json beside it.",
    )


_ABOUT_SCORES = (
    "Published scores are top-1 on ImageNet, of kNN on the last layer and of a linear read-out; all others were "
    "measured on the images of this page."
)


# --- tables ------------------------------------------------------------------------------


def _bar(value: float | None) -> str:
    if value is None:
        return "<td>–</td>"
    return f'<td class="bar" style="--share: {100 * value:.1f}%">{share(value)}</td>'


def _scores(found: Sequence[Findings]) -> str:
    names = dict.fromkeys(name for findings in found for name in findings.scores["linear"])
    linear = [name for name in names if name.endswith("_top1")]
    heads = [
        "model", "trained on", "layer", "kNN top-1", "top-5", "published kNN", "published linear",
        *(f"linear top-1, {name.removesuffix('_top1')}" for name in linear),
    ]  # fmt: skip
    rows = [[cell(head, "th") for head in heads]]
    for findings in found:
        scores = findings.scores
        published = [scores["published"].get(name) for name in ("knn", "linear")]
        rows.append(
            [
                cell(findings.title, "th"),
                cell(scores["trained_on"] or "–"),
                cell(scores["layer"]),
                _bar(scores["knn_top1"]),
                _bar(scores["knn_top5"]),
                *(cell("–" if value is None else f"{value:.1f} %") for value in published),
                *(_bar(scores["linear"].get(name)) for name in linear),
            ]
        )
    return wide_table(rows)


def _by_class(found: Sequence[Findings]) -> tuple[str, str]:
    """Returns tables of the accuracy by class, sorted by the mean of all models, of up to eight models each."""
    names = list(found[0].scores["by_class"])
    means = {name: np.mean([findings.scores["by_class"][name] for findings in found]) for name in names}
    names.sort(key=means.__getitem__, reverse=True)
    about = "Share of held-out images of each class whose kNN top-1 is right, the easiest first."
    if len(names) > 2 * EXTREMES + 6:
        names = names[:EXTREMES] + names[-EXTREMES:]
        about += f" Of {len(means)} classes the {EXTREMES} easiest and the {EXTREMES} hardest."
    tables = []
    for start in range(0, len(found), _COLUMNS):
        some = found[start : start + _COLUMNS]
        rows = [[cell(text, "th") for text in ("class", *(findings.title for findings in some))]]
        for name in names:
            bars = (_bar(findings.scores["by_class"][name]) for findings in some)
            rows.append([cell(name, "th"), *bars])
        tables.append(wide_table(rows))
    return about, "<br>".join(tables)


def _by_epoch(found: Sequence[Findings], n_classes: int) -> str:
    """Returns curves of kNN by epoch for models that are runs, from their metrics; empty if there are none."""
    runs = [findings for findings in found if findings.scores["knn_by_epoch"]]
    if not runs:
        return ""
    curves = []
    for place, findings in enumerate(runs):
        x, y = zip(*findings.scores["knn_by_epoch"], strict=True)
        style, colour = divmod(place, len(_COLOURS))
        curves.append(
            Curve(f"{findings.title} {share(y[-1])}", y, x, _COLOURS[colour], _STYLES[style % len(_STYLES)])
        )
    curves.append(Curve(f"chance {share(1 / n_classes)}", [1 / n_classes], colour="ink", style="dot"))
    end = max(epoch for findings in runs for epoch, _ in findings.scores["knn_by_epoch"])
    about = (
        "Measured by the runs while they trained: neighbours are the views of the epoch, and the images are those of "
        "the run. Epoch 0 is the untrained network."
    )
    drawn = card("kNN top-1", [(curves, "share")], "epoch", end or 1, wide=True)
    return section("By epoch", about, f'<div class="plots">{drawn}</div>')


# --- pictures ----------------------------------------------------------------------------


def _model(findings: Findings, *, unfolded: bool) -> str:
    """Returns all pictures of one model."""
    map_about = (
        f"{len(findings.points)} held-out images on a map of their {findings.scores['layer']} by t-SNE: images that "
        "are close together are similar to the model."
    )
    names = dict(zip(findings.labels.tolist(), findings.categories, strict=True))
    key = "".join(
        f'<span><i style="color: {colour}"></i>{escape(names[label])}</span>'
        for label, colour in class_colours(findings.labels).items()
    )
    rdms = io.BytesIO()
    draw_rdms(findings.rdms, findings.categories, rdms)
    drawn = draw_map(findings.points, findings.thumbnails, findings.labels)
    parts = [
        section("Nearest neighbours", *neighbour_rows(findings.neighbours), level=3),
        section(
            "Map", map_about,
            f'<p class="key">{key}</p>' + _paper(_encode(drawn, "jpeg"), "jpeg", f"map of {findings.title}"),
            level=3,
        ),
        section(
            "Filters", "Filters of the first convolution, each scaled to its own range.",
            _paper(_encode(draw_filters(findings.filters), "png"), "png", f"filters of {findings.title}"), level=3,
        ),
        section(
            "Dissimilarity", f"1 - r of the {len(findings.points)} images of the map, sorted by class.",
            _paper(rdms.getvalue(), "png", f"RDMs of {findings.title}"), level=3,
        ),
    ]  # fmt: skip
    summary = f"<summary>{escape(findings.title)}</summary>"
    about = f'<p class="about">{escape(findings.about)}</p>'
    return f"<details{' open' * unfolded}>{summary}{about}{''.join(parts)}</details>"


def _paper(data: bytes, kind: str, alt: str) -> str:
    return f'<figure class="paper card">{embedded(data, kind, alt)}</figure>'


def _encode(picture: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind.upper(), quality=84, optimize=True)
    return file.getvalue()
