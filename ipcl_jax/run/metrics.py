"""The metrics and log of a run: printed while it trains, and written to its folder.

The files are `metrics.jsonl` (one JSON object a line, see `run.history`), `log.txt` and `tensorboard/`.
"""

import contextlib
import json
import math
import sys
from collections import deque
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.table import Column

from ipcl_jax.run.history import METRICS, read_lines
from ipcl_jax.system.console import make_console
from ipcl_jax.system.files import atomic

PLAIN_EVERY = 10.0  # seconds between two printed lines if the output is not a terminal
WINDOW = 30.0  # seconds over which speed is averaged
MOST_LINES = 100_000  # of steps in a run, about 25 MB
INPUT_BOUND = 0.2  # share of an epoch spent waiting for input above which a warning is given

WAITS = ("wait_input", "wait_copy", "wait_device")
"""Seconds that a step waited for its batch to be decoded, for the batch to be copied to the device, for the device."""

_LAST = ("lr", "momentum", "views_per_second")  # of several steps; WAITS are added up, of others it is the mean

_STEP_LINE = {"loss": "loss {:#.4g}", "lr": "lr {:#.3g}", "views_per_second": "{:,.0f} views/s"}
_EPOCH_LINE = {
    "loss": "loss {:#.4g}",
    "top1": "accuracy top-1 {:.1%}",
    "top5": "top-5 {:.1%}",
    "knn_top1": "kNN top-1 {:.1%}",
    "knn_top5": "top-5 {:.1%}",
    "retrieval": "instance retrieval {:.1%}",
    "mean_cosine": "mean cosine {:.3f}",
    "effective_rank": "effective rank {:.1f}",
    "views_per_second": "{:,.0f} views/s",
    "input_share": "waiting for input {:.0%}",
}


