"""Extraction of activations of a set of stimuli to a file; an interrupted extraction can be resumed."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from ipcl_jax.activations.compute import stream
from ipcl_jax.activations.damage import find_damage, why_unreadable
from ipcl_jax.activations.encoder import Encoder
from ipcl_jax.activations.extract import Pool, plan
from ipcl_jax.activations.formats import Format, check_format, export, format_of
from ipcl_jax.activations.layout import Layer
from ipcl_jax.activations.projection import Projection, make_projection
from ipcl_jax.activations.provenance import image_digests
from ipcl_jax.activations.stimuli import Reader, StimulusSet
from ipcl_jax.activations.store import FeatureFile
from ipcl_jax.errors import ConfigError
from ipcl_jax.models.checks import check_layers
from ipcl_jax.system.files import atomic

_SEEDS = 2**32  # JAX drops the higher digits of larger seeds


def _no_message(line: str) -> None:
    """Does nothing."""


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """What to compute and store for each image.

    Attributes:
        encoder: the model.
        reader: how images are read; its `progress` is called with the number of rows in the file.
        layers: names of layers; `all` for all of them.
        pool: pooling of convolutional layers over space; None keeps all positions.
        project: number of components of a sparse random projection, after pooling; None for no projection. A layer
            with at most this many values is not projected.
        seed: seed of the projection.
        dtype: dtype on disk.
        compute: dtype of convolutions and matrix products.
        skip_unreadable: store rows of NaN for images that can't be read, and list them, instead of an error.
        say: called with messages of one line.

    Raises:
        ConfigError, InputError: for unknown layers, and numbers out of range.
    """

    encoder: Encoder
    reader: Reader
    layers: Iterable[str] = ("fc7",)
    pool: Pool | None = None
    project: int | None = None
    seed: int = 0
    dtype: Literal["float32", "float16"] = "float32"
    compute: Literal["float32", "bfloat16"] = "float32"
    skip_unreadable: bool = False
    say: Callable[[str], None] = field(default=_no_message, repr=False)

    def __post_init__(self) -> None:
        if self.project is not None and self.project < 1:
            raise ConfigError(f"--project is {self.project}; it must be at least 1.")
        if not 0 <= self.seed < _SEEDS:
            raise ConfigError(f"--seed is {self.seed}; it must lie between 0 and {_SEEDS - 1}.")
        everything = self.encoder.layer_names
        names = everything if tuple(self.layers) == ("all",) else tuple(self.layers)
        object.__setattr__(self, "layers", tuple(dict.fromkeys(check_layers(names, everything))))

    @cached_property
    def _planned(self) -> dict[str, tuple[tuple[int, ...], int | None]]:
        """Shape of each layer before projection, and its number of components (None: not projected)."""
        size = self.reader.transform.size
        planned = plan(self.encoder, self.layers, size=size, pool=self.pool, n_components=self.project)
        return {name: (shape, self.project if projected else None) for name, (shape, projected) in planned.items()}

    @cached_property
    def stored(self) -> dict[str, Layer]:
        """Shape and dtype of each layer's stored activations for one image."""
        return {
            name: Layer(shape if count is None else (count,), np.dtype(self.dtype))
            for name, (shape, count) in self._planned.items()
        }

    @cached_property
    def _projections(self) -> dict[str, Projection | None]:
        return {
            name: None if count is None else make_projection(self.seed, math.prod(shape), count)
            for name, (shape, count) in self._planned.items()
        }

    @property
    def attributes(self) -> dict[str, str | int]:
        """What activations depend on besides the images, as HDF5 attributes."""
        encoder = self.encoder
        digest = encoder.digest()
        projected = any(projection is not None for projection in self._projections.values())
        return {
            "model": encoder.name,
            "model_sha256": encoder.source or digest,
            "weights_sha256": digest,
            "preprocessing": f"{self.reader.transform}, [0, 1], less {list(encoder.mean)}, by {list(encoder.std)}",
            "pool": self.pool or "none",
            "projection": f"{self.project} components, seed {self.seed}" if projected else "none",
            "compute": self.compute,
            "batch_size": self.reader.batch_size,
        }

    def write(self, stimuli: StimulusSet, out: Path, format: Format | None = None) -> bool:
        """Computes the rows that the file lacks, and writes them; resumes an interrupted extraction.

        Args:
            stimuli: the images.
            out: the file.
            format: the file's format, if its name has no extension; see `formats.format_of`.

        Returns:
            False if the file was complete already.

        Raises:
            ConfigError: if images can't be read, or the file can't be written or holds another request.
        """
        names, format = stimuli.names, format_of(out, format)
        check_format(format, 4 * len(names) * max(math.prod(layer.shape) for layer in self.stored.values()))
        if format != "h5" and out.exists():
            raise ConfigError(f"{out} is there already; give another --out, or remove it.")
        hdf5 = out if format == "h5" else out.with_name(f"{out.name}.h5")
        if not hdf5.exists():
            self._check_images(stimuli)
        with FeatureFile(
            hdf5, names=names, layers=self.stored, attributes=self.attributes,
            digests=lambda count: self._digests(stimuli, count), readable=self.skip_unreadable,
        ) as file:  # fmt: skip
            if file.complete:
                return False
            self._fill(stimuli, file)
            if unreadable := file.unreadable():
                self._list_unreadable(stimuli, unreadable, out.with_name(f"{out.name}.unreadable.txt"))
            if format == "h5":
                file.publish()
            else:
                export(file.finish(), out, format)
                file.discard()
        return True

    def _check_images(self, stimuli: StimulusSet) -> None:
        damage = find_damage(stimuli, threads=self.reader.threads)
        if damage and not self.skip_unreadable:
            listing = "\n  ".join(f"{stimuli.names[i]}: {reason}" for i, reason in list(damage.items())[:20])
            raise ConfigError(
                f"{len(damage)} of {len(stimuli.names)} images can't be read:\n  {listing}\n"
                "Replace them, or give --skip-unreadable for rows of NaN in their place."
            )

    def _digests(self, stimuli: StimulusSet, count: int) -> np.ndarray:
        self.say(f"Comparing {count} images with those that were extracted.")
        return image_digests(stimuli, count, threads=self.reader.threads)

    def _list_unreadable(self, stimuli: StimulusSet, rows: list[int], path: Path) -> None:
        lines = [f"{stimuli.names[i]}: {why_unreadable(stimuli, i, self.reader.transform)}\n" for i in rows]
        with atomic(path) as part:
            part.write_text("".join(lines), encoding="utf-8")
        self.say(f"{len(lines)} images can't be read; their rows are NaN. They are listed in {path}")

    def _fill(self, stimuli: StimulusSet, file: FeatureFile) -> None:
        """Writes the missing rows; the next batch is computed while one is written."""
        if file.rows:
            self.say(f"Going on after {file.rows} images.")
        self.reader.progress(file.rows, len(stimuli.names))
        computed = stream(
            self.encoder, stimuli, self.reader, self._projections, pool=self.pool, compute=self.compute,
            start=file.rows,
        )  # fmt: skip
        for batch, values in computed:
            if batch.problems and not self.skip_unreadable:
                place, reason = next(iter(batch.problems.items()))
                raise ConfigError(
                    f"{stimuli.names[batch.first + place]} can't be read: {reason}\n"
                    "Rows of the images before it are kept. Replace it and give the same command to resume, "
                    "or start again with --skip-unreadable."
                )
            file.write(values, batch.sha256, list(batch.problems), first=batch.first)
            self.reader.progress(file.rows, len(stimuli.names))
