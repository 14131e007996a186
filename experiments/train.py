"""Trains a model. A recipe is a file in `configs/`; there is no other trainer.

    python experiments/train.py --config ipcl_smoke
    python experiments/train.py --config ipcl_alexnet_gn --data.source folder:/path/to/imagenet

The same command again goes on where the run stopped.
"""

import itertools
import math
import platform
import shlex
import signal
import sys
from collections.abc import Mapping
from importlib.metadata import version
from time import monotonic, perf_counter

import jax

import configs
from ipcl_jax import processes
from ipcl_jax.checkpoints import Checkpoints
from ipcl_jax.compilation import set_up_compiler
from ipcl_jax.config import Train, check_shared
from ipcl_jax.errors import ConfigError, InputError
from ipcl_jax.gallery import contact_sheet, neighbours
from ipcl_jax.interruption import Interruption
from ipcl_jax.loading import (
    TOLERATED,
    TrainBatches,
    UnreadableImages,
    eval_batches,
    on_devices,
    steps_per_epoch,
)
from ipcl_jax.monitoring import embed_images, measure
from ipcl_jax.page import Neighbours
from ipcl_jax.profiling import Trace
from ipcl_jax.readout.spread import collapse_warning
from ipcl_jax.record import WAITS, Record, Silence, read_metrics
from ipcl_jax.report import write_report
from ipcl_jax.run_folder import IMAGES, check_folder, claim_folder, rebind, refuse_lost_checkpoints
from ipcl_jax.sources import open_source
from ipcl_jax.training import EARLIER, TrainState, batch_sharding, compile_steps, make_mesh
from ipcl_jax.workers import choose_workers

_HEADLINES = {
    "top1": "held-out accuracy top-1",
    "knn_top1": "held-out kNN top-1",
    "retrieval": "instance retrieval",
}


SAVE = 1  # what a process may wish besides a signal to stop, whose numbers are higher
_PEERS = "With one process gone all stop. Start them again to go on from the last checkpoint:"


class Diverged(RuntimeError):
    """The loss or its gradient is no longer a finite number."""


