"""The training loop: resumes from the last checkpoint, and trains to the end or until SIGTERM or Ctrl-C.

`experiments/train.py` (networks) and `experiments/linear.py` (linear heads) describe what they train as a `Task`.
"""

import contextlib
import itertools
import math
import shutil
import signal
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from ipcl_jax.config import LinearProbe, Train
from ipcl_jax.data.base import Source
from ipcl_jax.data.loader import TrainBatches, on_devices
from ipcl_jax.data.sources import distinct_notes
from ipcl_jax.data.workers import choose_workers
from ipcl_jax.run.bank import Bank, NoBank, References
from ipcl_jax.run.checkpoints import Checkpoints, Earlier
from ipcl_jax.run.folder import rebind, refuse_lost_checkpoints
from ipcl_jax.run.history import History
from ipcl_jax.run.metrics import NoRecord, Record
from ipcl_jax.system import distributed
from ipcl_jax.system.signals import Interruption
from ipcl_jax.system.tracing import Trace
from ipcl_jax.training.state import Prototypes

Log = Record | NoRecord
_RUNNING = 2  # steps that the device is given before the first one's metrics are read, so that it never waits
_SAVE = 1  # request to save; a request to stop is the number of the signal, which is higher
_OTHER_PROCESSES = "The other processes stop too. Start all of them again to go on from the last checkpoint:"


class Diverged(RuntimeError):
    """The loss or its gradient is no longer a finite number."""


def _no_lines() -> Iterable[str]:
    return ()


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is trained, on which images, and for how long.

    Attributes:
        config: of the run; the loop uses its data, batch_size, views.per_image, seed, checkpoints and profile_steps.
        command: the command line that resumes the run.
        folder: the run's folder, from `folder.claim_folder`.
        changed: how the images differ from those of the run so far, from `folder.check_folder`.
        sources: `train` and `val`.
        total: batches to train.
        per_epoch: batches of one pass over the training images.
        sharding: of a batch over the devices.
        init: `() -> state` before the first batch.
        shapes: shapes, dtypes and shardings of the state, to restore into.
        step: `state, batch -> state, metrics, prototypes`, jitted; metrics hold loss, grad_norm, lr and momentum, and
            prototypes are kept in a bank for the read-out (None without).
        read_out: called by all processes after each epoch: measures, and passes the metrics to `log.epoch`.
        first_line: of the log.
        prototypes: shapes and dtypes of a step's prototypes; None if nothing is kept.
        collect: `state, batch -> state, prototypes`, a step without learning: one epoch of it precedes the read-out of
            the untrained state, epoch 0. None leaves out that read-out.
        report: called if training stops in the middle of an epoch.
        last_lines: returns lines for the end of the log.
        result: where the results are, in a sentence.
        earlier: fields that earlier versions saved under other names; see `checkpoints.Earlier`.
        warnings: logged when a run is resumed.
        advice: `step -> text`: what to change when the loss of that step is not finite.
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
    step: Callable[[Any, Any], tuple[Any, dict, Prototypes | None]]
    read_out: Callable[["Epoch"], None]
    first_line: str
    prototypes: Prototypes | None = None
    collect: Callable[[Any, Any], tuple[Any, Prototypes]] | None = None
    report: Callable[[], object] = _no_lines
    last_lines: Callable[[], Iterable[str]] = _no_lines
    result: str = ""
    earlier: Earlier = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    advice: Callable[[int], str] = lambda step: "a lower --optim.lr"


@dataclass(frozen=True)
class Epoch:
    """What a read-out is given after an epoch.

    Attributes:
        number: from 1; 0 for the untrained state.
        step: batches trained on so far.
        state: after the epoch.
        references: prototypes of the epoch's training images; None in processes other than the first, and for tasks
            without.
        unreadable: number of training images that can't be read.
        log: takes the metrics.
    """

    number: int
    step: int
    state: Any
    references: References | None
    unreadable: int
    log: Log


def fit(task: Task) -> int:
    """Trains to the end, or until SIGTERM or Ctrl-C.

    Args:
        task: what is trained.

    Returns:
        0 at the end of training; after a signal 128 + its number, with the state saved.

    Raises:
        Diverged: if the loss is no longer a finite number; that state is not saved.
        ConfigError: if the run in the folder can't be resumed.
        OSError: if a checkpoint can't be written or read.
        UnreadableImages: if too many images can't be read.
    """
    with (
        Interruption() as interruption,
        Checkpoints(task.folder, keep=task.config.checkpoints.keep) as checkpoints,
    ):
        state, resumes = _begin(task, checkpoints)
        start = int(state.step)
        with _open_log(task, start) as log, _open_bank(task, start, checkpoints) as bank:
            workers = _choose_workers(task, log, task.total - start)
            _log_warnings(task, log, checkpoints, start if resumes else None)
            loop = _Loop(task, log, checkpoints, bank, interruption, workers)
            try:
                loop.measure_missing(state, start)
                done = loop.run(state, start)
            except Exception as error:
                if isinstance(error, Diverged) or not jax.distributed.is_initialized():
                    raise
                distributed.abandon(f"{error}\n{_OTHER_PROCESSES} {task.command}")
            distributed.barrier("the end")
            if loop.stopped:
                log.say(
                    f"{loop.stopped.name}: saved at step {done:,} of {task.total:,}. To go on: {task.command}"
                )
                return 128 + loop.stopped
            for line in (*task.last_lines(), f"Done: {done:,} steps. {task.result}"):
                log.say(line)
            return 0


