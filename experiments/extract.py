"""Activations of a model's layers for a set of images, written to disk as they come.

    python experiments/extract.py ipcl1 stimuli/ --layers fc7 fc8 --out acts.h5
    python experiments/extract.py runs/ipcl_smoke sample --layers all --pool mean --out acts.h5
    python experiments/extract.py ipcl1 stimuli/ --layers all --list-layers

The same command again goes on where it was interrupted.
"""

import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Annotated, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

# The package of that name comes before this folder's convert.py.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from exit_codes import exit_code
from ipcl_jax.damage import find_damage, why_unreadable
from ipcl_jax.encoder import Encoder
from ipcl_jax.errors import ConfigError
from ipcl_jax.extraction import Pool, plan
from ipcl_jax.features import FeatureFile, Layer
from ipcl_jax.files import at_home, whole
from ipcl_jax.formats import Format, check_format, export, format_of
from ipcl_jax.models.checks import check_layers
from ipcl_jax.projection import make_projection
from ipcl_jax.provenance import image_digests
from ipcl_jax.record import make_console
from ipcl_jax.stimulus_sets import StimulusSet, open_stimuli
from ipcl_jax.streaming import stream
from read_out import open_subject

SEEDS = 2**32  # JAX drops the digits of a larger one


@dataclass(frozen=True)
class Extract:
    """Activations of a model's layers for a set of images, written to disk as they come."""

    model: Annotated[str, tyro.conf.Positional]
    """A released model's name, a PyTorch or safetensors file, or the folder of a run."""
    images: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """A folder, files, a 'pattern*.png', a list.txt, FILE.h5:DATASET, tfds:NAME, or sample."""
    layers: tuple[str, ...] = ("fc7",)
    """Layers, named as in the reference; `all` for every one."""
    out: Path | None = None
    """The file to write: .h5, .hdf5, .npz, .mat or .zarr."""
    list_layers: bool = False
    """Show names, shapes and sizes of the layers chosen (all, if none are), and stop."""
    pool: Pool | None = None
    """Reduce convolutional layers over space."""
    project: int | None = None
    """Reduce each layer to so many numbers by a sparse random projection (after pooling)."""
    seed: int = 0
    """Of the projection."""
    dtype: Literal["float32", "float16"] = "float32"
    """Of the numbers on disk."""
    compute: Literal["float32", "bfloat16"] = "float32"
    """Of convolutions and matrix products; bfloat16 errs by about 1 % of a layer's largest value."""
    format: Format | None = None
    """Of the file, if its name has no ending; h5 by default."""
    transform: Literal["stimulus", "validation"] = "stimulus"
    """Shorter side to the model's size, or (validation) to 8/7 of it, before the centre is cut out."""
    size: int | None = None
    """Side of the images in pixels; by default that of the model's training."""
    skip_unreadable: bool = False
    """Give images that can't be read rows of NaN, and list them, instead of stopping."""
    batch_size: int = 64
    """Images at a time."""
    threads: int = os.cpu_count() or 1
    """Threads that decode."""
    split: Literal["val", "train"] = "val"
    """Which images of a TFDS dataset or the sample."""
    data_dir: str | None = None
    """Folder of TFDS data."""


