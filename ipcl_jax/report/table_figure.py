"""The figure of `table.py`: kNN and loss by epoch, with a labelled line for each run."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ipcl_jax.report.curves import share
from ipcl_jax.report.drawing import FAINT, STYLE, line_style, load_matplotlib, save, short_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE = 11  # of the font, in points


class Series(NamedTuple):
    """A metric of one run by epoch."""

    run: str
    points: Sequence[tuple[int, float]]  # epoch, value


def draw(knn: Sequence[Series], loss: Sequence[Series], path: Path) -> None:
    """Writes the figure.

    Args:
        knn: kNN top-1 of each run, shares in [0, 1]; epoch 0 is the untrained network.
        loss: mean loss of each epoch, of the same runs in the same order.
        path: .png, .svg or .pdf.
    """
    matplotlib = load_matplotlib()
    with matplotlib.rc_context({"font.size": _SIZE} | STYLE):
        longest = max(len(short_name(series.run)) for series in knn)
        size = (9.5 + 0.016 * _SIZE * longest, max(4.8, 1.5 + 0.24 * len(knn)))  # room for names
        figure = matplotlib.figure.Figure(figsize=size, layout=matplotlib.layout_engine.ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
        panels = figure.subplots(1, 2)
        _draw(panels[0], "kNN top-1 of held-out images", knn, lambda value, _: f"{100 * value:.4g} %")
        _draw(panels[1], "Loss, mean of the epoch", loss, lambda value, _: f"{value:,.4g}")
        values = [value for series in loss for _, value in series.points]
        if values and 0 < 5 * min(values) < max(values):
            panels[1].set_yscale("log")
            panels[1].yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
            panels[1].yaxis.set_minor_locator(matplotlib.ticker.NullLocator())
            panels[1].yaxis.set_major_formatter("{x:,.4g}")
        if any(epoch == 0 for series in knn for epoch, _ in series.points):
            panels[0].set_xlabel("epoch (0: untrained)")
        figure.draw_without_rendering()  # computes the layout, which the positions of the names depend on
        _name_lines(panels[0], knn, share)
        _name_lines(panels[1], loss, "{:.4g}".format)
        save(figure, path)


def _draw(axes: "Axes", title: str, lines: Sequence[Series], form: Callable) -> None:
    matplotlib = load_matplotlib()
    axes.set_title(title, loc="left", fontsize=_SIZE + 2, pad=12)
    axes.set_xlabel("epoch")
    axes.spines[["top", "right", "left"]].set_visible(False)
    if not any(series.points for series in lines):
        axes.text(0.5, 0.5, "nothing measured yet", transform=axes.transAxes, ha="center", va="center")
        axes.set(xticks=[], yticks=[])
        return
    axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(form))
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(8, steps=[1, 2, 5, 10], integer=True))
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    for number, series in enumerate(lines):
        if series.points:
            few = len(series.points) <= 30
            axes.plot(
                *zip(*series.points, strict=True), linewidth=2, marker="o" if few else None, markersize=5,
                markeredgecolor="white", markeredgewidth=0.8, **line_style(number),
            )  # fmt: skip


def _name_lines(axes: "Axes", lines: Sequence[Series], form: Callable) -> None:
    """Writes names and last values to the right of the lines' ends, moved apart where they would overlap."""
    ends = {number: series.points[-1] for number, series in enumerate(lines) if series.points}
    if not ends:
        return
    to_share = axes.transData + axes.transAxes.inverted()
    heights = {number: to_share.transform(end)[1] for number, end in ends.items()}
    axis_height = axes.get_window_extent().height / axes.figure.dpi * 72  # points
    for number, height in _spread(heights, gap=1.25 * _SIZE / axis_height).items():
        axes.annotate(
            f"{short_name(lines[number].run)}  {form(ends[number][1])}", ends[number], xytext=(1.04, height),
            textcoords="axes fraction", va="center", annotation_clip=False,
            arrowprops=dict(
                arrowstyle="-", relpos=(0, 0.5), linewidth=1, alpha=0.6, shrinkA=2, shrinkB=4,
                **line_style(number),
            ),
        )  # fmt: skip


def _spread(places: dict[int, float], gap: float) -> dict[int, float]:
    """Moves positions in [0, 1] as little as possible, in their order, so that neighbours are at least `gap` apart."""
    groups: list[tuple[list[int], float]] = []  # members that are exactly `gap` apart, and their middle
    for number in sorted(places, key=places.__getitem__):
        members, middle = [number], places[number]
        while groups and middle - groups[-1][1] < gap * (len(members) + len(groups[-1][0])) / 2:
            lower, below = groups.pop()
            middle = (middle * len(members) + below * len(lower)) / (len(members) + len(lower))
            members = lower + members
        half = gap * (len(members) - 1) / 2
        groups.append((members, max(half, min(middle, 1 - half))))
    return {
        number: middle + gap * (place - (len(members) - 1) / 2)
        for members, middle in groups
        for place, number in enumerate(members)
    }
