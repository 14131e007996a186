"""Linear read-out: one linear layer for each layer of a frozen model, trained to tell classes apart.

    python experiments/linear.py ipcl1 --layers fc7 --data.source folder:/data/imagenet256
    python experiments/linear.py runs/ipcl_smoke --layers conv_block_5 fc7 --data.source sample --optim.lr 0.1

The model is computed once for all layers, on a new view of each image. The same command again goes on where
it stopped.
"""

import dataclasses
import functools
import itertools
import math
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Annotated

import jax
import tyro
from jax.sharding import NamedSharding, PartitionSpec
from rich.console import Console

# The package of that name comes before this folder's convert.py.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from exit_codes import exit_code, parse
from ipcl_jax.checkpoints import Checkpoints
from ipcl_jax.compilation import set_up_compiler
from ipcl_jax.config import LinearProbe, check_shared
from ipcl_jax.errors import InputError
from ipcl_jax.extraction import plan
from ipcl_jax.interruption import Interruption
from ipcl_jax.loading import TrainBatches, on_devices, steps_per_epoch
from ipcl_jax.models.checks import check_layers
from ipcl_jax.readout.linear import init_heads, probe_step, rank_classes, views_for
from ipcl_jax.record import Record, make_console, read_metrics
from ipcl_jax.run_folder import check_folder, claim_folder, rebind, refuse_lost_checkpoints
from ipcl_jax.training import batch_sharding, make_mesh
from read_out import open_both, open_subject


@dataclass(frozen=True, kw_only=True)
class Linear(LinearProbe):
    """Linear read-out: one linear layer for each layer of a frozen model, trained to tell classes apart."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A released model's name, a PyTorch or safetensors file, or the folder of a run."""
    weights_sha256: Annotated[str, tyro.conf.Suppress] = ""


