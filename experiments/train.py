"""Trains a network as a recipe says, with IPCL or on labels, and writes a report of the run.

    python experiments/train.py --config ipcl_smoke
    python experiments/train.py --config ipcl_alexnet_gn --data.source folder:/path/to/imagenet

A recipe is a file in `configs/` or of your own. The same command again resumes a run that was stopped.
"""

import dataclasses
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
from ipcl_jax.report.html import Neighbours
from ipcl_jax.report.run_page import environment, write_report
from ipcl_jax.run.folder import IMAGES, check_folder, claim_folder
from ipcl_jax.run.history import History
from ipcl_jax.run.loop import Epoch, Task, fit
from ipcl_jax.run.monitor import embed_held_out, measure
from ipcl_jax.system import distributed
from ipcl_jax.system.compilation import set_up_compiler
from ipcl_jax.training.state import RENAMED_FIELDS
from ipcl_jax.training.step import compile_steps

_HEADLINES = {
    "top1": "held-out accuracy top-1",
    "knn_top1": "held-out kNN top-1",
    "retrieval": "instance retrieval",
}
_FROM_0_1 = (
    "This run was started by version 0.1, which drew views from other random numbers and did not record its images; "
    "from here on views are drawn as this version does, and the images are recorded."
)


def train(config: Train, command: str) -> int:
    """Trains to the end, or until SIGTERM or Ctrl-C; returns the exit code.

    Args:
        config: the run.
        command: the command line that resumes it.

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
    per_epoch = steps_per_epoch(images, config.batch_size)
    claim_folder(folder, config, sources)

    mesh = distributed.make_mesh()
    steps = compile_steps(config, mesh, n_images=len(images), steps_per_epoch=per_epoch)
    first = distributed.is_first()
    total = config.epochs * per_epoch
    sheet = contact_sheet(images, config) if first else None
    found: Neighbours | None = None
    history = History(folder)

    def read_out(epoch: Epoch) -> None:
        nonlocal found
        embedded = embed_held_out(steps.embed, epoch.state.variables, held_out, config, mesh)
        if epoch.references is None:  # only the first process measures
            return
        metrics = measure(embedded, epoch.references, config, n_classes=len(images.classes))
        epoch.log.epoch(epoch.number, epoch.step, metrics | {"unreadable": epoch.unreadable})
        if epoch.number and (warning := collapse_warning(metrics)):
            epoch.log.warn(warning)
        if len(embedded.index) and (epoch.references.index >= 0).any():  # none if no image can be read
            found = neighbours(embedded, epoch.references, held_out, images, config)
        report()

    def report() -> None:
        if first:
            write_report(
                folder, config=config, environment=environment(sources), resume=command,
                classes=len(images.classes), contact_sheet=sheet, neighbours=found, history=history,
            )  # fmt: skip

    def last_lines() -> list[str]:
        epochs = {line["epoch"]: line for line in history.read().epochs}
        before, after = epochs.get(0, {}), epochs[max(epochs)] if epochs else {}
        return [
            f"{title}: {after[name]:.1%}" + (f", untrained {before[name]:.1%}" if name in before else "")
            for name, title in _HEADLINES.items()
            if name in after
        ]

    def advice(step: int) -> str:
        if step <= config.accumulate:
            return "other --views or another --objective.temperature, as the optimizer has not made a step yet"
        return "a lower --optim.lr, a higher --accumulate or --optim.clip-norm 1"

    return fit(
        Task(
            config=config, command=command, folder=folder, changed=changed, sources=sources,
            total=min(total, config.max_steps or total), per_epoch=per_epoch,
            sharding=distributed.batch_sharding(mesh), init=steps.init, shapes=steps.state, step=steps.train,
            prototypes=steps.prototypes, collect=steps.collect if config.monitor.baseline else None,
            read_out=read_out, report=report, earlier=RENAMED_FIELDS,
            first_line=f"{config.name}: {len(images):,} images from {config.data.source}, {len(held_out):,} held out; "
            f"writing to {folder}",
            warnings=(_FROM_0_1,) if from_0_1 else (), advice=advice, last_lines=last_lines,
            result=f"Report: {folder / 'report.html'}",
        )
    )  # fmt: skip


def main() -> int:
    """Runs the command line; returns the exit code."""
    set_up_compiler()
    return exit_code(lambda: train(recipes.load(sys.argv[1:], __doc__.splitlines()[0]), command_line()))


if __name__ == "__main__":
    sys.exit(main())
