"""What the scripts that read models out have in common: the model, the images, and a bar while both meet."""

import os
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
from ipcl_jax.data.sources import Source, check_labelled, open_splits
from ipcl_jax.errors import ConfigError
from ipcl_jax.system.compilation import set_up_compiler
from ipcl_jax.system.console import make_console
from ipcl_jax.system.files import atomic, check_writable, expand_home
from ipcl_jax.zoo import MODELS

Preprocessing = Literal["stimulus", "validation"]


@dataclass(frozen=True)
class OpenedModel:
    """A model, and how images are made ready for it.

    Attributes:
        encoder: the model.
        transform: of images.
    """

    encoder: Encoder
    transform: Transform

    @property
    def published(self) -> dict[str, float | None]:
        """Its published ImageNet top-1 in percent, by read-out; empty for a model of one's own."""
        record = MODELS.get(self.encoder.name)
        return {"knn": record.knn, "linear": record.linear} if record else {}

    def features(
        self, source: Source, layers: Iterable[str], console: Console, *, threads: int, batch_size: int = 64,
        dtype: str = "float32",
    ) -> dict[str, Features]:  # fmt: skip
        """Layers of all images of a source, from the cache or with a progress bar."""
        with progress_bar(console, source.name) as progress:
            reader = Reader(self.transform, batch_size, threads, progress)
            return cached_features(self.encoder, source, layers, reader, dtype=dtype)


def open_model(model: str, transform: Preprocessing = "stimulus", size: int | None = None) -> OpenedModel:
    """A model by its name or path.

    Raises:
        ConfigError, CheckpointError, DownloadError: if there is none, or images of that size are too small.
    """
    encoder = open_encoder(model)
    size, smallest = size or encoder.size, SMALLEST_IMAGE[encoder.model.arch]
    if size < smallest:
        raise ConfigError(f"--size is {size} pixels; {encoder.model.arch} needs at least {smallest}.")
    return OpenedModel(encoder, make_transform(transform, size))


def open_both(data: Data, console: Console) -> tuple[Source, Source]:
    """The training and the held-out images of a source with labels; what a user should know of them is printed.

    Raises:
        ConfigError: if there are none, or they have no labels.
    """
    sources = open_splits(data)
    for note in dict.fromkeys(note for source in sources.values() for note in source.notes):
        console.print(f"warning: {note}", style="yellow", highlight=False)
    return check_labelled(sources["train"]), sources["val"]


class Images:
    """Features, labels and groups of some images: what can't be read is no one's neighbour and isn't asked."""

    def __init__(self, features: list[Features], labels: list[np.ndarray]):
        parts = [part.values for part in features]
        # One part may be larger than memory; two are put together.
        self.values = parts[0] if len(parts) == 1 else np.concatenate([part[:] for part in parts])
        self.readable = np.concatenate([part.readable for part in features])
        self.labels = np.concatenate(labels)
        self.used = self.readable & (self.labels >= 0)

    def queries(self) -> tuple[np.ndarray | h5py.Dataset, np.ndarray]:
        """Features and labels of the images that can be asked about."""
        if self.used.all():
            return self.values, self.labels
        return self.values[:][self.used], self.labels[self.used]


def images_of(model: OpenedModel, layer: str, options, console: Console, *sources: Source) -> Images:
    """A layer of all images of some sources.

    Args:
        model: the model.
        layer: its name.
        options: of the script: data.threads, dtype and batch_size count.
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
    return Images(found, [source.labels() for source in sources])


def run_command(kind: type, measure: Callable, show: Callable) -> int:
    """Parses a command line, measures, and shows what was found.

    Args:
        kind: dataclass of the options.
        measure: takes the options and a console.
        show: takes what was measured, the options and the console.

    Returns:
        The exit code; see `exit_codes`.
    """
    console = make_console()
    set_up_compiler()

    def work() -> None:
        options: Any = parse(kind)
        show(measure(options, console), options, console)

    return exit_code(work)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to fill, which gets its name once it is whole; nothing is left of it after an error."""
    with atomic(expand_home(out)) as part:
        part.mkdir()
        yield part


def check_new(out: Path) -> None:
    """Refuses a folder that is there already."""
    if expand_home(out).exists():
        raise ConfigError(f"--out {out} is there already; give another folder, or remove it.")
    check_writable(expand_home(out))


@contextmanager
def progress_bar(console: Console, title: str) -> Iterator:
    """A bar that appears once there is something to show; gives a function of how many are done, of how many."""
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
