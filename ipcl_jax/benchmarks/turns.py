"""Alternating measurements of two implementations, so that other programs on the machine slow both alike."""

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

from ipcl_jax.benchmarks.in_torch import TWINS, TorchProcess
from ipcl_jax.errors import ConfigError

Against = Literal["torch"]

_SUMMARIES: dict[str, Callable[..., float]] = {"median": statistics.median, "lowest": min, "highest": max}


@dataclass
class Measured:
    """A table of measurements: one row a turn, one column an implementation; and further facts by name."""

    name: str
    unit: str = ""
    columns: tuple[str, ...] = ()
    turns: list[tuple[float, ...]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def summary(self) -> dict[str, dict[str, float]]:
        """Returns median, lowest and highest of each column, and of the ratio of the first two in each turn."""
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


def take_turns(rounds: int, *functions: Callable[[], float]) -> list[tuple[float, ...]]:
    """Calls each function once a round; returns what they return, round by round."""
    return [tuple(function() for function in functions) for _ in range(rounds)]


def compare(
    table: Measured,
    rounds: int,
    ours: Callable[[], float],
    count: int,
    against: Against | None,
    build: Callable[[], TorchProcess],
) -> np.ndarray | None:
    """Measures this package alone, or alternately with torch, and fills in a table.

    Args:
        table: to fill in; its first column is this package.
        rounds: turns of either.
        ours: does the work once and returns its speed.
        count: items of work in a turn, from which torch's speed is computed.
        against: None leaves torch out.
        build: starts the same work in torch; called if `against` is given.

    Returns:
        The result of torch's first turn, which is slower and not counted; None without torch.
    """
    if against is None:
        table.turns = take_turns(rounds, ours)
        return None
    table.columns += (against,)
    with build() as torch_process:
        _, first = torch_process.run()
        table.turns = take_turns(rounds, ours, lambda: count / torch_process.run()[0])
    return first


def save(tables: Iterable[Measured], path: Path) -> None:
    """Writes tables as JSON, with the device and versions that they were measured on."""
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
    """Prints a table, and writes it to `json` if given; returns it."""
    table.show()
    if json is not None:
        save([table], json)
    return table


def device() -> str:
    """Returns the devices, such as `2 x NVIDIA H100 80GB HBM3`."""
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"


def check_torch(against: Against | None) -> None:
    """Raises ConfigError if a comparison with torch is asked for and impossible."""
    if against and find_spec("torch") is None:
        raise ConfigError("--against torch needs torch: pip install -e '.[convert]'")
    if against and not TWINS.is_dir():
        raise ConfigError("--against torch needs a clone of the project, whose tests have the network in torch.")


class Memory:
    """Samples this process's resident memory every 50 ms; a context manager."""

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
        """Returns the highest memory in MB between two moments, given as shares of the time."""
        count = len(self._samples)
        return max(self._samples[int(begin * count) : max(int(end * count), 1)]) / 1e6

    def _sample(self) -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        while True:
            self._samples.append(int(Path("/proc/self/statm").read_text().split()[1]) * page)
            if self._over.wait(0.05):
                return
