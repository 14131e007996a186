"""Reads the metrics of a run, which `run.metrics` writes."""

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

METRICS = "metrics.jsonl"
_TOGETHER = 10_000  # lines that become arrays at once

Columns = Mapping[str, np.ndarray]


class History:
    """The metrics of a run as far as `read` was called, which reads incrementally.

    Args:
        run_dir: folder of a run; one without metrics has an empty history.

    Attributes:
        steps: columns of the lines of steps, in order: `step`, `epoch`, `steps` (batches that the line summarises),
            `loss` and so on, each `[lines]` float64. inf stands for a value that was not a finite number, NaN for one
            that the line doesn't have.
        epochs: lines of epochs in order; None stands for a value that was not a finite number.
    """

    def __init__(self, run_dir: Path):
        self._path = Path(run_dir) / METRICS
        self._forget()

    def _forget(self) -> None:
        self._inode, self._offset = 0, 0
        self.steps: dict[str, np.ndarray] = {name: np.empty(0) for name in ("step", "epoch", "steps")}
        self._by_epoch: dict[int, dict] = {}

    @property
    def epochs(self) -> list[dict]:
        return [self._by_epoch[number] for number in sorted(self._by_epoch)]

    def read(self) -> "History":
        """Reads the lines that were added since the last call, or all of them if the file was replaced."""
        if not self._path.exists():
            self._forget()
            return self
        with open(self._path, "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_ino != self._inode or status.st_size < self._offset:
                self._forget()
                self._inode = status.st_ino
            file.seek(self._offset)
            parts, lines = [], []
            for line in self._complete_lines(file):
                if line["kind"] == "epoch":
                    self._by_epoch[line["epoch"]] = line
                    continue
                lines.append(line)
                if len(lines) == _TOGETHER:
                    parts.append(as_columns(lines))
                    lines = []
        if lines:
            parts.append(as_columns(lines))
        if parts:
            self.steps = _last_of_each(_concatenate([self.steps, *parts]))
        return self

    def _complete_lines(self, file: BinaryIO) -> Iterator[dict]:
        for text in file:
            if not text.endswith(b"\n"):
                return  # still being written
            self._offset += len(text)
            if line := _parse(text):
                yield line


def read_metrics(run_dir: Path) -> tuple[list[dict], list[dict]]:
    """Reads the metrics of a run as they were written.

    Args:
        run_dir: folder of a run; one without metrics gives two empty lists.

    Returns:
        Lines of steps and of epochs in order, the last written one of each. None stands for an infinite value or
        NaN, which JSON lacks. An incomplete line of a process that was killed is left out.
    """
    steps, epochs = {}, {}
    for line in read_lines(Path(run_dir) / METRICS):
        if line["kind"] == "step":
            steps[line["step"]] = line
        else:
            epochs[line["epoch"]] = line
    return [steps[number] for number in sorted(steps)], [epochs[number] for number in sorted(epochs)]


def read_lines(path: Path) -> Iterator[dict]:
    """Yields the lines of a file of metrics, without those that can't be read."""
    if path.exists():
        with open(path, "rb") as file:
            yield from filter(None, map(_parse, file))


def _parse(text: bytes) -> dict | None:
    with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
        line = json.loads(text)
        if line["kind"] in ("step", "epoch") and int(line["step"]) >= 0 and int(line["epoch"]) >= 0:
            return line
    return None


def as_columns(lines: list[dict]) -> Columns:
    """Returns the numbers of lines by their name, `[lines]` float64 each; see `History.steps`."""
    names = dict.fromkeys(name for line in lines for name in line)
    columns = {name: np.array([_number(line.get(name, math.nan)) for line in lines]) for name in names if name != "kind"}
    return {"steps": np.ones(len(lines))} | columns


def _number(value: object) -> float:
    if value is None:
        return math.inf
    return float(value) if isinstance(value, int | float) else math.nan


def _concatenate(parts: list[Columns]) -> dict[str, np.ndarray]:
    names = dict.fromkeys(name for part in parts for name in part)
    lengths = [len(part["step"]) for part in parts]
    found = {
        name: np.concatenate(
            [part.get(name, np.full(length, math.nan)) for part, length in zip(parts, lengths, strict=True)]
        )
        for name in names
    }
    found["steps"] = np.where(np.isnan(found["steps"]), 1, found["steps"])
    return found


def _last_of_each(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Sorts lines by step, and keeps the last written one of each step."""
    step = columns["step"]
    if (np.diff(step) > 0).all():
        return columns
    order = np.argsort(step, kind="stable")
    last = np.append(np.diff(step[order]) > 0, True)
    return {name: column[order[last]] for name, column in columns.items()}
