"""Plots of curves as SVG for a page.

Colours come from the page's style sheet, so that the plots follow the reader's light or dark mode.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from ipcl_jax.report.drawing import load_matplotlib
from ipcl_jax.run.history import Columns, as_columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colours that matplotlib writes, by the names of the style sheet's variables that replace them.
_COLOURS = {
    "one": "#010101", "two": "#020202", "three": "#030303", "four": "#040404", "five": "#050505",
    "grid": "#060606", "ink": "#070707",
}  # fmt: skip
_STYLES: dict[str, dict] = {
    "line": dict(linewidth=1.8),
    "fine": dict(linewidth=1.1),
    "faint": dict(linewidth=1.1, alpha=0.45),
    "dash": dict(linewidth=1.3, linestyle=(0, (5, 3))),
    "dot": dict(linewidth=1.5, linestyle=(0, (1, 2.2))),
}


def share(value: float | None) -> str:
    """Formats a share in [0, 1] as percent; a dash for None."""
    return "–" if value is None else f"{100 * value:.1f} %"


@dataclass(frozen=True)
class Curve:
    """One line of a plot, with its label in the legend; colour and style are names in the page's style sheet."""

    label: str
    y: Sequence[float]
    x: Sequence[float] | None = None  # None: y is one value, drawn as a horizontal line
    colour: str = "one"
    style: str = "line"


def curves(steps: Columns, epochs: list[dict], chance: float | None) -> str:
    """Returns the grid of a run's plots, without those of metrics that were not measured.

    Args:
        steps: of `History`.
        epochs: of `History`; the first may be epoch 0, the untrained network.
        chance: kNN top-1 by chance, a share in [0, 1]; None without labels.

    Returns:
        HTML; empty if nothing was measured.
    """
    by_epoch, before = as_columns(epochs), next((line for line in epochs if line["epoch"] == 0), {})
    per_epoch = _steps_per_epoch(steps, epochs)
    unit = "epoch" if per_epoch else "step"

    def measured(columns: Columns, name: str, label: str = "", **options) -> list[Curve]:
        values = columns.get(name, np.empty(0))
        known = np.isfinite(values)
        if not known.any():
            return []
        x, y = _thin(np.stack([columns["step"][known] / (per_epoch or 1), values[known]]))
        return [Curve(label, y, x, **options)]

    def shares(name: str, label: str, colour: str = "one") -> list[Curve]:
        last = share(epochs[-1].get(name)) if epochs else ""
        found = measured(by_epoch, name, f"{label} {last}", colour=colour)
        if before.get(name) is None:
            return found
        untrained = Curve(f"untrained {share(before[name])}", [before[name]], colour=colour, style="dash")
        return [*found, untrained] if epochs[-1] is not before else [untrained]

    knn = shares("knn_top1", "top-1")
    if chance is None or chance < 0.2:  # with up to five classes, top-5 is always 1
        knn += shares("knn_top5", "top-5", "two")
    if knn and chance is not None:
        knn.append(Curve(f"chance {share(chance)}", [chance], colour="ink", style="dot"))
    loss = measured(steps, "loss", "each step", style="faint")
    # The mean of an epoch is drawn at the epoch's middle.
    middles = as_columns([line | {"step": line["step"] - (per_epoch or 0) / 2} for line in epochs if line["epoch"]])
    loss += measured(middles, "loss", "epoch mean", colour="two")
    plots = {
        "Loss": [(loss, "auto")],
        "Accuracy on held-out images": [(shares("top1", "top-1") + shares("top5", "top-5", "two"), "share")],
        "kNN read-out of held-out images": [(knn, "share")],
        "Instance retrieval": [(shares("retrieval", "now"), "share")],
        "Spread of the embeddings": [
            (measured(by_epoch, "mean_cosine", "mean cosine of different images (lower is wider)"), "linear"),
            (measured(by_epoch, "effective_rank", "effective rank (higher is wider)", colour="two"), "linear"),
        ],
        "Learning rate and momentum": [
            (measured(steps, "lr", "learning rate"), "linear"),
            (measured(steps, "momentum", "momentum", colour="two"), "linear"),
        ],
        "Gradient norm": [(measured(steps, "grad_norm", style="fine"), "log")],
        "Speed, views per second": [(measured(steps, "views_per_second", style="fine"), "zero")],
    }
    plots = {title: [panel for panel in panels if panel[0]] for title, panels in plots.items()}
    plots = {title: panels for title, panels in plots.items() if panels}
    end = max([*steps["step"][-1:], *(line["step"] for line in epochs[-1:])], default=0) / (per_epoch or 1)
    # With an odd number of plots, the first one takes a full row.
    cards = [
        card(title, panels, unit, end or 1.0, wide=not index and len(plots) % 2 == 1)
        for index, (title, panels) in enumerate(plots.items())
    ]
    return f'<div class="plots">{"".join(cards)}</div>' if cards else ""