class Record:
    """Writes the metrics of a run and shows its progress; a context manager.

    Step s is the s-th batch of the run, from 1. With `start_step=s` the files are continued after step s:
    lines of later steps, which will be computed again, are removed. In long runs, a line summarises several steps.

    Args:
        run_dir: folder of the run; created if it doesn't exist.
        total_steps: batches of the complete run.
        steps_per_epoch: batches of one pass over the images.
        start_step: batches done before this process started.
        every: steps that a line summarises, at most; by default as many as give no more than `MOST_LINES` lines.
        console: where to print; by default standard output.
    """

    def __init__(
        self, run_dir: Path, *, total_steps: int, steps_per_epoch: int, start_step: int = 0,
        every: int | None = None, console: Console | None = None,
    ):
        self._dir = Path(run_dir)
        self._total, self._per_epoch, self._start = total_steps, steps_per_epoch, start_step
        self._epochs = -(-total_steps // steps_per_epoch)
        self._every = every or max(1, -(-total_steps // MOST_LINES))
        self._console = console or make_console()
        self._bar: Progress | None = None
        self._shown_at = -math.inf
        self._done, self._views = start_step, 0.0
        self._window: deque[tuple[float, float]] = deque()  # time, views so far
        self._unwritten: list[dict] = []  # steps since the last line
        self._of_epoch: list[dict] = []  # lines of the latest epoch's steps

    def __enter__(self) -> "Record":
        self._dir.mkdir(parents=True, exist_ok=True)
        self._drop_later()
        # Line-buffered, so that complete lines survive a process that is killed.
        # File names in messages may hold bytes that are not UTF-8.
        def open_file(name: str) -> TextIO:
            return open(self._dir / name, "a", buffering=1, encoding="utf-8", errors="backslashreplace")

        self._metrics, self._log = open_file(METRICS), open_file("log.txt")
        self._board = _tensorboard(self._dir / "tensorboard", self._start)
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            # All numbers are in one column that never wraps, so that they take one line at any width.
            line = Column(no_wrap=True, overflow="ellipsis")
            columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False, table_column=line)]
            if self._console.width >= 120:
                columns.insert(0, BarColumn(bar_width=24))
            self._bar = Progress(*columns, console=self._console, refresh_per_second=4)
            self._task = self._bar.add_task("compiling", total=self._total, completed=self._start)
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        self.flush()
        if kind is not None:
            self._write_log(f"stopped after step {self._done}: {kind.__name__}: {error}")
        for file in (self._board, self._metrics, self._log):
            file.close()

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes the metrics of one step, and writes a line if this is the last step that the line summarises.

        Reading them waits for the device, so pass those of an earlier step once the next ones are dispatched.

        Args:
            step: the step that they belong to, from 1.
            metrics: numbers or 0-d arrays: loss, lr, momentum, grad_norm; WAITS in seconds; and `views`,
                the number of views in the batch, from which views per second are computed.
        """
        values = {name: float(value) for name, value in metrics.items()}
        self._done, self._views = step, self._views + values.pop("views", 0.0)
        # The first entry only starts the clock, since its step included compilation or a pause.
        self._window.append((monotonic(), self._views))
        while len(self._window) > 10 and self._window[-1][0] - self._window[0][0] > WINDOW:
            self._window.popleft()
        (begin, before), (now, after) = self._window[0], self._window[-1]
        if now > begin and after > before:
            values["views_per_second"] = (after - before) / (now - begin)

        epoch = (step - 1) // self._per_epoch + 1
        line = {"kind": "step", "step": step, "epoch": epoch} | values
        self._unwritten.append(line)
        if step % self._every == 0 or step % self._per_epoch == 0:
            self.flush()

        text = [f"epoch {epoch}/{self._epochs}  step {step}/{self._total}", *_describe(line, _STEP_LINE)]
        if now > begin:
            seconds = (now - begin) / (len(self._window) - 1)
            text.append(f"{_duration(seconds * (self._total - step))} left")
        edge = step % self._per_epoch in (0, 1 % self._per_epoch) or step in (self._start + 1, self._total)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description="  ".join(text))
        elif edge or now - self._shown_at >= PLAIN_EVERY:
            self._shown_at = now
            self._print("  ".join(text))

    def flush(self) -> None:
        """Writes the steps that have no line yet; call it before a checkpoint is saved."""
        if self._unwritten:
            self._keep(_summary(self._unwritten))
            self._unwritten = []

    def epoch(self, epoch: int, step: int, metrics: Mapping[str, float]) -> None:
        """Writes and prints the metrics of an epoch.

        Unless given, the epoch's mean loss, grad_norm and views_per_second, its last lr and momentum,
        and the share of its time spent waiting for input are added; so call `step` for its last step first.

        Args:
            epoch: number of the epoch, from 1; 0 is the untrained network.
            step: batches done.
            metrics: top1, top5, knn_top1, knn_top5 and retrieval as shares in [0, 1]; mean_cosine,
                effective_rank, unreadable (images), and any other metric.
        """
        values, lines = {}, [line for line in self._of_epoch if line["epoch"] == epoch]
        for name in ("loss", "lr", "momentum", "grad_norm", "views_per_second"):
            known = [(line[name], line.get("steps", 1)) for line in lines if line.get(name) is not None]
            if known:
                total = sum(steps for _, steps in known)
                mean = math.fsum(value * steps for value, steps in known) / total
                values[name] = known[-1][0] if name in ("lr", "momentum") else mean
        waited = [sum(line.get(name, 0) for line in lines) for name in WAITS]
        if sum(waited):
            values["input_share"] = 1 - waited[WAITS.index("wait_device")] / sum(waited)
        values |= {name: float(value) for name, value in metrics.items()}
        line = {"kind": "epoch", "step": step, "epoch": epoch} | _finite(values)
        self._keep(line)
        name = f"epoch {epoch}/{self._epochs}" if epoch else "untrained network"
        self.say(f"{name}: {', '.join(_describe(line, _EPOCH_LINE)) or 'nothing measured'}")
        if values.get("input_share", 0) > INPUT_BOUND:
            self.warn(
                f"Training waited for images {values['input_share']:.0%} of the time. More --data.threads or "
                "--data.workers auto may help, and images made small once by experiments/prepare.py."
            )
        self._window.clear()  # leaves the time of the measurements out of the training speed

    def say(self, text: str) -> None:
        """Prints text above the progress bar and adds it to the log."""
        self._print(text)
        self._write_log(text)

    def warn(self, text: str) -> None:
        """Prints and logs a warning."""
        self._print(f"warning: {text}", style="yellow")
        self._write_log(f"warning: {text}")

    def _drop_later(self) -> None:
        path = self._dir / METRICS
        if not path.exists():
            return
        with atomic(path) as part, open(part, "w", encoding="utf-8") as kept:
            for line in read_lines(path):
                if line["step"] <= self._start:
                    kept.write(json.dumps(line) + "\n")
                    self._remember(line)

    def _remember(self, line: dict) -> None:
        if self._of_epoch and self._of_epoch[-1]["epoch"] != line["epoch"]:
            self._of_epoch.clear()
        if line["kind"] == "step":
            self._of_epoch.append(line)

    def _keep(self, line: dict) -> None:
        self._remember(line)
        self._metrics.write(json.dumps(line, allow_nan=False) + "\n")
        for name, value in line.items():
            # tensorboardX prints a message for each value that isn't finite.
            if name not in ("kind", "step", "epoch") and value is not None:
                self._board.add_scalar(f"{line['kind']}/{name}", value, line["step"])

    def _print(self, text: str, style: str | None = None) -> None:
        self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    def _write_log(self, text: str) -> None:
        self._log.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')} {text}\n")


class NoRecord:
    """Replaces `Record` in processes that don't write; its methods do nothing."""

    def __enter__(self) -> "NoRecord":
        return self

    def __exit__(self, *_) -> None:
        pass

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Record.step`; doesn't wait for the device."""

    def flush(self) -> None:
        """See `Record.flush`."""

    def epoch(self, epoch: int, step: int, metrics: Mapping[str, float]) -> None:
        """See `Record.epoch`."""

    def say(self, text: str) -> None:
        """See `Record.say`."""

    def warn(self, text: str) -> None:
        """See `Record.warn`."""


def _summary(lines: list[dict]) -> dict[str, Any]:
    """Returns one line for several steps of an epoch; of one step, its own."""
    if len(lines) == 1:
        return _finite(lines[0])
    summary = {name: lines[-1][name] for name in ("kind", "step", "epoch")} | {"steps": len(lines)}
    for name in dict.fromkeys(name for line in lines for name in line if name not in summary):
        values = [line[name] for line in lines if name in line]
        total = sum(values)
        summary[name] = values[-1] if name in _LAST else total if name in WAITS else total / len(values)
    return _finite(summary)


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }


def _describe(line: Mapping, formats: Mapping[str, str]) -> list[str]:
    shown = {name: math.nan if line[name] is None else line[name] for name in formats if name in line}
    return [formats[name].format(value) for name, value in shown.items()]


def _duration(seconds: float) -> str:
    for unit, name, most in ((1, "s", 90), (60, "min", 90), (3600, "h", 48)):
        if seconds < most * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86400:.1f} days"


def _tensorboard(folder: Path, start_step: int):
    """Returns a tensorboardX writer that hides events after `start_step` of an earlier process."""
    # tensorboardX imports torch if that is installed, to accept tensors. None are passed here, and importing
    # torch would cost seconds and memory.
    with contextlib.ExitStack() as stack:
        if "torch" not in sys.modules:
            sys.modules["torch"] = None  # type: ignore[assignment]
            stack.callback(sys.modules.pop, "torch")
        import tensorboardX
    suffix = f".from{start_step}"  # the time in file names is in seconds, which two processes may share
    return tensorboardX.SummaryWriter(str(folder), purge_step=start_step + 1, flush_secs=10, filename_suffix=suffix)