class Probe:
    """One linear read-out in its folder.

    Args:
        config: the read-out.
        command: the command line that goes on with it.
        console: where progress is shown.

    Raises:
        ConfigError: if it can't start; nothing is written then, except to the cache.
    """

    def __init__(self, config: Linear, command: str, console: Console):
        self.command = command
        subject = open_subject(config.name, config.transform)
        self.encoder = subject.encoder
        self.config = config = dataclasses.replace(config, weights_sha256=self.encoder.digest())
        check_layers(config.layers, self.encoder.layer_names)
        self.mesh = make_mesh()
        check_shared(config.batch_size, self.mesh.size)
        views_for(config, self.encoder)  # checks them at the model's size
        self.images, held_out = open_both(config.data)
        sources = {"train": self.images, "val": held_out}
        self.per_epoch = steps_per_epoch(self.images, config.batch_size)
        n_batches = config.epochs * self.per_epoch
        self.total = min(n_batches, config.max_steps or n_batches)
        folder = f"runs/linear-{self.encoder.name or Path(config.name).name}"
        self.folder, self.changed = check_folder(config, sources, folder)
        self.tests = subject.features(held_out, config.layers, console, threads=config.data.threads)
        self.sources = sources
        claim_folder(self.folder, config, sources)
        self.labels = held_out.labels()
        self.published = subject.published.get("linear")

        whole, self.by_image = NamedSharding(self.mesh, PartitionSpec()), batch_sharding(self.mesh)
        widths = {
            layer: math.prod(shape)
            for layer, (shape, _) in plan(self.encoder, config.layers, size=self.encoder.size).items()
        }
        init = functools.partial(init_heads, widths, len(self.images.classes), config)
        self.init = jax.jit(init, out_shardings=whole)
        self.shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), jax.eval_shape(init)
        )
        self.encoder = jax.device_put(self.encoder, whole)
        self.step = jax.jit(
            functools.partial(probe_step, config=config, n_batches=n_batches),
            in_shardings=(whole, whole, self.by_image), out_shardings=(whole, whole), donate_argnums=0,
        )  # fmt: skip

    def train(self) -> int:
        """Trains to the end, or until a signal comes.

        Returns:
            0 if all is done; after a signal 128 + its number.
        """
        with (
            Interruption() as interruption,
            Checkpoints(self.folder, keep=self.config.checkpoints.keep) as checkpoints,
        ):
            resumes = checkpoints.latest_step() is not None
            if resumes:
                heads = checkpoints.restore(self.shapes)
            else:
                refuse_lost_checkpoints(self.folder)
                heads = self.init()
                checkpoints.save(heads)  # so that a read-out that was begun always has one
                checkpoints.wait()
            done = int(heads.step)
            record = Record(
                self.folder, total_steps=self.total, steps_per_epoch=self.per_epoch, start_step=done
            )
            with record:
                record.say(
                    f"{self.config.name}: heads on {', '.join(self.config.layers)}, {len(self.images):,} images from "
                    f"{self.config.data.source}, {len(self.labels):,} held out; writing to {self.folder}"
                )
                for damage in checkpoints.damaged:
                    record.warn(damage)
                if self.changed:
                    record.warn(f"Going on with other images than before, as asked: {self.changed}.")
                if resumes:
                    record.say(f"Going on after step {done:,} of {self.total:,}.")
                    epoch, rest = divmod(done, self.per_epoch)
                    if (
                        epoch
                        and not rest
                        and epoch not in {line["epoch"] for line in read_metrics(self.folder)[1]}
                    ):
                        self._measure(epoch, done, heads, record)
                done = self._loop(heads, done, record, checkpoints, interruption)
                if interruption.received:
                    record.say(
                        f"{interruption.received.name}: saved at step {done:,} of {self.total:,}. To go on: {self.command}"
                    )
                    return 128 + interruption.received
                if self.published is not None:
                    record.say(f"Published on ImageNet (fc7, top-1): {self.published} %")
                record.say(f"Done: {done:,} steps; every number is in {self.folder / 'metrics.jsonl'}")
                return 0

    def _loop(
        self, heads, done: int, record: Record, checkpoints: Checkpoints, interruption: Interruption
    ) -> int:
        """Steps until the end or a signal, saves what it came to, and returns the steps done."""
        config, saved_at, known = self.config, monotonic(), 0
        metrics: dict | None = None

        def settle() -> None:
            """Keeps the metrics of the last step, for which it waits until the device is done."""
            nonlocal metrics
            if metrics is not None:
                record.step(done, metrics | {"views": config.batch_size * config.views.per_image})
                if not math.isfinite(float(metrics["loss"])):
                    raise InputError(
                        f"At step {done:,} the loss is {float(metrics['loss'])}; give a lower --optim.lr and another --out."
                    )
            metrics = None

        feed = TrainBatches(
            self.images, batch_size=config.batch_size, canvas=config.data.canvas, seed=config.seed,
            start_step=done, threads=config.data.threads,
        )  # fmt: skip
        with feed as batches:
            coming = on_devices(batches, self.by_image)
            while done < self.total and not interruption.received:
                heads, new = self.step(heads, self.encoder, next(coming))
                settle()  # of the step before, while the device works on this one
                metrics, done = new, done + 1
                for place in itertools.islice(batches.unreadable.values(), known, None):
                    record.warn(f"Can't be read, so the next image takes its place: {place}")
                known = len(batches.unreadable)
                epoch_ends = done % self.per_epoch == 0
                if epoch_ends or monotonic() - saved_at > 60 * config.checkpoints.minutes:
                    settle()  # what is saved must be sound
                    self._save(heads, checkpoints)
                    saved_at = monotonic()
                if epoch_ends:
                    self._measure(done // self.per_epoch, done, heads, record)
            settle()
            self._save(heads, checkpoints)
            checkpoints.wait()
        return done

    def _save(self, heads, checkpoints: Checkpoints) -> None:
        checkpoints.save(heads)
        if self.changed:
            checkpoints.wait()
            rebind(self.folder, self.sources)
            self.changed = ""

    def _measure(self, epoch: int, step: int, heads, record: Record) -> None:
        """Accuracy of each head on the held-out images."""
        metrics: dict[str, float] = {}
        lines = []
        for layer, features in self.tests.items():
            hits = rank_classes(heads.params[layer], features.values) == self.labels[:, None]
            top1, top5 = (float(hits[features.readable, :n].any(1).mean()) for n in (1, 5))
            metrics |= {f"{layer}_top1": top1, f"{layer}_top5": top5}
            lines.append(f"{layer} top-1 {top1:.1%}, top-5 {top5:.1%}")
        record.epoch(epoch, step, metrics)
        record.say(f"epoch {epoch}: {'; '.join(lines)}")


def main() -> int:
    """Runs the command line; returns the exit code."""
    command = shlex.join(["python", *sys.argv])
    set_up_compiler()
    return exit_code(lambda: Probe(parse(Linear), command, make_console()).train())


if __name__ == "__main__":
    sys.exit(main())
