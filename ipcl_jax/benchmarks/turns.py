"""Two ways of doing the same work, taking turns, so that whatever else the machine does meets both."""

import json
import os
import platform
import statistics
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from ipcl_jax.benchmarks.in_torch import TWINS, Beside
from ipcl_jax.errors import ConfigError

Against = Literal["torch"]

_SUMMARIES: dict[str, Callable[..., float]] = {"median": statistics.median, "lowest": min, "highest": max}


@dataclass
class Measured:
    """One table: a row a turn, a column a way of doing the work, and what else is worth knowing."""

    name: str
    unit: str = ""
    columns: tuple[str, ...] = ()
    turns: list[tuple[float, ...]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def summary(self) -> dict[str, dict[str, float]]:
        """Median, lowest and highest of each column, and of the ratio of the first two in a turn."""
        columns = dict(zip(self.columns, zip(*self.turns, strict=True), strict=True))
        if len(self.columns) > 1:
            ours, theirs = self.columns[:2]
            columns["ratio"] = tuple(a / b for a, b in zip(columns[ours], columns[theirs], strict=True))
        return {
            name: {how: function(values) for how, function in _SUMMARIES.items()}
            for name, values in columns.items()
        }

    def show(self) -> None:
        """Prints the table."""
        print(f"{self.name}, {self.unit}, {len(self.turns)} turns" if self.turns else self.name)
        summary = self.summary()
        for how in ("", *_SUMMARIES) if self.turns else ():
            cells = (f"{name if not how else _number(name, of[how]):>15}" for name, of in summary.items())
            print(f"{how:9}" + "".join(cells))
        for name, value in self.facts.items():
            print(f"{name}: {value:,.4g}" if isinstance(value, float) else f"{name}: {value}")


def _number(name: str, value: float) -> str:
    return f"{value:.2f}" if name == "ratio" else f"{value:,.1f}"


def take_turns(rounds: int, *ways: Callable[[], float]) -> list[tuple[float, ...]]:
    """Runs each way once a round, and returns what they say of themselves, round by round."""
    return [tuple(way() for way in ways) for _ in range(rounds)]


def compare(
    table: Measured,
    rounds: int,
    ours: Callable[[], float],
    count: int,
    against: Against | None,
    build: Callable[[], Beside],
) -> np.ndarray | None:
    """Fills a table: turns of ours alone, or of ours and torch's.

    Args:
        table: to fill; its first column is ours.
        rounds: turns of either.
        ours: does the work once and returns its speed.
        count: pieces of work in a turn, by which torch's speed is reckoned.
        against: None leaves torch out.
        build: makes the same work in torch, if it is wanted.

    Returns:
        What torch's work gives the first time, which is slower and not counted; None without torch.
    """
    if against is None:
        table.turns = take_turns(rounds, ours)
        return None
    table.columns += (against,)
    with build() as beside:
        _, first = beside.run()
        table.turns = take_turns(rounds, ours, lambda: count / beside.run()[0])
    return first


def save(tables: Iterable[Measured], path: Path) -> None:
    """Writes tables as JSON, with the machine they come from."""
    document = {
        "device": device(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("jax", "jaxlib", "flax")},
        "tables": [
            {
                "name": table.name, "unit": table.unit, "columns": table.columns, "turns": table.turns,
                "summary": table.summary(), "facts": table.facts,
            }
            for table in tables
        ],
    }  # fmt: skip
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def finish(table: Measured, json: Path | None) -> Measured:
    """Shows a table, and writes it where asked for."""
    table.show()
    if json is not None:
        save([table], json)
    return table


def device() -> str:
    """The accelerators, such as `2 x NVIDIA H100 80GB HBM3`."""
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"


def check_torch(against: Against | None) -> None:
    """Refuses a comparison with torch where there is none."""
    if against and find_spec("torch") is None:
        raise ConfigError("--against torch needs torch: pip install -e '.[convert]'")
    if against and not TWINS.is_dir():
        raise ConfigError("--against torch needs a clone of the project, whose tests have the network in torch.")


class Memory:
    """Samples this process's resident memory while it is open."""

    def __init__(self):
        self._samples, self._over = [], threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        self._thread.join()

    def most(self, begin: float, end: float) -> float:
        """Most MB between two shares of the time."""
        count = len(self._samples)
        return max(self._samples[int(begin * count) : max(int(end * count), 1)]) / 1e6

    def _sample(self) -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        while True:
            self._samples.append(int(Path("/proc/self/statm").read_text().split()[1]) * page)
            if self._over.wait(0.05):
                return