def _steps_per_epoch(steps: Columns, epochs: list[dict]) -> float | None:
    """Infers the steps of an epoch from the first step of a later epoch or, in the first epoch, from its end."""
    number = steps["epoch"]
    if len(number) and number[-1] > number[0]:
        first = np.argmax(number == number[-1])  # the first line of the last epoch
        return float((steps["step"][first] - steps["steps"][first]) / (number[first] - 1))
    return next((line["step"] / line["epoch"] for line in epochs if line["epoch"] > 0), None)


def _thin(points: np.ndarray, most: int = 400) -> np.ndarray:
    """Averages adjacent points so that at most `most` are left: `[2, N]` -> `[2, min(N, most)]`."""
    groups = np.array_split(points, most, axis=1) if points.shape[1] > most else None
    return points if groups is None else np.stack([group.mean(axis=1) for group in groups], axis=1)


def card(
    title: str, panels: Sequence[tuple[Sequence[Curve], str]], unit: str, end: float, *, wide: bool = False
) -> str:
    """Returns a plot with its title and legend.

    Args:
        title: of the plot.
        panels: curves and the scale of the y axis of each panel: share, linear, log, auto (log where values
            span much) or zero (from 0).
        unit: of the x axis.
        end: of the x axis, which begins at 0.
        wide: whether it takes a full row of a wide page.

    Returns:
        HTML.
    """
    keys = [
        f'<span><i class="{curve.style}" style="color: var(--{curve.colour})"></i>{escape(curve.label)}</span>'
        for curves, _ in panels
        for curve in curves
        if curve.label
    ]
    drawn = _svg(panels, unit, end, title=title)
    if wide:  # a phone shows the narrow form, where the text stays legible
        broad = _svg(panels, unit, end, title=title, inches=(10.2, 2.9))
        drawn = f'<div class="broad">{broad}</div><div class="narrow">{drawn}</div>'
    head = f'<h3>{escape(title)}</h3><p class="key">{"".join(keys)}</p>'
    return f'<figure class="plot card{" wide" * wide}">{head}{drawn}</figure>'


def _svg(
    panels: Sequence, unit: str, end: float, *, title: str, inches: tuple[float, float] = (4.9, 2.6)
) -> str:
    """Draws panels one above the other, with a common x axis from 0 to `end`."""
    matplotlib = load_matplotlib()
    # Ids must be unique on the page, so those of each drawing get a prefix.
    identity = f"{re.sub('[^a-z]+', '-', title.lower())}-{inches[0]:.0f}"
    style = {"svg.fonttype": "none", "svg.hashsalt": identity, "font.size": 9.5, "path.simplify": True}
    with matplotlib.rc_context(style):
        layout = matplotlib.layout_engine.ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.04, hspace=0.12)
        figure = matplotlib.figure.Figure(figsize=inches, layout=layout)
        all_axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
        for axes, (curves, scale) in zip(all_axes, panels, strict=True):
            _draw(axes, curves, scale, ticks=5 if len(panels) == 1 else 3)
        all_axes[-1].set_xlim(-0.02 * end, 1.02 * end)
        all_axes[-1].set_xlabel(unit, color=_COLOURS["ink"], labelpad=2)
        file = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]  # without the XML prologue
    svg = re.sub(r' (xmlns(:\w+)?|version|width|height)="[^"]*"', "", svg, count=5)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{escape(title)} by {unit}"', 1)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{identity}-", svg)
    for name, colour in _COLOURS.items():
        svg = svg.replace(colour, "currentColor" if name == "ink" else f"var(--{name})")
    return svg


def _draw(axes: "Axes", curves: list[Curve], scale: str, ticks: int) -> None:
    matplotlib = load_matplotlib()
    values = np.concatenate([np.asarray(curve.y, float) for curve in curves])
    low, high = values.min(), values.max()
    if low > 0 and (scale == "log" or (scale == "auto" and high > 50 * low)):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1.0, 2.0, 5.0) if high < 100 * low else (1.0,)))
    else:
        axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))
    percent = scale == "share"
    axes.yaxis.set_major_formatter(
        matplotlib.ticker.FuncFormatter(lambda value, _: f"{100 * value:.4g} %" if percent else f"{value:,.6g}")
    )
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(8, steps=[1, 2, 5, 10], integer=True))
    for curve in curves:
        look = dict(color=_COLOURS[curve.colour], **_STYLES[curve.style])
        if curve.x is None:
            axes.axhline(curve.y[0], **look)
        else:
            few = len(curve.x) == 1 or (len(curve.x) <= 40 and curve.style == "line")
            axes.plot(curve.x, curve.y, marker="o" if few else None, markersize=3.2, **look)
    if scale == "zero":
        axes.set_ylim(bottom=0)
    axes.grid(axis="y", color=_COLOURS["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.minorticks_off()
    axes.tick_params(length=0, labelcolor=_COLOURS["ink"])