class Run:
    """One run in its folder: what it needs, in the order in which it needs it.

    Args:
        config: the run.
        command: the command line that goes on with it.

    Raises:
        ConfigError: if it can't start; nothing long has happened by then, and nothing is written.
    """

    def __init__(self, config: Train, command: str):
        check_shared(config.batch_size, jax.device_count())
        self.config, self.command = config, command
        sources = {
            split: open_source(config.data.source, split, dir=config.data.dir) for split in ("train", "val")
        }
        self.images, self.held_out = sources["train"], sources["val"]
        self.folder, self.changed = check_folder(config, sources)
        self.per_epoch = steps_per_epoch(self.images, config.batch_size)
        self.total = min(config.epochs * self.per_epoch, config.max_steps or math.inf)
        self._refuse_unlabelled()
        self.of_version_0_1 = not (self.folder / IMAGES).exists()
        claim_folder(self.folder, config, sources)

        self.mesh = make_mesh()
        self.sharding = batch_sharding(self.mesh)
        self.steps = compile_steps(
            config, self.mesh, n_images=len(self.images), steps_per_epoch=self.per_epoch
        )
        self.agreed = processes.Agreement(self.mesh)
        self.contact_sheet = contact_sheet(self.images, config) if processes.is_first() else None
        self.neighbours: Neighbours | None = None  # until the first read-out
        self.stopped: signal.Signals | None = None

    def _refuse_unlabelled(self) -> None:
        """Categories can be learned only from as many classes as the model has outputs, or fewer."""
        config, classes = self.config, len(self.images.classes)
        if config.objective.name == "categories" and not 0 < classes <= config.model.out_dim:
            found = f"has {classes} classes" if classes else "has no labels"
            raise ConfigError(
                f"--objective.name categories needs labels for its {config.model.out_dim} outputs, and "
                f"{config.data.source} {found}. Raise --model.out-dim, or give another --data.source."
            )

    def train(self) -> int:
        """Trains to the end, or until a signal comes.

        Returns:
            0 if the run is complete; after a signal 128 + its number.
        """
        config = self.config
        with (
            Interruption() as interruption,
            Checkpoints(self.folder, keep=config.checkpoints.keep) as checkpoints,
        ):
            resumes = checkpoints.latest_step() is not None
            if resumes:
                # What other images embedded to is no reference, and there may have been more or fewer of them.
                fresh = {"bank": self.steps.init().bank} if self.changed else {}
                state = checkpoints.restore(self.steps.state, fresh=fresh, earlier=EARLIER)
            else:
                refuse_lost_checkpoints(self.folder)
                state = self.steps.init()
                checkpoints.save(state)  # so that a run that was begun always has one
                checkpoints.wait()
            start = int(state.step)
            with self._record(start) as record:
                record.say(
                    f"{config.name}: {len(self.images):,} images from {config.data.source}, "
                    f"{len(self.held_out):,} held out; writing to {self.folder}"
                )
                self._choose_workers(record)
                for damage in checkpoints.damaged:
                    record.warn(damage)
                for note in dict.fromkeys((*self.images.notes, *self.held_out.notes)):
                    record.warn(note)
                if self.changed:
                    record.warn(f"Going on with other images than before, as asked: {self.changed}.")
                if resumes:
                    record.say(f"Going on after step {start:,} of {self.total:,}.")
                    if self.of_version_0_1:
                        record.warn(
                            "This run was begun by version 0.1, which drew views from other random numbers and noted no "
                            "images; from here on both are this version's."
                        )
                try:
                    self._catch_up(state, start, record, interruption)
                    done = self._loop(state, start, record, checkpoints, interruption)
                except Exception as error:
                    if isinstance(error, Diverged) or not jax.distributed.is_initialized():
                        raise
                    processes.abandon(f"{error}\n{_PEERS} {self.command}")
                return self._farewell(done, record)

    def _record(self, start: int) -> Record | Silence:
        if not processes.is_first():
            return Silence()
        return Record(self.folder, total_steps=self.total, steps_per_epoch=self.per_epoch, start_step=start)

    def _choose_workers(self, record: Record) -> None:
        data = self.config.data
        self.workers = data.workers
        if data.workers == "auto":
            self.workers, why = choose_workers(
                self.images, batch_size=self.config.batch_size // processes.shard()[1],
                canvas=data.canvas, threads=data.threads,
            )
            record.say(why)

    def _catch_up(self, state: TrainState, start: int, record: Record, interruption: Interruption) -> None:
        """Read-outs that should stand in the record and don't."""
        measured = {line["epoch"] for line in read_metrics(self.folder)[1]}
        epoch, rest = divmod(start, self.per_epoch)
        baseline = self.config.monitor.baseline and 0 not in measured
        # Killed between saving and measuring; of other images there is no bank to measure with.
        unmeasured = epoch > 0 and not rest and epoch not in measured and not self.changed
        todo = map(processes.told_by_first, (baseline, unmeasured))  # it writes the metrics
        baseline, unmeasured = map(bool, todo)
        if baseline:
            record.say("Measuring the untrained network: an epoch of views, forward only.")
            untrained = self.steps.init()
            with self._batches(0) as batches:
                for batch in itertools.islice(on_devices(batches, self.sharding), self.per_epoch):
                    untrained = self.steps.collect(untrained, batch)
                    if self._agree(interruption) > SAVE:
                        return
            self._read_out(0, start, untrained, record)
        if unmeasured:
            self._read_out(epoch, start, state, record)

    def _agree(self, interruption: Interruption, wish: int = 0) -> int:
        """What all processes do after this step: nothing (0), SAVE, or stop for the signal of that number."""
        agreed = self.agreed(interruption.received or wish)
        if agreed > SAVE:
            self.stopped = signal.Signals(agreed)
        return agreed

    def _loop(
        self,
        state: TrainState,
        done: int,
        record: Record,
        checkpoints: Checkpoints,
        interruption: Interruption,
    ) -> int:
        """Steps until the end or a signal, saves what it came to, and returns the steps done."""
        minutes, n_views = self.config.checkpoints.minutes, self.config.views.per_image
        metrics, waits, saved_at, known = None, {}, monotonic(), 0

        def settle() -> None:
            """Reads the metrics of the last step, for which it waits until the device is done."""
            nonlocal metrics
            if metrics is not None:
                start = perf_counter()
                jax.block_until_ready(metrics)
                waits["wait_device"] += perf_counter() - start
                record.step(done, metrics | waits | {"views": self.config.batch_size * n_views})
                self._refuse_infinity(metrics, done, checkpoints.latest_step())
            metrics = None

        traced = self.config.profile_steps if processes.is_first() else 0
        with self._batches(done) as batches, Trace(self.folder / "profile", traced) as trace:
            feed = on_devices(batches, self.sharding)
            while done < self.total and not self.stopped:
                if trace.before_step():
                    record.say(f"Traced {traced} steps into {self.folder / 'profile'}")
                begin = perf_counter()
                batch = next(feed)
                decoded = perf_counter()
                jax.block_until_ready(batch)  # was sent two steps ago
                arrived = perf_counter()
                state, new = self.steps.train(state, batch)
                sent = perf_counter()
                settle()  # of the step before, while the device works on this one
                metrics, done = new, done + 1
                waits = dict(zip(WAITS, (decoded - begin, arrived - decoded, sent - arrived), strict=True))
                for place in itertools.islice(batches.unreadable.values(), known, None):
                    record.warn(f"Can't be read, so the next image takes its place: {place}")
                known = len(batches.unreadable)
                late = monotonic() - saved_at > 60 * minutes
                agreed = self._agree(interruption, SAVE if late else 0)
                epoch_ends = done % self.per_epoch == 0
                if epoch_ends or agreed == SAVE:
                    settle()  # what is saved must be sound
                    self._save(state, checkpoints)
                    saved_at = monotonic()
                if epoch_ends:
                    self._read_out(done // self.per_epoch, done, state, record, unreadable=known)
            settle()
            self._save(state, checkpoints)
            checkpoints.wait()
        if done % self.per_epoch:
            self._report()
        return done

    def _save(self, state: TrainState, checkpoints: Checkpoints) -> None:
        checkpoints.save(state)
        if self.changed:
            checkpoints.wait()
            rebind(self.folder, {"train": self.images, "val": self.held_out})
            self.changed = ""

    def _refuse_infinity(self, metrics: Mapping, step: int, saved: int) -> None:
        loss, norm = float(metrics["loss"]), float(metrics["grad_norm"])
        if not (math.isfinite(loss) and math.isfinite(norm)):
            advice = "a lower --optim.lr, a higher --accumulate or --optim.clip-norm 1"
            if step <= self.config.accumulate:  # nothing has moved yet
                advice = "other --views or another --objective.temperature, as the optimizer has not moved yet"
            raise Diverged(
                f"At step {step:,} the loss is {loss} and the norm of its gradient {norm}. No checkpoint "
                f"holds this. That of step {saved:,} is kept in {self.folder}. To start anew: {advice}, and "
                "another --out."
            )

    def _batches(self, start_step: int) -> TrainBatches:
        data, (part, parts) = self.config.data, processes.shard()
        return TrainBatches(
            self.images, batch_size=self.config.batch_size // parts, canvas=data.canvas, seed=self.config.seed,
            start_step=start_step, threads=data.threads, workers=self.workers, shard=(part, parts),
        )

    def _read_out(
        self, epoch: int, step: int, state: TrainState, record: Record, *, unreadable: int = 0
    ) -> None:
        """Measures an epoch on held-out images and writes the report."""
        config = self.config
        batches = eval_batches(
            self.held_out, batch_size=config.batch_size, canvas=config.data.canvas,
            threads=config.data.threads, shard=processes.shard(), tolerated=TOLERATED,
        )
        embedded = embed_images(self.steps.embed, state.variables, batches, self.sharding)
        bank = processes.whole(state.bank, self.mesh)
        if not processes.is_first():
            return
        bank = bank.filled()
        metrics = measure(
            embedded, bank, n_classes=len(self.images.classes), k=config.monitor.k,
            temperature=config.objective.temperature,
            categories=config.objective.name == "categories",
        )
        record.epoch(epoch, step, metrics | {"unreadable": unreadable})
        if epoch and (warning := collapse_warning(metrics)):
            record.warn(warning)
        if len(embedded.index):  # none, if no held-out image can be read
            self.neighbours = neighbours(embedded, bank, self.held_out, self.images, config)
        self._report()

    def _report(self) -> None:
        if not processes.is_first():
            return
        classes = self.images.classes
        write_report(
            self.folder, config=self.config, environment=self._environment(), resume=self.command,
            chance=1 / len(classes) if classes else None, contact_sheet=self.contact_sheet,
            neighbours=self.neighbours,
        )

    def _environment(self) -> dict[str, str]:
        devices = jax.devices()
        packages = ("jax", "flax", "optax", "grain", "dm-pix", "numpy")
        return {
            "devices": f"{len(devices)} x {devices[0].device_kind}",
            "images": f"{len(self.images):,} to train on, {len(self.held_out):,} held out",
            "classes": ", ".join(self.images.classes[:30]) or "none: images without labels",
            "python": platform.python_version(),
            **{name: version(name) for name in packages},
        }

    def _farewell(self, done: int, record: Record) -> int:
        epochs = {line["epoch"]: line for line in read_metrics(self.folder)[1]}
        processes.meet("the end")  # a process that leaves alone would be missed
        if self.stopped:
            record.say(
                f"{self.stopped.name}: saved at step {done:,} of {self.total:,}. To go on: {self.command}"
            )
            return 128 + self.stopped
        if epochs:
            before, after = epochs.get(0), epochs[max(epochs)]
            for name, title in _HEADLINES.items():
                if name in after:
                    untrained = f", untrained {before[name]:.1%}" if before else ""
                    record.say(f"{title}: {after[name]:.1%}{untrained}")
        record.say(f"Done: {done:,} steps. Report: {self.folder / 'report.html'}")
        return 0


def main() -> int:
    """Runs the command line; returns the exit code."""
    command = shlex.join(["python", *sys.argv])
    set_up_compiler()
    try:
        config = configs.load(sys.argv[1:], __doc__.splitlines()[0])
        if config.distributed:
            processes.join(config.hosts)
        return Run(config, command).train()
    except (InputError, UnreadableImages, Diverged, OSError) as error:
        code = 2 if isinstance(error, InputError) else 1
        if jax.distributed.is_initialized():
            processes.abandon(str(error), code)
        print(f"error: {error}", file=sys.stderr)
        return code


if __name__ == "__main__":
    sys.exit(main())
