"""Figures of a comparison of models with brain data: scores along the network, and models side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ipcl_jax.comparison.table import BestScore, LayerScore, Tables
from ipcl_jax.report.brain_summary import (
    FEWEST,
    LIMIT,
    Summary,
    ceiling,
    grouped,
    part,
    summarise,
    surviving,
    unique,
)
from ipcl_jax.report.drawing import FAINT, INK, STYLE, line_style, load_matplotlib, save, short_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BROAD, NARROW = 7.1, 3.4
"""Widths of figures in inches: a page of a journal, and one of its two columns."""
MOST_MARKED = 6  # models; with more, neither bands of intervals nor marks of differences are drawn
_CEILING = "#999999"
_STYLE = {"font.size": 8, "axes.linewidth": 0.6, "xtick.labelsize": 7, "ytick.labelsize": 7} | STYLE


def draw_layers_by_region(
    tables: Tables, measure: str, path: Path | BinaryIO, *, width: float = BROAD
) -> None:
    """Draws scores of layers along the network, a panel for each region and a line for each model.

    A line is the mean over subjects, a band around it the 95 % confidence interval of `summarise`, for up to six
    models. The ceiling is a band from the lowest to the highest of all subjects, or a dashed line if they are equal.
    Where all models have the same layers, some of them are named.

    Args:
        tables: of the comparison.
        measure: whose scores to draw.
        path: .png, .svg or .pdf, or an open file for a PNG.
        width: of the figure, in inches.

    Raises:
        InputError: as in `brain_summary.part`.
    """
    matplotlib, rows = load_matplotlib(), part(tables, measure).layers
    regions, models = unique(row.region for row in rows), unique(row.model for row in rows)
    networks = {model: _places([row for row in rows if row.model == model]) for model in models}
    alike = len({tuple(places.items()) for places in networks.values()}) == 1
    with matplotlib.rc_context(_STYLE):
        handles = {
            name: matplotlib.lines.Line2D([], [], linewidth=1.5, **line_style(number))
            for number, name in enumerate(short_names(models))
        }
        count, below = min(len(regions), int(width / 1.65)), 0.75 if alike else 0.4
        figure, grid, columns = _panels(regions, count, width, 1.35, below, handles | _ceiling_key(rows))
        found = grouped(rows, "region", "model", "layer")
        for place, (region, axes) in enumerate(grid.items()):
            _draw_ceiling(axes, ceiling(row for row in rows if row.region == region), along="y")
            for number, (model, places) in enumerate(networks.items()):
                own = {
                    place: summarise(found[region, model, layer])
                    for layer, place in places.items()
                    if (region, model, layer) in found
                }
                if own:
                    _draw_line(axes, number, len(models), list(own), list(own.values()))
            axes.axhline(0, color=INK, linewidth=0.6)
            axes.grid(axis="y", color=FAINT, linewidth=0.6)
            axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
            if alike:
                room = figure.get_figwidth() / columns - 0.3
                below = place + columns >= len(regions) and place // columns < (len(regions) - 1) // columns
                _name_layers(axes, *_named_layers(networks[models[0]], room), room, in_gap=below)
            else:
                axes.set_xticks([0, 0.5, 1], ["first", "depth", "last"])
            if place % columns == 0:
                axes.set_ylabel("score")
        if min(row.score for row in rows) >= 0:
            axes.set_ylim(bottom=0)
        if all(len(places) == 1 for places in networks.values()):
            half = 0.1 + 0.03 * len(models)
            axes.set_xlim(1 - half, 1 + half)
        save(figure, path)


def draw_models(tables: Tables, measure: str, path: Path | BinaryIO, *, width: float = BROAD) -> None:
    """Draws the score of each model's best layer, a panel for each region and a row for each model.

    A large dot is the mean over subjects, a line through it the 95 % confidence interval of `summarise`, and the small
    dots below are the subjects. The ceiling is drawn as in `draw_layers_by_region`. With up to six models, lines at the
    right tie the models that differ: from a dot at one to a tick at each other (see `brain_summary.surviving`).

    Args:
        tables: of the comparison.
        measure: whose scores to draw.
        path: .png, .svg or .pdf, or an open file for a PNG.
        width: of the figure, in inches.

    Raises:
        InputError: as in `brain_summary.part`.
    """
    matplotlib, rows = load_matplotlib(), part(tables, measure)
    best, differences = rows.best, rows.differences
    regions, models = unique(row.region for row in best), unique(row.model for row in best)
    marked = {
        region: surviving(row for row in differences if row.region == region) if len(models) <= MOST_MARKED else set()
        for region in regions
    }
    found, labels = grouped(best, "region", "model"), short_names(models)
    with matplotlib.rc_context(_STYLE):
        names = 0.1 + 0.055 * max(map(len, labels))  # inches
        count = min(len(regions), max(1, int((width - names) / 1.3)))
        height = 0.25 + (0.2 if len(models) <= 8 else 0.15) * len(models)
        handles = _models_key(best, tied=any(marked.values()))
        figure, grid, _ = _panels(regions, count, width, height, 0.3, handles, beside=names)
        for region, axes in grid.items():
            _draw_ceiling(axes, ceiling(row for row in best if row.region == region), along="x")
            for number, model in enumerate(models):
                if own := found.get((region, model)):
                    _draw_dot(axes, number, summarise(own))
            axes.axvline(0, color=INK, linewidth=0.6, clip_on=False)
            axes.grid(axis="x", color=FAINT, linewidth=0.6)
            axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
            axes.set_yticks(range(len(models)), labels)
            axes.set_ylim(len(models) - 0.4, -0.6)
            axes.tick_params(axis="y", length=0)
            _draw_ties(axes, models, marked[region])
        if min(row.score for row in best) >= 0:
            axes.set_xlim(left=0)
        save(figure, path)


# --- panels ------------------------------------------------------------------------------


def _panels(
    regions: Sequence[str], columns: int, width: float, height: float, below: float, handles: Mapping[str, Any],
    *, beside: float = 0.4,
) -> tuple["Figure", dict[str, "Axes"], int]:  # fmt: skip
    """Makes a figure with a panel for each region, all of the same scales, and a legend above them.

    Args:
        regions: their names.
        columns: panels side by side, at most.
        width: of the figure, in inches, at most.
        height: of a panel.
        below: height of what is below the lowest panels.
        handles: of the legend, by their labels.
        beside: width of what is left of the first panel.

    Returns:
        The figure, its panels by region, and the number of columns.
    """
    matplotlib = load_matplotlib()
    lines = -(-len(regions) // columns)
    columns = -(-len(regions) // lines)
    width = min(width, columns * 2.9 + beside)
    widths = [0.47 + 0.06 * len(label) for label in handles]  # inches
    entries = len(handles) if sum(widths) <= width else max(1, int(width / max(widths)))
    size = width, lines * (height + 0.3) + below + 0.2 + 0.16 * -(-len(handles) // entries)
    layout = matplotlib.layout_engine.ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.04, wspace=0.03, hspace=0.03)
    figure = matplotlib.figure.Figure(size, layout=layout)
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    legend = figure.legend(
        list(handles.values()), [" "] * len(handles), loc="outside upper left", ncols=entries,
        frameon=False, fontsize=7.5, handlelength=2, columnspacing=1.2, borderaxespad=0.2,
    )  # fmt: skip
    for text, label in zip(legend.get_texts(), handles, strict=True):
        text.set_text(label)  # matplotlib would leave out a label that begins with an underscore
    titles = short_names(regions)
    for place, axes in enumerate(panels):
        if place >= len(regions):
            axes.set_axis_off()
            continue
        axes.set_title(titles[place], fontsize=8.5, loc="left")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.set_axisbelow(True)
        axes.tick_params(length=2)
        axes.tick_params(axis="y", length=0)
        axes.tick_params(labelbottom=place + columns >= len(regions))  # none is below
    return figure, dict(zip(regions, panels, strict=False)), columns


def _draw_ceiling(axes: "Axes", bounds: tuple[float, float] | None, *, along: str) -> None:
    if bounds is None:
        return
    low, high = bounds
    line, span = (axes.axhline, axes.axhspan) if along == "y" else (axes.axvline, axes.axvspan)
    if high > low:
        span(low, high, color=_CEILING, alpha=0.35, linewidth=0)
    else:
        line(low, color=_CEILING, linewidth=1, linestyle=(0, (3, 2)))


def _ceiling_key(rows: Sequence[LayerScore] | Sequence[BestScore]) -> dict[str, Any]:
    """Returns the legend's entry of the ceiling; empty if no row has one."""
    matplotlib = load_matplotlib()
    bounds = [ceiling(row for row in rows if row.region == region) for region in unique(row.region for row in rows)]
    if any(bound is not None and bound[1] > bound[0] for bound in bounds):
        return {
            "ceiling, lowest to highest": matplotlib.patches.Patch(color=_CEILING, alpha=0.35, linewidth=0)
        }
    if any(bound is not None for bound in bounds):
        return {"ceiling": matplotlib.lines.Line2D([], [], color=_CEILING, linewidth=1, linestyle=(0, (3, 2)))}
    return {}


