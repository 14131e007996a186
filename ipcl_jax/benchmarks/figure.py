"""A figure of the speed of training on a GPU."""

from collections.abc import Sequence
from pathlib import Path

from ipcl_jax.benchmarks.turns import Measured
from ipcl_jax.report.drawing import load_matplotlib

_GOALS = {"float32": 12_000, "bfloat16": 22_000}  # views/s, of one H100
_OURS, _OTHERS, _GOAL = "#0072B2", "#999999", "#D55E00"


def draw(tables: Sequence[Measured], path: Path) -> None:
    """Draws views a second of the step and of training runs, as bars, with the goals.

    Args:
        tables: those of other units, and of the views alone, are left out; without any other nothing is drawn.
        path: of the image.

    Raises:
        MissingPackage: if matplotlib isn't installed.
    """
    shown = [table for table in tables if table.unit == "views/s" and table.name != "views"]
    bars = [(table, column) for table in shown for column in table.columns]
    if not bars:
        return
    figure = load_matplotlib().figure.Figure(figsize=(8, 0.5 * len(bars) + 1.2), layout="constrained")
    axes = figure.subplots()
    for row, (table, column) in enumerate(bars):
        of = table.summary()[column]
        error = [[of["median"] - of["lowest"]], [of["highest"] - of["median"]]]
        colour = _OURS if column == "ours" else _OTHERS
        axes.barh(row, of["median"], color=colour, height=0.6, xerr=error, ecolor="#222222", capsize=3)
        axes.annotate(
            f" {of['median']:,.0f}",
            (of["highest"], row),
            va="center",
            xytext=(4, 0),
            textcoords="offset points",
        )
    for precision, goal in _GOALS.items():
        if max(table.summary()["ours"]["highest"] for table in shown) > goal / 4:
            axes.axvline(goal, color=_GOAL, linestyle="--")
            top = axes.get_xaxis_transform()
            axes.text(goal, 1.02, f"{precision}'s goal", transform=top, color=_GOAL, rotation=20, size="small")
    labels = [table.name if column == "ours" else f"{column}, {table.name}" for table, column in bars]
    axes.set_yticks(range(len(bars)), labels)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel(f"views/s on {shown[0].facts['device']} (median; line: lowest to highest)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