def _begin(task: Task, checkpoints: Checkpoints) -> tuple[Any, bool]:
    """Returns the state to train from, and whether it was restored from a checkpoint."""
    if checkpoints.latest_step() is not None:
        return checkpoints.restore(task.shapes, earlier=task.earlier), True
    refuse_lost_checkpoints(task.folder)
    state = task.init()
    checkpoints.save(state)  # so that every run with metrics has a checkpoint
    checkpoints.wait()
    return state, False


def _open_log(task: Task, start: int) -> Log:
    if not distributed.is_first():
        return NoRecord()
    return Record(task.folder, total_steps=task.total, steps_per_epoch=task.per_epoch, start_step=start, every=task.config.log_every)


def _open_bank(task: Task, start: int, checkpoints: Checkpoints) -> Bank | NoBank:
    """Opens the bank of a run; takes the rows of an earlier version's run from its checkpoint."""
    if task.prototypes is None:
        return NoBank()
    kept = checkpoints.field("bank") if start and not task.changed else None
    if not distributed.is_first():
        return NoBank()
    bank = Bank(task.folder / "bank", task.prototypes, task.per_epoch)
    if task.changed:
        bank.clear()  # of embeddings of the previous images
    elif kept is not None and bank.is_new:
        bank.adopt(start, Prototypes(**kept))
    return bank


def _choose_workers(task: Task, log: Log, batches: int) -> int:
    """Logs the first line of a run; returns the number of processes that decode images for so many batches."""
    data, images = task.config.data, task.sources["train"]
    log.say(task.first_line)
    workers = data.workers
    if workers == "auto":
        batch_size = task.config.batch_size // distributed.shard()[1]
        workers, why = choose_workers(
            images, batch_size=batch_size, canvas=data.canvas, threads=data.threads, images=batches * batch_size
        )
        if why:
            log.say(why)
    return workers


def _log_warnings(task: Task, log: Log, checkpoints: Checkpoints, resumed: int | None) -> None:
    """Logs damaged checkpoints, notes on the images, and from which step the run is resumed."""
    for damage in checkpoints.damaged:
        log.warn(damage)
    for note in distinct_notes(task.sources):
        log.warn(note)
    if task.changed:
        log.warn(f"Going on with other images than before, as asked: {task.changed}.")
    if resumed is not None:
        log.say(f"Going on after step {resumed:,} of {task.total:,}.")
        for warning in task.warnings:
            log.warn(warning)


