"""Computes the activations of a model's layers for a set of images, and writes them to a file.

    python experiments/extract.py ipcl1 stimuli/ --layers fc7 fc8 --out acts.h5
    python experiments/extract.py runs/ipcl_smoke sample --layers all --pool mean --out acts.h5
    python experiments/extract.py ipcl1 stimuli/ --layers all --list-layers

The same command again resumes an interrupted one.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ipcl_jax.activations.extract import Pool
from ipcl_jax.activations.formats import Format
from ipcl_jax.activations.stimuli import Reader, open_stimuli
from ipcl_jax.activations.write import Extraction
from ipcl_jax.commands.opening import open_model
from ipcl_jax.commands.running import exit_code
from ipcl_jax.errors import ConfigError
from ipcl_jax.system.console import make_console
from ipcl_jax.system.files import expand_home


@dataclass(frozen=True)
class Extract:
    """Computes the activations of a model's layers for a set of images, and writes them to a file."""

    model: Annotated[str, tyro.conf.Positional]
    """A released model's name, a PyTorch or safetensors file, or the folder of a run."""
    images: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """A folder, files, a 'pattern*.png', a list.txt, FILE.h5:DATASET, tfds:NAME, or sample."""
    layers: tuple[str, ...] = ("fc7",)
    """Layers, named as in the reference; `all` for every one."""
    out: Path | None = None
    """The file to write: .h5, .hdf5, .npz or .mat."""
    list_layers: bool = False
    """Show names, shapes and sizes of the layers chosen (all, if none are), and stop."""
    pool: Pool | None = None
    """Reduce convolutional layers over space."""
    project: int | None = None
    """Reduce each layer to this many numbers by a sparse random projection (after pooling)."""
    seed: int = 0
    """Seed of the projection."""
    dtype: Literal["float32", "float16"] = "float32"
    """Type of the numbers on disk."""
    compute: Literal["float32", "bfloat16"] = "float32"
    """Type of convolutions and matrix products; bfloat16 has errors of about 1 % of a layer's largest value."""
    format: Format | None = None
    """Format of the file, if its name has no ending; h5 by default."""
    transform: Literal["stimulus", "validation"] = "stimulus"
    """Resize the shorter side to the model's size, or (validation) to 8/7 of it, before the centre is cropped."""
    size: int | None = None
    """Side of the cropped images in pixels; by default as in the model's training."""
    skip_unreadable: bool = False
    """Write rows of NaN for images that can't be read, and list them, instead of stopping."""
    batch_size: int = 64
    """Images in a batch."""
    threads: int = os.cpu_count() or 1
    """Threads that decode images."""
    split: Literal["val", "train"] = "val"
    """Split of a TFDS dataset or the sample."""
    data_dir: str | None = None
    """Folder of TFDS data."""


def extract(options: Extract, console: Console) -> None:
    """Writes the activations, or lists the layers.

    Raises:
        ConfigError: if the options can't be used; nothing is written then.
    """
    for name in ("batch_size", "threads"):
        if getattr(options, name) < 1:
            raise ConfigError(
                f"--{name.replace('_', '-')} is {getattr(options, name)}; it must be at least 1."
            )
    model = open_model(options.model, options.transform, options.size)
    with progress_bar(console) as progress:
        extraction = Extraction(
            encoder=model.encoder, reader=Reader(model.transform, options.batch_size, options.threads, progress),
            layers=options.layers, pool=options.pool, project=options.project, seed=options.seed,
            dtype=options.dtype, compute=options.compute, skip_unreadable=options.skip_unreadable,
            say=console.print,
        )  # fmt: skip
        stimuli = options.images and open_stimuli(options.images, split=options.split, dir=options.data_dir)
        if options.list_layers:
            console.print(table(extraction, len(stimuli.names) if stimuli else None))
            return
        if not stimuli or options.out is None:
            raise ConfigError("Give images and --out FILE, or --list-layers.")
        out, count = expand_home(options.out), len(stimuli.names)
        if not extraction.write(stimuli, out, options.format):
            console.print(f"{out} is complete already: {count} images.")
            return
    shapes = ", ".join(f"{name} {[count, *layer.shape]}" for name, layer in extraction.stored.items())
    console.print(f"Wrote {out}: {shapes if len(extraction.stored) < 5 else f'{len(extraction.stored)} layers'}")


def table(extraction: Extraction, n_images: int | None) -> Table:
    """Returns a table of the layers: shapes, bytes an image, and megabytes of all images."""
    title = f"{extraction.encoder}, {extraction.reader.transform.size} pixels"
    table = Table("layer", "shape", "bytes an image", "on disk", title=title)
    rows = [
        (name, " x ".join(map(str, layer.shape)), layer.bytes) for name, layer in extraction.stored.items()
    ]
    for name, shape, size in [*rows, ("together", "", sum(size for *_, size in rows))]:
        total = "–" if n_images is None else f"{size * n_images / 1e6:,.1f} MB"
        table.add_row(name, shape, f"{size:,}", total)
    return table


@contextmanager
def progress_bar(console: Console) -> Iterator:
    """Shows a progress bar with images a second; gives a function `done, total -> None`."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        begun: tuple | None = None  # task, images done before, time

        def show(done: int, total: int) -> None:
            nonlocal begun
            if begun is None:
                begun = bar.add_task("", total=total, speed=""), done, perf_counter()
            task, skipped, start = begun
            speed = (done - skipped) / (perf_counter() - start)
            bar.update(task, completed=done, speed=f"{speed:.0f} images/s" if done > skipped else "")

        yield show


def main() -> int:
    """Runs the command line; returns the exit code."""
    options = tyro.cli(Extract)
    try:
        return exit_code(lambda: extract(options, make_console()))
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on where this one stopped.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
