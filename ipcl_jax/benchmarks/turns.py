"""Alternating measurements of two implementations, so that other programs on the machine slow both alike."""

import json
import math
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from ipcl_jax.benchmarks.torch_process import TWINS, TorchProcess
from ipcl_jax.errors import ConfigError
from ipcl_jax.system.files import atomic

Against = Literal["torch"]

_TURN = 0.5  # seconds that a turn on a GPU takes at least
_MOST = 5  # times as long it may take for whole groups
_MEMORY = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")  # the latter is the earlier name

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
        """Returns median, lowest and highest of each column, and of the first one's ratio to each other in each turn."""
        columns = dict(zip(self.columns, zip(*self.turns, strict=True), strict=True))
        for place, name in enumerate(self.columns[1:]):
            pairs = zip(columns[self.columns[0]], columns[name], strict=True)
            columns[f"ratio to {name}" if place else "ratio"] = tuple(a / b for a, b in pairs)
        return {
            name: {how: function(values) for how, function in _SUMMARIES.items()}
            for name, values in columns.items()
        }

    def show(self) -> None:
        """Prints the table."""
        print(f"{self.name}, {self.unit}, {len(self.turns)} turns" if self.turns else self.name)
        summary = self.summary()
        for how in ("", *_SUMMARIES) if self.turns else ():
            cells = (f"{name if not how else _number(name, of[how]):>26}" for name, of in summary.items())
            print(f"{how:9}" + "".join(cells))
        for name, value in self.facts.items():
            print(f"{name}: {value:,.4g}" if isinstance(value, float) else f"{name}: {value}")


def _number(name: str, value: float) -> str:
    return f"{value:.2f}" if name.startswith("ratio") else f"{value:,.1f}"


def take_turns(rounds: int, *functions: Callable[[], float]) -> list[tuple[float, ...]]:
    """Calls each function once a round; returns what they return, round by round."""
    return [tuple(function() for function in functions) for _ in range(rounds)]


def compare(
    table: Measured,
    rounds: int,
    work: Callable[[int], object],
    count: int,
    against: Against | None,
    build: Callable[[], TorchProcess],
    group: int = 1,
) -> np.ndarray | None:
    """Measures this package alone, or alternately with torch, and fills in a table.

    On a GPU, which works on while the next launches are prepared, a turn repeats the work for half a second or more,
    and waits for the device once, at its end.

    Args:
        table: to fill in; its first column is this package.
        rounds: turns of either.
        work: does the work a number of times, and waits for the device; called once before, so that it is compiled.
        count: items of work, from which speed is computed.
        against: None leaves torch out.
        build: starts the same work in torch; called if `against` is given.
        group: every so many times the work is more; it is repeated a multiple of this number of times, unless a turn
            would take much longer for that.

    Returns:
        The result of torch's first time, which is slower and not counted; None without torch.
    """
    times = _repetitions(lambda: _seconds(work, 1), group)
    if times > 1:
        table.facts["repetitions in a turn"] = times

    def ours() -> float:
        return times * count / _seconds(work, times)

    if against is None:
        table.turns = take_turns(rounds, ours)
        return None
    table.columns += (against,)
    with build() as torch_process:
        their_times = _repetitions(torch_process.run, group)
        if their_times > 1:
            table.facts["repetitions in a turn of torch"] = their_times

        def theirs() -> float:
            return their_times * count / torch_process.run(their_times)

        table.turns = take_turns(rounds, ours, theirs)
        table.facts["torch"] = torch_process.about
        return torch_process.first


def _seconds(work: Callable[[int], object], times: int) -> float:
    start = time.perf_counter()
    work(times)
    return time.perf_counter() - start


def _repetitions(once: Callable[[], float], group: int) -> int:
    """Returns how often work is repeated in a turn.

    Args:
        once: does it once and returns the seconds; called on a GPU only, twice, as the first time may be slower.
        group: as for `compare`.
    """
    if jax.default_backend() == "cpu":
        return 1
    once()
    times = math.ceil(_TURN / once())
    grouped = group * math.ceil(times / group)
    return grouped if grouped <= _MOST * times else times


def save(tables: Iterable[Measured], path: Path, **more: Any) -> None:
    """Writes tables as JSON, atomically.

    Args:
        tables: of one machine.
        path: of the file.
        more: further entries of the file.
    """
    tables = list(tables)
    document = {
        "device": next((table.facts["device"] for table in tables), None),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("jax", "jaxlib", "flax")},
        **more,
        "tables": [
            {
                "name": table.name, "unit": table.unit, "columns": table.columns, "turns": table.turns,
                "summary": table.summary(), "facts": table.facts,
            }
            for table in tables
        ],
    }  # fmt: skip
    with atomic(path) as part:
        part.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def finish(table: Measured, json: Path | None) -> Measured:
    """Prints a table, with the device among its facts, and writes it to `json` if given; returns it."""
    table.facts = {"device": device()} | table.facts
    table.show()
    if json is not None:
        save([table], json)
    return table


def device() -> str:
    """Returns the devices, such as `2 x NVIDIA H100 80GB HBM3`."""
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"


def prepare_torch(against: Against | None) -> None:
    """Prepares a comparison with torch, if one is asked for; call it before JAX uses a device.

    On a GPU both hold memory at the same time. JAX, which would take three quarters of it at its start, is left half,
    unless $XLA_CLIENT_MEM_FRACTION says otherwise.

    Raises:
        ConfigError: if it is impossible.
    """
    if against is None:
        return
    if find_spec("torch") is None:
        raise ConfigError("--against torch needs torch: pip install -e '.[convert]'")
    if not TWINS.is_dir():
        raise ConfigError(
            "--against torch needs a clone of the project, whose tests have the network in torch."
        )
    if not any(name in os.environ for name in _MEMORY):
        os.environ[_MEMORY[0]] = "0.5"


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
