"""Compares training runs: a table of their scores, and a figure of loss and kNN accuracy by epoch.

python experiments/table.py runs/ipcl_smoke runs/demo --out table.png
python experiments/table.py runs/* --markdown
"""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table as RichTable

from ipcl_jax.commands.recipes import published
from ipcl_jax.commands.running import exit_code
from ipcl_jax.errors import ConfigError
from ipcl_jax.report.drawing import SUFFIXES
from ipcl_jax.report.table_figure import Series, draw
from ipcl_jax.run.folder import CONFIG
from ipcl_jax.run.history import read_metrics
from ipcl_jax.system.console import make_console
from ipcl_jax.system.files import check_writable, expand_home, read_json

# Columns that are left out if no run has them.
_OPTIONAL = ("kNN before", "published kNN", "accuracy")


@dataclass(frozen=True)
class Table:
    """Compares training runs: a table of their scores, and a figure of loss and kNN accuracy by epoch."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of runs."""
    out: Path | None = None
    """Figure to write, .png, .svg or .pdf: kNN and loss by epoch."""
    markdown: bool = False
    """Print the table as Markdown."""


@dataclass(frozen=True)
class Run:
    """The config and metrics in a run's folder."""

    name: str
    config: dict
    steps: list[dict]
    epochs: list[dict]

    def by_epoch(self, metric: str) -> list[tuple[int, float]]:
        """Returns (epoch, value) of each epoch with that metric; epoch 0 is the untrained network."""
        return [(line["epoch"], line[metric]) for line in self.epochs if line.get(metric) is not None]

    def row(self) -> dict[str, str]:
        """Returns the run's row of the table, by the names of the columns."""
        done = max((line["epoch"] for line in self.epochs), default=0)
        images, views = self.config["batch_size"], self.config["views"]["per_image"]
        knn, retrieval, top1 = (self.by_epoch(name) for name in ("knn_top1", "retrieval", "top1"))
        trained = [point for point in knn if point[0]]
        best = max(trained, key=lambda point: point[1], default=None)
        speeds = [line["views_per_second"] for line in self.steps if line.get("views_per_second")]
        ends = [_number(line.get("loss"), "{:.4g}") for line in (self.steps[:1] + self.steps[-1:])]
        return {
            "run": self.name,
            "recipe": self.config["name"],
            "epochs": f"{done} of {self.config['epochs']}",
            "steps": f"{self.steps[-1]['step']:,}" if self.steps else "–",
            "images x views": f"{images} x {views}",
            "views seen": f"{sum(line.get('steps', 1) for line in self.steps) * images * views:,}",
            "first loss": ends[0] if ends else "–",
            "loss": ends[-1] if ends else "–",
            "kNN before": _percent(next((value for epoch, value in knn if epoch == 0), None)),
            "kNN": _percent(trained[-1][1] if trained else None),
            "best kNN": f"{_percent(best[1])} (epoch {best[0]})" if best else "–",
            "published kNN": _percent(published(self.config["name"])),
            "accuracy": _percent(top1[-1][1] if top1 and top1[-1][0] else None),
            "retrieval": _percent(retrieval[-1][1] if retrieval and retrieval[-1][0] else None),
            "views/s": _number(statistics.median(speeds) if speeds else None, "{:,.0f}"),
        }


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Reads runs; each is named by the shortest end of its path that is unique.

    Raises:
        ConfigError: if a folder holds no run.
    """
    paths = list(dict.fromkeys(expand_home(folder).absolute() for folder in folders))
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return [Run("/".join(path.parts[-depth:]), _read_config(path), *read_metrics(path)) for path in paths]


def _read_config(path: Path) -> dict:
    file = path / CONFIG
    if not file.is_file():
        found = f"has no {CONFIG}" if path.is_dir() else "does not exist"
        raise ConfigError(f"{path} is not the folder of a run: it {found}.")
    try:
        config = read_json(file)
        config["name"], config["epochs"], config["batch_size"], config["views"]["per_image"]
    except (ConfigError, KeyError, TypeError) as error:
        raise ConfigError(f"{file} is no run's config: {type(error).__name__}: {error}.") from None
    return config


def side_by_side(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Returns the table, one row a run, without the optional columns that are empty."""
    rows = [run.row() for run in runs]
    empty = {name for name in _OPTIONAL if all(row[name] == "–" for row in rows)}
    return [{name: cell for name, cell in row.items() if name not in empty} for row in rows]


def knn_by_epoch(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Returns a second table: kNN top-1 after every epoch that any run measured, one column a run."""
    scores = {run.name: dict(run.by_epoch("knn_top1")) for run in runs}
    epochs = sorted({epoch for of_run in scores.values() for epoch in of_run})
    return [
        {"kNN after epoch": str(epoch)}
        | {name: _percent(of_run.get(epoch)) for name, of_run in scores.items()}
        for epoch in epochs
    ]


def as_markdown(rows: Sequence[dict[str, str]]) -> str:
    """Returns the table as Markdown."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_text(rows: Sequence[dict[str, str]], width: int) -> list[RichTable]:
    """Returns the table for a terminal of that width, split into several tables of some columns each if necessary."""
    (first, *others), pieces = rows[0], []
    while others:
        for number in range(len(others), 0, -1):
            table = RichTable(first)
            for name in others[:number]:
                table.add_column(name, max_width=22, overflow="fold")
            for row in rows:
                table.add_row(row[first], *(row[name] for name in others[:number]))
            if _width(table) <= width:
                break
        pieces.append(table)
        others = others[number:]
    return pieces


def transpose(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Returns the table with rows and columns exchanged."""
    first, *others = rows[0]
    return [{first: name} | {row[first]: row[name] for row in rows} for name in others]


def _width(table: RichTable) -> int:
    return Console(width=10_000).measure(table).maximum


def main() -> int:
    """Runs the command line; returns the exit code."""
    options = tyro.cli(Table, description=__doc__)
    return exit_code(lambda: show(options, make_console()))


def show(options: Table, console: Console) -> None:
    """Prints the tables, and draws the figure if `--out` is given."""
    if not options.runs:
        raise ConfigError("No runs given; give one or several folders of runs.")
    out = options.out and expand_home(options.out)
    if out and out.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--out is {out}; a figure's name ends in {', '.join(SUFFIXES)}.")
    if out:
        check_writable(out)
    runs = read_runs(options.runs)
    rows, by_epoch = side_by_side(runs), knn_by_epoch(runs)
    if not options.markdown and len(as_text(rows, console.width)) > 1:
        rows = transpose(rows)  # one column a run
    for table in filter(None, (rows, by_epoch)):
        if options.markdown:
            print(as_markdown(table) + "\n")
        else:
            console.print(*as_text(table, console.width))
    if out:
        knn = [Series(run.name, run.by_epoch("knn_top1")) for run in runs]
        draw(knn, [Series(run.name, run.by_epoch("loss")) for run in runs], out)
        print(f"Figure: {out}")


if __name__ == "__main__":
    sys.exit(main())
