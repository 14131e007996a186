"""The loop: trains a state in a folder to the end, or until a signal comes, and goes on where it stopped.

Networks (`experiments/train.py`) and linear heads (`experiments/linear.py`) are trained by it; each hands in a `Task`.
"""

import itertools
import math
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import jax
from jax.sharding import NamedSharding

from ipcl_jax.config import LinearProbe, Train
from ipcl_jax.data.base import Source
from ipcl_jax.data.loader import TrainBatches, on_devices
from ipcl_jax.data.workers import choose_workers
from ipcl_jax.run.checkpoints import Checkpoints, Earlier
from ipcl_jax.run.folder import rebind, refuse_lost_checkpoints
from ipcl_jax.run.metrics import WAITS, Record, Silence, read_metrics
from ipcl_jax.system import distributed
from ipcl_jax.system.signals import Interruption
from ipcl_jax.system.tracing import Trace

Log = Record | Silence
_SAVE = 1  # what a process may ask for besides a stop, which is the number of its signal and higher
_PEERS = "With one process gone all stop. Start them again to go on from the last checkpoint:"


class Diverged(RuntimeError):
    """The loss or its gradient is no longer a finite number."""


def _nothing() -> Iterable[str]:
    return ()


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is trained, on which images, and how far.

    Attributes:
        config: of which data, batch_size, views.per_image, seed, checkpoints and profile_steps count here.
        command: the command line that goes on with it.
        folder: the run's folder, claimed by `folder.claim_folder`.
        changed: how the images differ from those that the run had so far, as `folder.check_folder` says it.
        sources: `train` and `val`.
        total: batches to train.
        per_epoch: batches of one pass over the training images.
        sharding: of a batch over the devices.
        init: `() -> state` before the first batch.
        shapes: shapes, dtypes and shardings of the state, to restore into.
        step: `state, batch -> state, metrics`, jitted; metrics hold loss, grad_norm, lr and momentum.
        read_out: `epoch, step, state, log, unreadable -> None`, called by all processes after each epoch: measures, and
            hands the metrics to `log.epoch`. `unreadable` counts training images that can't be read.
        greeting: the log's first line.
        collect: `state, batch -> state`, as `step` but nothing is learned: an epoch of it comes before the read-out
            of the untrained state, epoch 0. None for no such read-out.
        report: called where training stops in the middle of an epoch.
        closing: gives lines for the log's end.
        result: where the results are, in a sentence.
        fresh: fields of a restored state that start anew.
        earlier: fields that earlier versions saved otherwise; see `checkpoints.Checkpoints.restore`.
        warnings: what a user should know when a run is gone on with.
        advice: what to change when the loss of some step is not finite.
    """

    config: Train | LinearProbe
    command: str
    folder: Path
    changed: str
    sources: Mapping[str, Source]
    total: int
    per_epoch: int
    sharding: NamedSharding
    init: Callable[[], Any]
    shapes: Any
    step: Callable[[Any, Any], tuple[Any, dict]]
    read_out: Callable[[int, int, Any, Log, int], None]
    greeting: str
    collect: Callable[[Any, Any], Any] | None = None
    report: Callable[[], object] = _nothing
    closing: Callable[[], Iterable[str]] = _nothing
    result: str = ""
    fresh: Mapping[str, Any] = field(default_factory=dict)
    earlier: Earlier = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    advice: Callable[[int], str] = lambda step: "a lower --optim.lr"


def fit(task: Task) -> int:
    """Trains to the end, or until SIGTERM or Ctrl-C.

    Args:
        task: what is trained.

    Returns:
        0 if all is done; after a signal 128 + its number, with the state saved.

    Raises:
        Diverged: if the loss is no longer a finite number; no checkpoint holds that.
        ConfigError: if the folder can't be gone on with.
        OSError: if a checkpoint can't be written or read.
        UnreadableImages: if too many images can't be read.
    """
    with (
        Interruption() as interruption,
        Checkpoints(task.folder, keep=task.config.checkpoints.keep) as checkpoints,
    ):
        state, resumes = _begin(task, checkpoints)
        start = int(state.step)
        with _open_log(task, start) as log:
            workers = _greet(task, log, checkpoints, start if resumes else None)
            loop = _Loop(task, log, checkpoints, interruption, workers)
            try:
                loop.measure_missing(state, start)
                done = loop.run(state, start)
            except Exception as error:
                if isinstance(error, Diverged) or not jax.distributed.is_initialized():
                    raise
                distributed.abandon(f"{error}\n{_PEERS} {task.command}")
            distributed.barrier("the end")  # the others would wait for a process that leaves alone
            if loop.stopped:
                log.say(
                    f"{loop.stopped.name}: saved at step {done:,} of {task.total:,}. To go on: {task.command}"
                )
                return 128 + loop.stopped
            for line in (*task.closing(), f"Done: {done:,} steps. {task.result}"):
                log.say(line)
            return 0


def _begin(task: Task, checkpoints: Checkpoints) -> tuple[Any, bool]:
    """The state to go on from, and whether it was restored."""
    if checkpoints.latest_step() is not None:
        return checkpoints.restore(task.shapes, fresh=task.fresh, earlier=task.earlier), True
    refuse_lost_checkpoints(task.folder)
    state = task.init()
    checkpoints.save(state)  # a run that was begun always has a checkpoint
    checkpoints.wait()
    return state, False


def _open_log(task: Task, start: int) -> Log:
    if not distributed.is_first():
        return Silence()
    return Record(task.folder, total_steps=task.total, steps_per_epoch=task.per_epoch, start_step=start)


def _greet(task: Task, log: Log, checkpoints: Checkpoints, resumed: int | None) -> int:
    """Says what begins, and what a user should know of it; returns with how many processes images are decoded."""
    data, images = task.config.data, task.sources["train"]
    log.say(task.greeting)
    workers = data.workers
    if workers == "auto":
        workers, why = choose_workers(
            images, batch_size=task.config.batch_size // distributed.shard()[1], canvas=data.canvas,
            threads=data.threads,
        )  # fmt: skip
        log.say(why)
    for damage in checkpoints.damaged:
        log.warn(damage)
    for note in dict.fromkeys(note for source in task.sources.values() for note in source.notes):
        log.warn(note)
    if task.changed:
        log.warn(f"Going on with other images than before, as asked: {task.changed}.")
    if resumed is not None:
        log.say(f"Going on after step {resumed:,} of {task.total:,}.")
        for warning in task.warnings:
            log.warn(warning)
    return workers


class _Loop:
    """What the loop holds between steps."""

    def __init__(
        self, task: Task, log: Log, checkpoints: Checkpoints, interruption: Interruption, workers: int
    ):
        self._task, self._log, self._checkpoints = task, log, checkpoints
        self._interruption, self._workers, self._changed = interruption, workers, task.changed
        self._agreement = distributed.Agreement(task.sharding.mesh)
        self.stopped: signal.Signals | None = None

    def measure_missing(self, state: Any, start: int) -> None:
        """Makes the read-outs that should stand in the log and don't: of epoch 0, and of an epoch that a killed
        process ended without."""
        task = self._task
        measured = {line["epoch"] for line in read_metrics(task.folder)[1]}
        epoch, rest = divmod(start, task.per_epoch)
        baseline = task.collect is not None and 0 not in measured
        # Of other images nothing has been collected yet.
        unmeasured = epoch > 0 and not rest and epoch not in measured and not task.changed
        # Only the first process has the log.
        baseline, unmeasured = (bool(distributed.broadcast(todo)) for todo in (baseline, unmeasured))
        if baseline and task.collect is not None:
            self._log.say("Measuring the untrained network: an epoch of views, forward only.")
            untrained = task.init()
            with self._batches(0) as batches:
                for batch in itertools.islice(on_devices(batches, task.sharding), task.per_epoch):
                    untrained = task.collect(untrained, batch)
                    if self._agree() > _SAVE:
                        return
            task.read_out(0, start, untrained, self._log, 0)
        if unmeasured:
            task.read_out(epoch, start, state, self._log, 0)

    def run(self, state: Any, done: int) -> int:
        """Steps until the end or a signal, saves, and returns the steps done.

        The metrics of a step are read while the device works on the next one.
        """
        task, log, config = self._task, self._log, self._task.config
        metrics, waits, saved_at, known = None, {}, monotonic(), 0

        def settle() -> None:
            """Logs the metrics of the last step, for which it waits until the device is done."""
            nonlocal metrics
            if metrics is not None:
                start = perf_counter()
                jax.block_until_ready(metrics)
                waits["wait_device"] += perf_counter() - start
                log.step(done, metrics | waits | {"views": config.batch_size * config.views.per_image})
                self._refuse_infinity(metrics, done)
            metrics = None

        traced = config.profile_steps if distributed.is_first() else 0
        with self._batches(done) as batches, Trace(task.folder / "profile", traced) as trace:
            feed = on_devices(batches, task.sharding)
            while done < task.total and not self.stopped:
                if trace.before_step():
                    log.say(f"Traced {traced} steps into {task.folder / 'profile'}")
                begin = perf_counter()
                batch = next(feed)
                decoded = perf_counter()
                jax.block_until_ready(batch)  # was sent two steps ago
                arrived = perf_counter()
                state, new = task.step(state, batch)
                sent = perf_counter()
                settle()
                metrics, done = new, done + 1
                waits = dict(zip(WAITS, (decoded - begin, arrived - decoded, sent - arrived), strict=True))
                for place in itertools.islice(batches.unreadable.values(), known, None):
                    log.warn(f"Can't be read, so the next image takes its place: {place}")
                known = len(batches.unreadable)
                late = monotonic() - saved_at > 60 * config.checkpoints.minutes
                agreed = self._agree(_SAVE if late else 0)
                epoch_ends = done % task.per_epoch == 0
                if epoch_ends or agreed == _SAVE:
                    settle()  # what is saved must be sound
                    self._save(state)
                    saved_at = monotonic()
                if epoch_ends:
                    task.read_out(done // task.per_epoch, done, state, log, known)
            settle()
            self._save(state)
            self._checkpoints.wait()
        if done % task.per_epoch:
            task.report()
        return done

    def _batches(self, start: int) -> TrainBatches:
        config, (part, parts) = self._task.config, distributed.shard()
        return TrainBatches(
            self._task.sources["train"], batch_size=config.batch_size // parts, canvas=config.data.canvas,
            seed=config.seed, start_step=start, threads=config.data.threads, workers=self._workers,
            shard=(part, parts),
        )  # fmt: skip

    def _agree(self, wish: int = 0) -> int:
        """What all processes do after this step: nothing (0), _SAVE, or stop for the signal of that number."""
        agreed = self._agreement(self._interruption.received or wish)
        if agreed > _SAVE:
            self.stopped = signal.Signals(agreed)
        return agreed

    def _save(self, state: Any) -> None:
        self._checkpoints.save(state)
        if self._changed:
            self._checkpoints.wait()
            rebind(self._task.folder, self._task.sources)
            self._changed = ""

    def _refuse_infinity(self, metrics: Mapping, step: int) -> None:
        loss, norm = float(metrics["loss"]), float(metrics["grad_norm"])
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(
                f"At step {step:,} the loss is {loss} and the norm of its gradient {norm}. No checkpoint "
                f"holds this. That of step {self._checkpoints.latest_step():,} is kept in {self._task.folder}. "
                f"To start anew: {self._task.advice(step)}, and another --out."
            )