class _Loop:
    """The loop over batches, and its state besides that of training."""

    def __init__(
        self, task: Task, log: Log, checkpoints: Checkpoints, bank: Bank | NoBank, interruption: Interruption,
        workers: int,
    ):  # fmt: skip
        self._task, self._log, self._checkpoints, self._bank = task, log, checkpoints, bank
        self._interruption, self._workers, self._changed = interruption, workers, task.changed
        mesh = task.sharding.mesh
        assert isinstance(mesh, Mesh)  # a mesh of devices, not an AbstractMesh
        self._agreement = distributed.Agreement(mesh)
        self.stopped: signal.Signals | None = None

    def measure_missing(self, state: Any, start: int) -> None:
        """Makes the read-outs that are missing in the metrics: of epoch 0, and of an epoch after which the process was
        killed before its read-out."""
        task = self._task
        measured = {line["epoch"] for line in History(task.folder).read().epochs}
        epoch, rest = divmod(start, task.per_epoch)
        baseline = task.collect is not None and 0 not in measured
        # If the images have changed, the bank is still empty.
        unmeasured = epoch > 0 and not rest and epoch not in measured and not task.changed
        # Only the first process reads the metrics.
        baseline, unmeasured = (bool(distributed.broadcast(todo)) for todo in (baseline, unmeasured))
        if baseline and task.collect is not None:
            self._log.say("Measuring the untrained network: an epoch of views, forward only.")
            self._measure_untrained(task.collect, start)
        if unmeasured and not self.stopped:
            self._read_out(epoch, start, state, 0)

    def _measure_untrained(self, collect: Callable[[Any, Any], tuple[Any, Prototypes]], start: int) -> None:
        task, folder = self._task, self._task.folder / "bank-untrained"
        untrained = task.init()
        with contextlib.ExitStack() as stack:
            bank: Bank | NoBank = NoBank()
            if task.prototypes is not None and distributed.is_first():
                stack.callback(shutil.rmtree, folder, ignore_errors=True)
                bank = stack.enter_context(Bank(folder, task.prototypes, task.per_epoch))
            batches = stack.enter_context(self._batches(0))
            feed = itertools.islice(on_devices(batches, task.sharding), task.per_epoch)
            for number, batch in enumerate(feed, 1):
                untrained, row = collect(untrained, batch)
                bank.put(number, row)
                if self._agree() > _SAVE:
                    return
            task.read_out(Epoch(0, start, untrained, bank.of_epoch(1), 0, self._log))

    def _read_out(self, epoch: int, step: int, state: Any, unreadable: int) -> None:
        references = self._bank.of_epoch(epoch)
        if references is not None and (missing := int((references.index < 0).sum())):
            self._log.warn(
                f"{missing:,} of {len(references.index):,} training images have no embedding of epoch {epoch}, or a "
                "damaged one; the read-out leaves them out."
            )
        self._task.read_out(Epoch(epoch, step, state, references, unreadable, self._log))

    def run(self, state: Any, done: int) -> int:
        """Trains until the end or a signal, saves the state, and returns the number of steps done.

        The metrics of a step are read while the device computes the next ones.
        """
        task, log, config = self._task, self._log, self._task.config
        running: deque[tuple[int, dict]] = deque()  # steps whose metrics are still to be logged
        n_views, saved_at, known = config.batch_size * config.views.per_image, monotonic(), 0

        def log_steps(most: int = 0) -> None:
            """Logs the metrics of steps until at most that many are running."""
            while len(running) > most:
                step, metrics = running.popleft()
                start = perf_counter()
                jax.block_until_ready(metrics)
                waited = perf_counter() - start
                log.step(step, metrics | {"wait_device": metrics["wait_device"] + waited, "views": n_views})
                self._check_finite(metrics, step)

        traced = config.profile_steps if distributed.is_first() else 0
        with self._batches(done) as batches, Trace(task.folder / "profile", traced) as trace:
            feed = on_devices(batches, task.sharding)
            while done < task.total and not self.stopped:
                if trace.before_step():
                    log.say(f"Traced {traced} steps into {task.folder / 'profile'}")
                begin = perf_counter()
                batch = next(feed)
                decoded = perf_counter()
                jax.block_until_ready(batch)  # its copy was started two steps ago
                arrived = perf_counter()
                state, metrics, row = task.step(state, batch)
                for value in metrics.values():
                    value.copy_to_host_async()
                done += 1
                if row is not None:
                    self._bank.put(done, row)
                waits = {"wait_input": decoded - begin, "wait_copy": arrived - decoded}
                waits["wait_device"] = perf_counter() - arrived
                running.append((done, metrics | waits))
                log_steps(_RUNNING)
                for place in itertools.islice(batches.unreadable.values(), known, None):
                    log.warn(f"Can't be read, so the next image takes its place: {place}")
                known = len(batches.unreadable)
                late = monotonic() - saved_at > 60 * config.checkpoints.minutes
                agreed = self._agree(_SAVE if late else 0)
                epoch_ends = done % task.per_epoch == 0
                if epoch_ends or agreed == _SAVE:
                    log_steps()  # raises if the loss is not finite, before the state is saved
                    self._save(state)
                    saved_at = monotonic()
                if epoch_ends:
                    self._read_out(done // task.per_epoch, done, state, known)
            log_steps()
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

    def _agree(self, request: int = 0) -> int:
        """Returns what all processes do after this step: 0 for nothing, _SAVE, or the number of a signal to stop."""
        agreed = self._agreement(self._interruption.received or request)
        if agreed > _SAVE:
            self.stopped = signal.Signals(agreed)
        return agreed

    def _save(self, state: Any) -> None:
        self._log.flush()
        self._bank.wait()
        self._checkpoints.save(state)
        if self._changed:
            self._checkpoints.wait()
            rebind(self._task.folder, self._task.sources)
            self._changed = ""

    def _check_finite(self, metrics: Mapping, step: int) -> None:
        """Raises Diverged if the loss or the norm of its gradient is not a finite number."""
        loss, norm = float(metrics["loss"]), float(metrics["grad_norm"])
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(
                f"At step {step:,} the loss is {loss} and the norm of its gradient {norm}. No checkpoint "
                f"holds this. That of step {self._checkpoints.latest_step():,} is kept in {self._task.folder}. "
                f"To start anew: {self._task.advice(step)}, and another --out."
            )
