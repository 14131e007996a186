"""Linear read-out: trains a linear classifier on each of some layers of a frozen model.

    python experiments/linear.py ipcl1 --layers fc7 --data.source folder:/data/imagenet256
    python experiments/linear.py runs/ipcl_smoke --layers conv_block_5 fc7 --data.source sample --optim.lr 0.1

All layers are trained in one pass over new views of the images. The same command again resumes one that was stopped.
"""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro
from rich.console import Console

from ipcl_jax.commands.opening import open_model
from ipcl_jax.commands.running import command_line, exit_code, parse
from ipcl_jax.config import LinearProbe, check_divisible
from ipcl_jax.data.loader import steps_per_epoch
from ipcl_jax.data.sources import check_labelled, open_splits
from ipcl_jax.errors import require
from ipcl_jax.models.checks import check_layers
from ipcl_jax.readout.linear import compile_heads, rank_classes, views_for
from ipcl_jax.run.folder import check_folder, claim_folder
from ipcl_jax.run.loop import Epoch, Task, fit
from ipcl_jax.system import distributed
from ipcl_jax.system.compilation import set_up_compiler
from ipcl_jax.system.console import make_console


@dataclass(frozen=True, kw_only=True)
class Linear(LinearProbe):
    """Linear read-out: trains a linear classifier on each of some layers of a frozen model."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A released model's name, a PyTorch or safetensors file, or the folder of a run."""
    weights_sha256: Annotated[str, tyro.conf.Suppress] = ""


def train(options: Linear, command: str, console: Console) -> int:
    """Trains the linear classifiers to the end, or until SIGTERM or Ctrl-C; returns the exit code.

    Args:
        options: the read-out.
        command: the command line that resumes it.
        console: where progress is shown.

    Raises:
        ConfigError: if it can't start; nothing is written then, except to the cache.
        Exception: as `run.loop.fit`.
    """
    require("A linear read-out, which writes for TensorBoard,", "train", "tensorboardX")
    if options.distributed:
        distributed.initialize(**dataclasses.asdict(options.hosts))
    check_divisible(options.batch_size, jax.device_count())
    model = open_model(options.name, options.transform)
    encoder = model.encoder
    config = dataclasses.replace(options, weights_sha256=encoder.digest())
    check_layers(config.layers, encoder.layer_names)
    views_for(config, encoder)  # raises ConfigError if the views don't fit the model's size
    sources = open_splits(config.data)
    images, held_out = check_labelled(sources["train"]), sources["val"]
    per_epoch = steps_per_epoch(images, config.batch_size)
    folder, changed = check_folder(config, sources, f"runs/linear-{encoder.name or Path(config.name).name}")
    tests = model.features(held_out, config.layers, console, threads=config.data.threads)
    claim_folder(folder, config, sources)

    labels, published = held_out.labels(), model.published.get("linear")
    mesh = distributed.make_mesh()
    total = config.epochs * per_epoch
    steps = compile_heads(config, encoder, mesh, n_classes=len(images.classes), n_batches=total)

    def read_out(epoch: Epoch) -> None:
        if not distributed.is_first():
            return
        metrics: dict[str, float] = {}
        lines = []
        for layer, features in tests.items():
            head = jax.tree.map(np.asarray, epoch.state.params[layer])
            hits = rank_classes(head, features.values) == labels[:, None]
            top1, top5 = (float(hits[features.readable, :n].any(1).mean()) for n in (1, 5))
            metrics |= {f"{layer}_top1": top1, f"{layer}_top5": top5}
            lines.append(f"{layer} top-1 {top1:.1%}, top-5 {top5:.1%}")
        epoch.log.epoch(epoch.number, epoch.step, metrics)
        epoch.log.say(f"epoch {epoch.number}: {'; '.join(lines)}")

    return fit(
        Task(
            config=config, command=command, folder=folder, changed=changed, sources=sources,
            total=min(total, config.max_steps or total), per_epoch=per_epoch,
            sharding=distributed.batch_sharding(mesh), init=steps.init, shapes=steps.state,
            step=lambda heads, batch: (*steps.train(heads, batch), None), read_out=read_out,
            first_line=f"{config.name}: heads on {', '.join(config.layers)}, {len(images):,} images from "
            f"{config.data.source}, {len(labels):,} held out; writing to {folder}",
            last_lines=lambda: [] if published is None else [f"Published on ImageNet (fc7, top-1): {published} %"],
            result=f"Every number is in {folder / 'metrics.jsonl'}",
        )
    )  # fmt: skip


def main() -> int:
    """Runs the command line; returns the exit code."""
    set_up_compiler()
    return exit_code(lambda: train(parse(Linear), command_line(), make_console()))


if __name__ == "__main__":
    sys.exit(main())
