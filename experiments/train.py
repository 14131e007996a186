"""Trains a model. A recipe is a file in `configs/`; there is no other trainer.

    python experiments/train.py --config ipcl_smoke
    python experiments/train.py --config ipcl_alexnet_gn --data.source folder:/path/to/imagenet

The same command again goes on where the run stopped.
"""

import dataclasses
import math
import sys

import jax

from ipcl_jax.commands import recipes
from ipcl_jax.commands.running import command_line, exit_code
from ipcl_jax.config import Train, check_divisible
from ipcl_jax.data.loader import steps_per_epoch
from ipcl_jax.data.sources import check_categories, open_splits
from ipcl_jax.errors import require
from ipcl_jax.readout.spread import collapse_warning
from ipcl_jax.report.gallery import contact_sheet, neighbours
from ipcl_jax.report.run_page import environment, write_report
from ipcl_jax.run.folder import IMAGES, check_folder, claim_folder
from ipcl_jax.run.loop import Log, Task, fit
from ipcl_jax.run.metrics import read_metrics
from ipcl_jax.run.monitor import embed_held_out, measure
from ipcl_jax.system import distributed
from ipcl_jax.system.compilation import set_up_compiler
from ipcl_jax.training.state import RENAMED_FIELDS, TrainState
from ipcl_jax.training.step import compile_steps

_HEADLINES = {
    "top1": "held-out accuracy top-1",
    "knn_top1": "held-out kNN top-1",
    "retrieval": "instance retrieval",
}
_FROM_0_1 = (
    "This run was begun by version 0.1, which drew views from other random numbers and noted no images; from here on "
    "both are this version's."
)


def train(config: Train, command: str) -> int:
    """Trains to the end, or until a signal comes; returns the exit code.

    Args:
        config: the run.
        command: the command line that goes on with it.

    Raises:
        ConfigError: if it can't start; nothing is written then.
        Exception: as `run.loop.fit`.
    """
    require("Training, which draws its report and writes for TensorBoard,", "train", "matplotlib", "tensorboardX")
    if config.distributed:
        distributed.initialize(**dataclasses.asdict(config.hosts))
    check_divisible(config.batch_size, jax.device_count())
    sources = open_splits(config.data)
    images, held_out = sources["train"], sources["val"]
    if config.objective.name == "categories":
        check_categories(images, config.model.out_dim)
    folder, changed = check_folder(config, sources)
    from_0_1 = not (folder / IMAGES).exists()
    claim_folder(folder, config, sources)

    mesh, per_epoch = distributed.make_mesh(), steps_per_epoch(images, config.batch_size)
    steps = compile_steps(config, mesh, n_images=len(images), steps_per_epoch=per_epoch)
    first = distributed.is_first()
    pictures = {"contact_sheet": contact_sheet(images, config) if first else None, "neighbours": None}

    def read_out(epoch: int, step: int, state: TrainState, log: Log, unreadable: int) -> None:
        embedded = embed_held_out(steps.embed, state.variables, held_out, config, mesh)
        bank = distributed.replicate(state.bank, mesh)
        if not first:
            return
        bank = bank.filled()
        metrics = measure(embedded, bank, config, n_classes=len(images.classes))
        log.epoch(epoch, step, metrics | {"unreadable": unreadable})
        if epoch and (warning := collapse_warning(metrics)):
            log.warn(warning)
        if len(embedded.index):  # none, if no held-out image can be read
            pictures["neighbours"] = neighbours(embedded, bank, held_out, images, config)
        report()

    def report() -> None:
        if first:
            write_report(
                folder, config=config, environment=environment(sources), resume=command,
                classes=len(images.classes), **pictures,
            )  # fmt: skip

    def closing() -> list[str]:
        epochs = {line["epoch"]: line for line in read_metrics(folder)[1]}
        before, after = epochs.get(0, {}), epochs[max(epochs)] if epochs else {}
        return [
            f"{title}: {after[name]:.1%}" + (f", untrained {before[name]:.1%}" if name in before else "")
            for name, title in _HEADLINES.items()
            if name in after
        ]

    def advice(step: int) -> str:
        if step <= config.accumulate:  # nothing has moved yet
            return "other --views or another --objective.temperature, as the optimizer has not moved yet"
        return "a lower --optim.lr, a higher --accumulate or --optim.clip-norm 1"

    return fit(
        Task(
            config=config, command=command, folder=folder, changed=changed, sources=sources,
            total=min(config.epochs * per_epoch, config.max_steps or math.inf), per_epoch=per_epoch,
            sharding=distributed.batch_sharding(mesh), init=steps.init, shapes=steps.state, step=steps.train,
            collect=steps.collect if config.monitor.baseline else None, read_out=read_out, report=report,
            # What other images embedded to is no reference, and there may have been more or fewer of them.
            fresh={"bank": steps.init().bank} if changed else {}, earlier=RENAMED_FIELDS,
            greeting=f"{config.name}: {len(images):,} images from {config.data.source}, {len(held_out):,} held out; "
            f"writing to {folder}",
            warnings=(_FROM_0_1,) if from_0_1 else (), advice=advice, closing=closing,
            result=f"Report: {folder / 'report.html'}",
        )
    )  # fmt: skip


def main() -> int:
    """Runs the command line; returns the exit code."""
    set_up_compiler()
    return exit_code(lambda: train(recipes.load(sys.argv[1:], __doc__.splitlines()[0]), command_line()))


if __name__ == "__main__":
    sys.exit(main())