# --- layers ------------------------------------------------------------------------------


def _places(rows: Sequence[LayerScore]) -> dict[str, float]:
    """Returns a model's layers by depth, from 0 to 1 for the last; an only layer is the last."""
    depths = {row.layer: row.depth for row in sorted(rows, key=lambda row: row.depth)}
    last = max(depths.values())
    return {layer: depth / last if len(depths) > 1 else 1.0 for layer, depth in depths.items()}


def _draw_line(axes: "Axes", number: int, models: int, places: Sequence[float], scores: Sequence[Summary]) -> None:
    """Draws one model's line in a panel; a dot for a single layer."""
    look, means = line_style(number), [score.score for score in scores]
    low, high = ([getattr(score, name) for score in scores] for name in ("low", "high"))
    if len(scores) == 1:  # models side by side
        at = places[0] + 0.06 * (number - (models - 1) / 2)
        axes.plot([at, at], [low[0], high[0]], color=look["color"], linewidth=1)
        axes.plot([at], means, "osD"[number // 7 % 3], color=look["color"], markersize=4)
        return
    marker = "o" if len(scores) <= 12 else None
    axes.plot(places, means, linewidth=1.3, marker=marker, markersize=2.5, **look)
    if models <= MOST_MARKED:
        axes.fill_between(places, low, high, color=look["color"], alpha=0.15, linewidth=0)


def _named_layers(places: Mapping[str, float], room: float) -> tuple[list[float], list[str]]:
    """Chooses layers to name, whose names don't overlap: the last first, and whole blocks rather than their parts.

    Args:
        places: of the layers, in [0, 1].
        room: width of a panel, in inches.
    """
    names = list(places)
    blocks = [name for name in names if any(other.startswith(f"{name}.") for other in names)]
    others = [name for name in names if "." not in name or len(names) <= 12]
    chosen = [names[-1]]
    span = places[names[-1]] - places[names[0]] or 1
    for name in (*reversed(blocks), *reversed(others)):
        if all(abs(places[name] - places[other]) / span * room > 0.1 for other in chosen):
            chosen.append(name)
    return [places[name] for name in chosen], short_names(chosen)


def _name_layers(
    axes: "Axes", places: Sequence[float], names: Sequence[str], room: float, *, in_gap: bool
) -> None:
    """Names layers below a panel; `in_gap`: where no panel is below, so that no row has to make room for them."""
    rotation = 0 if 0.06 * sum(len(name) + 2 for name in names) < room else 90
    axes.set_xticks(places, names, rotation=rotation, fontsize=6.5)
    if in_gap:
        axes.tick_params(labelbottom=False)
        for place, name in zip(places, names, strict=True):
            axes.annotate(
                name, (place, 0), (0, -4), xycoords=axes.get_xaxis_transform(), textcoords="offset points",
                rotation=rotation, fontsize=6.5, ha="center", va="top",
            ).set_in_layout(False)  # fmt: skip


# --- models ------------------------------------------------------------------------------


def _models_key(rows: Sequence[BestScore], *, tied: bool) -> dict[str, Any]:
    """Returns the legend's entries."""
    line, groups = load_matplotlib().lines.Line2D, len({row.subject for row in rows})
    name = "score" if groups == 1 else "mean"
    name += "" if 1 < groups < FEWEST else ", 95 % interval"
    handles = {name: line([], [], color=INK, marker="o", markersize=4, linewidth=1.3 if "," in name else 0)}
    if groups > 1:
        handles["a subject"] = line([], [], color=INK, marker="o", markersize=2.2, linestyle="")
    handles |= _ceiling_key(rows)
    if tied:
        handles[f"tied: differ, p < {LIMIT:g}"] = line([], [], color=INK, marker=".", markersize=4, linewidth=0.8)
    return handles


def _draw_dot(axes: "Axes", row: int, found: Summary) -> None:
    """Draws one model's score with its interval, and the subjects below."""
    colour = line_style(row)["color"]
    axes.plot([found.low, found.high], [row, row], color=colour, linewidth=1.3, solid_capstyle="butt")
    axes.plot(found.score, row, "osD"[row // 7 % 3], color=colour, markersize=4, zorder=3)
    if len(found.by_subject) > 1:
        dots = list(found.by_subject.values())
        axes.plot(dots, [row + 0.3] * len(dots), "o", color=colour, markersize=2.2, markeredgewidth=0)


def _draw_ties(axes: "Axes", models: Sequence[str], pairs: set[tuple[str, str]]) -> None:
    """Draws lines beside a panel from a dot at one model to ticks at those below that differ from it."""
    row = {model: number for number, model in enumerate(models)}
    below: dict[int, list[int]] = {}
    for one, other in pairs:
        first, second = sorted((row[one], row[other]))
        below.setdefault(first, []).append(second)
    for lane, (first, seconds) in enumerate(sorted(below.items())):
        at = 1.03 + 0.05 * lane
        look: dict[str, Any] = dict(color=INK, transform=axes.get_yaxis_transform(), clip_on=False)
        axes.plot([at, at], [first, max(seconds)], linewidth=0.8, **look)
        axes.plot([at], [first], ".", markersize=4, **look)
        for second in seconds:
            axes.plot([at - 0.025, at], [second, second], linewidth=0.8, **look)
