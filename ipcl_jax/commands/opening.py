"""Helpers of the scripts that measure models: opening a model and images, computing features, a progress bar."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ipcl_jax.activations.cache import Features, cached_features
from ipcl_jax.activations.encoder import Encoder
from ipcl_jax.activations.preprocess import Transform, make_transform
from ipcl_jax.activations.stimuli import Reader
from ipcl_jax.commands.running import exit_code, parse
from ipcl_jax.config import SMALLEST_IMAGE, Data
from ipcl_jax.conversion import open_encoder
from ipcl_jax.data.sources import Source, check_labelled, distinct_notes, open_splits
from ipcl_jax.errors import ConfigError
from ipcl_jax.system.compilation import set_up_compiler
from ipcl_jax.system.console import make_console
from ipcl_jax.system.files import atomic, check_writable, expand_home
from ipcl_jax.zoo import MODELS

Preprocessing = Literal["stimulus", "validation"]


@dataclass(frozen=True)
class OpenedModel:
    """A model and the preprocessing of its images.

    Attributes:
        encoder: the model.
        transform: resizes, crops and normalises images.
    """

    encoder: Encoder
    transform: Transform

    @property
    def published(self) -> dict[str, float | None]:
        """Published ImageNet top-1 in percent by read-out (`knn`, `linear`); empty if it isn't a released model."""
        record = MODELS.get(self.encoder.name)
        return {"knn": record.knn, "linear": record.linear} if record else {}

    def features(
        self, source: Source, layers: Iterable[str], console: Console, *, threads: int, batch_size: int = 64,
        dtype: str = "float32",
    ) -> dict[str, Features]:  # fmt: skip
        """Returns layers of all images of a source, from the cache or computed with a progress bar."""
        with progress_bar(console, source.name) as progress:
            reader = Reader(self.transform, batch_size, threads, progress)
            return cached_features(self.encoder, source, layers, reader, dtype=dtype)


def open_model(model: str, transform: Preprocessing = "stimulus", size: int | None = None) -> OpenedModel:
    """Opens a model by its name or path.

    Raises:
        ConfigError, CheckpointError, DownloadError: if it can't be opened, or images of that size are too small.
    """
    encoder = open_encoder(model)
    size, smallest = size or encoder.size, SMALLEST_IMAGE[encoder.model.arch]
    if size < smallest:
        raise ConfigError(f"--size is {size} pixels; {encoder.model.arch} needs at least {smallest}.")
    return OpenedModel(encoder, make_transform(transform, size))


def open_labelled(data: Data, console: Console) -> tuple[Source, Source]:
    """Opens the training and the held-out images of a source with labels; prints notes on them as warnings.

    Raises:
        ConfigError: if there are none, or they have no labels.
    """
    sources = open_splits(data)
    for note in distinct_notes(sources):
        console.print(f"warning: {note}", style="yellow", highlight=False)
    return check_labelled(sources["train"]), sources["val"]


class LabelledFeatures:
    """Features of one layer and labels of the images of one source or more.

    Attributes:
        values: `[N, ...]` features; on disk if there is one source.
        readable: `[N]` whether the image can be read.
        labels: `[N]` classes, int from 0; -1 for none.
        used: `[N]` whether the image can be read and has a class; others are neither queries nor references.
    """

    def __init__(self, features: list[Features], labels: list[np.ndarray]):
        parts = [part.values for part in features]
        # The features of one source may be larger than memory; those of several are concatenated in memory.
        self.values = parts[0] if len(parts) == 1 else np.concatenate([part[:] for part in parts])
        self.readable = np.concatenate([part.readable for part in features])
        self.labels = np.concatenate(labels)
        self.used = self.readable & (self.labels >= 0)

    def queries(self) -> tuple[np.ndarray | h5py.Dataset, np.ndarray]:
        """Returns features and labels of the images that are used."""
        if self.used.all():
            return self.values, self.labels
        return self.values[:][self.used], self.labels[self.used]


def labelled_features(
    model: OpenedModel, layer: str, options, console: Console, *sources: Source
) -> LabelledFeatures:
    """Returns a layer of all images of some sources, with their labels.

    Args:
        model: the model.
        layer: its name.
        options: of the script, whose data.threads, dtype and batch_size are used.
        console: for the progress bar.
        sources: of the images.
    """
    found = [
        model.features(
            source, [layer], console, threads=options.data.threads, dtype=options.dtype,
            batch_size=options.batch_size,
        )[layer]
        for source in sources
    ]  # fmt: skip
    return LabelledFeatures(found, [source.labels() for source in sources])


def run_command(kind: type, measure: Callable, show: Callable) -> int:
    """Parses a command line, measures, and prints the result.

    Args:
        kind: dataclass of the options.
        measure: `options, console -> result`.
        show: `result, options, console -> None`, prints the result.

    Returns:
        The exit code; see `running.exit_code`. 130 after Ctrl-C.
    """
    console = make_console()
    set_up_compiler()

    def work() -> None:
        options: Any = parse(kind)
        show(measure(options, console), options, console)

    try:
        return exit_code(work)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Gives a temporary folder that is renamed to `out` at the end, and removed after an error."""
    with atomic(expand_home(out)) as part:
        part.mkdir()
        yield part


def check_new(out: Path) -> None:
    """Raises ConfigError if `out` exists or can't be written."""
    if expand_home(out).exists():
        raise ConfigError(f"--out {out} is there already; give another folder, or remove it.")
    check_writable(expand_home(out))


@contextmanager
def progress_bar(console: Console, title: str) -> Iterator:
    """Shows a progress bar; gives a function `done, total -> None`, whose first call makes the bar appear."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = None

        def show(done: int, total: int) -> None:
            nonlocal task
            if task is None:
                task = bar.add_task(title, total=total)
            bar.update(task, completed=done)

        yield show


THREADS = os.cpu_count() or 1