class Extraction:
    """One extraction: everything that could be wrong with it is found while it is made.

    Args:
        options: what to do.
        console: where progress is shown.

    Raises:
        ConfigError: if it can't be done; nothing is written then.
    """

    def __init__(self, options: Extract, console: Console):
        self.options, self.console = options, console
        for name in ("batch_size", "threads", "project"):
            value = getattr(options, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} is {value}; it must be at least 1.")
        if not 0 <= options.seed < SEEDS:
            raise ConfigError(f"--seed is {options.seed}; it must lie between 0 and {SEEDS - 1}.")
        subject = open_subject(options.model, options.transform, options.size)
        self.encoder, self.transform, self.size = subject.encoder, subject.transform, subject.transform.size
        self.layers, self.projections = layers_of(options, self.encoder, self.size)

    def table(self, n_images: int | None) -> Table:
        """The layers: shapes, bytes an image, and bytes of all images."""
        table = Table(
            "layer", "shape", "bytes an image", "on disk", title=f"{self.encoder}, {self.size} pixels"
        )
        rows = [(name, " x ".join(map(str, layer.shape)), layer.bytes) for name, layer in self.layers.items()]
        for name, shape, size in [*rows, ("together", "", sum(size for *_, size in rows))]:
            total = "–" if n_images is None else f"{size * n_images / 1e6:,.1f} MB"
            table.add_row(name, shape, f"{size:,}", total)
        return table

    def run(self, stimuli: StimulusSet, out: Path) -> None:
        """Extracts what is not extracted yet."""
        format, names = format_of(out, self.options.format), stimuli.names
        check_format(format, 4 * len(names) * max(math.prod(layer.shape) for layer in self.layers.values()))
        if format != "h5" and out.exists():
            raise ConfigError(f"{out} is there already; give another --out, or remove it.")
        hdf5 = out if format == "h5" else out.with_name(f"{out.name}.h5")
        if not hdf5.exists():
            self._refuse_damage(stimuli)
        with FeatureFile(
            hdf5, names=names, layers=self.layers, attributes=self.attributes(),
            digests=lambda count: self._digests(stimuli, count), readable=self.options.skip_unreadable,
        ) as file:  # fmt: skip
            if file.complete:
                self.console.print(f"{out} is complete already: {len(names)} images.")
                return
            self._stream(stimuli, file)
            if lost := file.unreadable():
                self._list_unreadable(stimuli, lost, out.with_name(f"{out.name}.unreadable.txt"))
            if format == "h5":
                file.publish()
            else:
                export(file.finish(), out, format)
                file.discard()
        shapes = ", ".join(f"{name} {[len(names), *layer.shape]}" for name, layer in self.layers.items())
        self.console.print(f"Wrote {out}: {shapes if len(self.layers) < 5 else f'{len(self.layers)} layers'}")

    def _refuse_damage(self, stimuli: StimulusSet) -> None:
        damage = find_damage(stimuli, threads=self.options.threads)
        if damage and not self.options.skip_unreadable:
            listing = "\n  ".join(f"{stimuli.names[i]}: {reason}" for i, reason in list(damage.items())[:20])
            raise ConfigError(
                f"{len(damage)} of {len(stimuli.names)} images can't be read:\n  {listing}\n"
                "Replace them, or give --skip-unreadable for rows of NaN in their place."
            )

    def _digests(self, stimuli: StimulusSet, count: int) -> np.ndarray:
        self.console.print(f"Comparing {count} images with those that are done.")
        return image_digests(stimuli, count, threads=self.options.threads)

    def _list_unreadable(self, stimuli: StimulusSet, places: list[int], path: Path) -> None:
        lines = [f"{stimuli.names[i]}: {why_unreadable(stimuli, i, self.transform)}\n" for i in places]
        with whole(path) as part:
            part.write_text("".join(lines), encoding="utf-8")
        self.console.print(
            f"{len(lines)} images can't be read; their rows are NaN. They are listed in {path}"
        )

    def attributes(self) -> dict[str, str | int]:
        """What activations depend on, besides the images."""
        encoder, options = self.encoder, self.options
        digest = encoder.digest()
        projected = any(projection is not None for projection in self.projections.values())
        return {
            "model": encoder.name,
            "model_sha256": encoder.source or digest,
            "weights_sha256": digest,
            "preprocessing": f"{self.transform}, [0, 1], less {list(encoder.mean)}, by {list(encoder.std)}",
            "pool": options.pool or "none",
            "projection": f"{options.project} components, seed {options.seed}" if projected else "none",
            "compute": options.compute,
            "batch_size": options.batch_size,
        }

    def _stream(self, stimuli: StimulusSet, file: FeatureFile) -> None:
        """Stores the rows that are missing: a batch is computed while the one before is written."""
        options = self.options
        computed = stream(
            self.encoder, stimuli, self.transform, self.projections, pool=options.pool, compute=options.compute,
            batch_size=options.batch_size, threads=options.threads, start=file.rows,
        )  # fmt: skip
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
        )
        start, skipped = perf_counter(), file.rows
        if skipped:
            self.console.print(f"Going on after {skipped} images.")
        with Progress(*columns, console=self.console) as progress:
            bar = progress.add_task("", total=len(stimuli.names), completed=skipped, speed="")
            for batch, values in computed:
                if batch.problems and not options.skip_unreadable:
                    place, reason = next(iter(batch.problems.items()))
                    raise ConfigError(
                        f"{stimuli.names[batch.first + place]} can't be read: {reason}\n"
                        "What was extracted before it is kept. Mend it and give the same command to go on, "
                        "or start anew with --skip-unreadable."
                    )
                file.write(values, batch.sha256, list(batch.problems), first=batch.first)
                speed = f"{(file.rows - skipped) / (perf_counter() - start):.0f} images/s"
                progress.update(bar, completed=file.rows, speed=speed)


def layers_of(options: Extract, encoder: Encoder, size: int) -> tuple[dict[str, Layer], dict]:
    """What is stored of each layer, and how each is projected (None: not at all)."""
    everything = options.layers == ("all",)
    names = encoder.layer_names if everything else options.layers
    names = tuple(dict.fromkeys(check_layers(names, encoder.layer_names)))
    layers, projections = {}, {}
    planned = plan(encoder, names, size=size, pool=options.pool, n_components=options.project)
    for name, (shape, projected) in planned.items():
        layers[name] = Layer((options.project,) if projected else shape, np.dtype(options.dtype))
        size = math.prod(shape)
        projections[name] = make_projection(options.seed, size, options.project) if projected else None
    return layers, projections


def main() -> int:
    """Runs the command line; returns the exit code."""
    options = tyro.cli(Extract)
    console = make_console()

    def work() -> None:
        extraction = Extraction(options, console)
        stimuli = options.images and open_stimuli(options.images, split=options.split, dir=options.data_dir)
        if options.list_layers:
            console.print(extraction.table(len(stimuli.names) if stimuli else None))
            return
        if not stimuli or options.out is None:
            raise ConfigError("Give images and --out FILE, or --list-layers.")
        extraction.run(stimuli, at_home(options.out))

    try:
        return exit_code(work)
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on where this one stopped.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
