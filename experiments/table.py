"""Several runs side by side: a table of what they reached, and one figure of how they got there.

python experiments/table.py runs/ipcl_smoke runs/demo --out table.png
python experiments/table.py runs/* --markdown
"""

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import matplotlib
import tyro
from rich.console import Console
from rich.table import Table as RichTable

from ipcl_jax.config import ConfigError
from ipcl_jax.record import read_metrics

matplotlib.use("Agg")

import matplotlib.pyplot as plt

_SUFFIXES = (".png", ".svg", ".pdf")
# Okabe and Ito's colours, which most colour-blind readers tell apart, without the yellow.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")


@dataclass(frozen=True)
class Table:
    """Several runs side by side: a table of what they reached, and one figure of how they got there."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of runs."""
    out: Path | None = None
    """Figure to write, .png, .svg or .pdf: kNN and loss by epoch."""
    markdown: bool = False
    """Print the table as Markdown."""


@dataclass(frozen=True)
class Run:
    """What a run has written so far."""

    name: str
    config: dict
    steps: list[dict]
    epochs: list[dict]

    def course(self, metric: str) -> list[tuple[int, float]]:
        """Epoch and value, where it was measured; epoch 0 is the untrained network."""
        return [(line["epoch"], line[metric]) for line in self.epochs if line.get(metric) is not None]

    def row(self) -> dict[str, str]:
        """The table's cells by the names of its columns."""
        done = max((line["epoch"] for line in self.epochs), default=0)
        views = self.config["batch_size"] * self.config["views"]["per_image"]
        knn, retrieval, top1 = (self.course(name) for name in ("knn_top1", "retrieval", "top1"))
        trained = [point for point in knn if point[0]]
        best = max(trained, key=lambda point: point[1], default=None)
        speeds = [line["views_per_second"] for line in self.steps if line.get("views_per_second")]
        return {
            "run": self.name,
            "recipe": self.config["name"],
            "epochs": f"{done} of {self.config['epochs']}",
            "views": f"{len(self.steps) * views:,}",
            "loss": _number(self.steps[-1].get("loss") if self.steps else None, "{:.4g}"),
            "kNN before": _percent(next((value for epoch, value in knn if epoch == 0), None)),
            "kNN": _percent(trained[-1][1] if trained else None),
            "best kNN": f"{_percent(best[1])} (epoch {best[0]})" if best else "–",
            "accuracy": _percent(top1[-1][1] if top1 and top1[-1][0] else None),
            "retrieval": _percent(retrieval[-1][1] if retrieval and retrieval[-1][0] else None),
            "views/s": _number(statistics.median(speeds) if speeds else None, "{:,.0f}"),
        }


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Reads runs; each is called by as much of its path as tells it from the others.

    Raises:
        ConfigError: if a folder holds no run.
    """
    paths = [folder.expanduser().absolute() for folder in folders]
    for path in paths:
        if not (path / "config.json").is_file():
            raise ConfigError(f"{path} is not the folder of a run: it has no config.json.")
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(set(paths)):
        depth += 1
    runs = []
    for path in paths:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        runs.append(Run("/".join(path.parts[-depth:]), config, *read_metrics(path)))
    return runs


def knn_by_epoch(runs: Sequence[Run]) -> list[dict[str, str]]:
    """A second table: kNN top-1 after every epoch that any run measured, a column a run."""
    courses = {run.name: dict(run.course("knn_top1")) for run in runs}
    epochs = sorted({epoch for course in courses.values() for epoch in course})
    return [
        {"kNN after epoch": str(epoch)}
        | {name: _percent(course.get(epoch)) for name, course in courses.items()}
        for epoch in epochs
    ]


def as_markdown(rows: Sequence[dict[str, str]]) -> str:
    """The table as Markdown."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(runs: Sequence[Run], path: Path) -> None:
    """Writes the figure: kNN top-1 and the mean loss of each epoch, a line a run.

    Args:
        runs: what to draw; a run without an epoch has no line.
        path: .png, .svg or .pdf.
    """
    figure, (knn, loss) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for number, run in enumerate(runs):
        colour, dash = _COLOURS[number % len(_COLOURS)], ("-", "--", ":")[number // len(_COLOURS) % 3]
        style = dict(color=colour, linestyle=dash, marker="o", markersize=3.5, label=run.name)
        for axes, metric, scale in ((knn, "knn_top1", 100), (loss, "loss", 1)):
            if points := run.course(metric):
                epochs, values = zip(*points, strict=True)
                axes.plot(epochs, [scale * value for value in values], **style)
    knn.set(title="kNN read-out of held-out images", xlabel="epoch (0: untrained)", ylabel="top-1, percent")
    loss.set(title="Loss", xlabel="epoch", ylabel="mean of the epoch", yscale="log")
    loss.yaxis.set_major_formatter("{x:g}")
    loss.yaxis.set_minor_formatter("{x:g}")
    for axes in (knn, loss):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
        axes.xaxis.get_major_locator().set_params(integer=True)
    handles, labels = knn.get_legend_handles_labels() if knn.lines else loss.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(handles)), frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> int:
    """Runs the command line; returns the exit code."""
    options = tyro.cli(Table)
    try:
        if not options.runs:
            raise ConfigError("No runs given; give one or several folders of runs.")
        if options.out and options.out.suffix.lower() not in _SUFFIXES:
            raise ConfigError(f"--out is {options.out}; a figure's name ends in {', '.join(_SUFFIXES)}.")
        runs = read_runs(options.runs)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for rows in filter(None, ([run.row() for run in runs], knn_by_epoch(runs))):
        if options.markdown:
            print(as_markdown(rows) + "\n")
        else:
            table = RichTable(*rows[0])
            for row in rows:
                table.add_row(*row.values())
            Console().print(table)
    if options.out:
        draw(runs, options.out.expanduser())
        print(f"Figure: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
