"""Checks the paper's published numbers: those of the released weights on your data beside the published ones.

    python experiments/reproduce.py
    python experiments/reproduce.py --imagenet folder:/data/imagenet --rows s1/knn/ipcl1 's1/linear/*'
    python experiments/reproduce.py --objects72 /data/ExploringObjects --stimuli /data/72objects --rows 'fig3/*'

The first lists all rows. docs/paper.md says what each needs, where to get it, and the hours that it takes. The exit code
is 0 if all rows that were computed are within their tolerances, and 1 if one is not. The same command goes on where it
was stopped.
"""

import functools
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from ipcl_jax.activations.provenance import code_version
from ipcl_jax.activations.stimuli import Reader
from ipcl_jax.brain.sources import Reading, open_brain
from ipcl_jax.commands.main import run
from ipcl_jax.commands.opening import (
    THREADS,
    OpenedModel,
    Preprocessing,
    open_labelled,
    open_model,
    progress_bar,
)
from ipcl_jax.commands.running import exit_code, parse
from ipcl_jax.comparison.compare import Model, Plan, compare
from ipcl_jax.comparison.table import Tables
from ipcl_jax.config import Data
from ipcl_jax.data.base import digest
from ipcl_jax.errors import ConfigError
from ipcl_jax.measures.options import MeasureOptions
from ipcl_jax.models.checks import check_layers
from ipcl_jax.reproduction.brain import Share, Value, brain_value
from ipcl_jax.reproduction.published import FACES, REGIONS, ROWS, SETS, Row, choose_rows, read_published
from ipcl_jax.reproduction.results import COLUMNS, GrowingFolder, Kept, Result, to_json
from ipcl_jax.run.history import read_metrics
from ipcl_jax.system.compilation import set_up_compiler
from ipcl_jax.system.console import make_console
from ipcl_jax.system.files import atomic, check_writable, expand_home
from ipcl_jax.system.locks import LockHeld, folder_lock
from ipcl_jax.zoo import MODELS

MEASURE, RESULT = "konkle2022", "reproduction.json"
OPTIONS = {"imagenet": "--imagenet", "inanimate": "--objects72", "orientation": "--orientation"}


@dataclass(frozen=True)
class KNN:
    """The kNN read-out; defaults are the paper's."""

    k: int = 200
    """Neighbours that vote."""
    temperature: float = 0.07
    """Divides similarities before the exponential."""
    transform: Preprocessing = "stimulus"
    """Preprocessing, which the PyTorch release takes from the model: the shorter side is resized to 224."""


@dataclass(frozen=True)
class Linear:
    """The linear read-out; defaults are the paper's."""

    layer: str = "fc7"
    """Layer that is read out."""
    epochs: int = 10
    """Passes over the training images."""
    batch_size: int = 256
    """Images in a batch."""
    lr: float = 30.0
    """Highest learning rate."""


@dataclass(frozen=True)
class Reproduce:
    """Checks the paper's published numbers: those of the released weights on your data beside the published ones."""

    rows: tuple[str, ...] = ("*",)
    """Rows to compute, by id or pattern. Those whose data is not given are listed as not run."""
    imagenet: str | None = None
    """ImageNet with labels, such as folder:/data/imagenet or tfds:imagenet2012."""
    objects72: Path | None = None
    """The Inanimate set: the folder or file of ExploringObjectsData_SECTORS.mat."""
    stimuli: tuple[str, ...] = ()
    """Images of the Inanimate set: a folder, files, a 'pattern*.png' or a list."""
    orientation: str | None = None
    """The Orientation set, such as arrays:orientation.h5, with the regions EarlyV, pOTC and aOTC."""
    orientation_stimuli: tuple[str, ...] = ()
    """Images of the Orientation set."""
    share: Share = "variance"
    """Explained share: the squared ratio of r and noise ceiling, or (correlation) the ratio. The paper doesn't say."""
    diets: Literal["all", "without-faces"] = "all"
    """Whether the model of VGGFace2 counts in the mean difference between diets. The paper doesn't say."""
    layers: tuple[str, ...] = ("all",)
    """Layers that are compared with brains; `all` for every one."""
    knn: KNN = field(default_factory=KNN)
    linear: Linear = field(default_factory=Linear)
    options: Annotated[MeasureOptions, tyro.conf.arg(name="")] = field(default_factory=MeasureOptions)
    """Of the measure konkle2022."""
    min_reliability: float = 0.3
    """Voxels of the Inanimate set are kept if their reliability is above this, as in the lab's code; -1 keeps all."""
    published: Path | None = None
    """JSON file with other numbers to compare with, by id: numbers, or {"published": 38.4, "tolerance": 0.1}."""
    threads: int = THREADS
    """Threads that decode images."""
    memory: float = 4.0
    """GB of activations, and of brain responses, that are held at a time."""
    out: Path = Path("reproduction")
    """Folder to write: reproduction.json, and what a command that was stopped goes on with."""


def reproduce(options: Reproduce, console: Console) -> int:
    """Computes and prints the rows; returns the exit code.

    Raises:
        ConfigError: for options or data that are wrong or, for a row that is asked for by its id, missing.
        SystemExit: with the code of `knn.py` or `linear.py` if that ends early; it has said why.
    """
    known = read_published(options.published) if options.published else ROWS
    rows, by_name = choose_rows(options.rows, known)
    lacking = {row.id: tuple(OPTIONS[name] for name in row.needs if not data_given(options)[name]) for row in rows}
    if named := [row for row in rows if row.id in by_name and lacking[row.id]]:
        raise ConfigError(f"--rows: {named[0].id} needs {' and '.join(lacking[named[0].id])}; see docs/paper.md.")
    results = {row.id: Result(row, None, missing=lacking[row.id]) for row in rows if lacking[row.id]}
    possible = [row for row in rows if row.id not in results]
    if not options.memory > 0:
        raise ConfigError(f"--memory is {options.memory}; it must be above 0.")
    if not possible:
        show(results.values(), console)
        console.print("Nothing was computed; docs/paper.md says where the data can be had.")
        return 0
    out = expand_home(options.out)
    with locked(out):
        for row, found in compute(possible, options, out, console):
            results[row.id] = result = Result(row, found.value, found.details)
            _, ours, published, difference, verdict = result.cells()
            console.print(f"{row.id}: {ours}, published {published}, {difference}: {verdict}", highlight=False)
        ordered = [results[row.id] for row in rows]
        with atomic(out / RESULT) as part:
            part.write_text(to_json(ordered, settings_of(options)), encoding="utf-8")
    show(ordered, console)
    off = [result.row.id for result in ordered if result.verdict == "off"]
    counts = {verdict: sum(result.verdict == verdict for result in ordered) for verdict in ("ok", "off", "not run")}
    console.print(f"{', '.join(f'{count} {verdict}' for verdict, count in counts.items())}. Wrote {out / RESULT}")
    if off:
        console.print(f"Off: {', '.join(off)}")
    return int(bool(off))


def data_given(options: Reproduce) -> dict[str, str]:
    """Returns the data that is given, as it is opened, by what rows need; empty if it isn't given."""
    return {
        "imagenet": options.imagenet or "",
        "inanimate": f"objects72:{options.objects72}" if options.objects72 else "",
        "orientation": options.orientation or "",
    }


def settings_of(options: Reproduce) -> dict:
    """Returns the options that results depend on, JSON-compatible."""
    found = asdict(options)
    for name in ("rows", "out", "threads", "memory", "published"):
        del found[name]
    return json.loads(json.dumps(found, default=str)) | {"code": code_version()}


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Creates the folder, and keeps other processes out of it.

    Raises:
        ConfigError: if it can't be written, holds other files, or is used by another process.
    """
    check_writable(out)
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; give another folder.")
    known = {RESULT, "rows", "brain", "linear"}
    if out.is_dir() and (others := sorted({path.name for path in out.iterdir()} - known)):
        raise ConfigError(f"--out {out} holds other files, such as {others[0]}; give another folder.")
    out.mkdir(parents=True, exist_ok=True)
    try:
        with folder_lock(out, wait=False):
            yield
    except LockHeld:
        raise ConfigError(f"Another process writes {out}; wait for it.") from None


def compute(rows: list[Row], options: Reproduce, out: Path, console: Console) -> Iterator[tuple[Row, Value]]:
    """Computes rows, those that take least time first; yields each with its value."""
    brain = [row for row in rows if set(row.needs) <= set(SETS)]
    tables = {}
    for data in SETS:
        if needed := [row for row in brain if data in row.needs]:
            names = [name for name in MODELS if any(name in row.models for row in needed)]
            tables[data] = compare_set(data, names, options, out / "brain" / data, console)
    leave_out = (FACES,) if options.diets == "without-faces" else ()
    for row in brain:
        yield row, brain_value(row, tables, share=options.share, leave_out=leave_out)
    sources = functools.cache(lambda: open_labelled(Data(source=str(options.imagenet)), console))
    for row in rows:
        if row.quantity == "knn":
            images = [source.identity() for source in sources()]
            yield row, knn_value(row, images, options, out, console)
    for row in rows:
        if row.quantity == "linear":
            yield row, linear_value(row, options, out)


def compare_set(data: str, names: Iterable[str], options: Reproduce, path: Path, console: Console) -> Tables:
    """Compares models with one set of brain data, and keeps every layer's scores in a folder.

    Args:
        data: `orientation` or `inanimate`.
        names: of released models; with none, the tables hold the noise ceilings alone.
        options: of the command.
        path: of the folder.
        console: for a progress bar and notes.

    Raises:
        ConfigError, InputError: as `open_brain` and `compare`.
    """
    spec = data_given(options)[data]
    if data == "inanimate":
        reading = Reading(min_reliability=options.min_reliability)
        opened = open_brain(spec, regions=REGIONS, images=options.stimuli, reading=reading)
    else:
        opened = open_brain(spec, regions=REGIONS, images=options.orientation_stimuli)
    for note in opened.notes:
        console.print(f"note: {note}", highlight=False)
    # Tables hold ceilings beside scores; the smallest layer of the untrained model is scored fastest.
    models = [as_compared(open_model(name), name, options.layers) for name in names] or [
        as_compared(open_model("ipcl16"), "ceiling", ("l2norm",))
    ]
    plan = Plan(spec, opened, "shared", tuple(models), (MEASURE,), options.options)
    folder = GrowingFolder(path)
    with folder.locked(), progress_bar(console, f"{data}, layers") as bar:
        tables, _ = compare(
            plan, folder, Reader(models[0].transform, threads=options.threads), memory=int(options.memory * 1e9),
            progress=lambda title, done, total: bar(done, total),
        )  # fmt: skip
        folder.remove_responses()
    return tables


def as_compared(opened: OpenedModel, name: str, layers: tuple[str, ...]) -> Model:
    """Returns a model with the layers that are compared, in order along the network."""
    every = opened.encoder.layer_names
    chosen = every if layers == ("all",) else check_layers(layers, every)
    return Model(name, opened.encoder, opened.transform, tuple(layer for layer in every if layer in chosen))


def knn_value(row: Row, images: list[str], options: Reproduce, out: Path, console: Console) -> Value:
    """Computes a row by `knn.py`, or returns what was kept of the same images, weights, settings and code."""
    (name,) = row.models
    key = {
        "weights_sha256": open_model(name).encoder.digest(), "images": [digest([identity]) for identity in images], "code": code_version(),
        "readout": code_version(("readout/base.py", "readout/knn.py")), **asdict(options.knn),
    }  # fmt: skip
    kept = Kept(out / "rows")
    if found := kept.read(row, key):
        return Value(*found)
    file = out / "rows" / f"{name}.knn.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    given = {
        "--data.source": options.imagenet, "--data.threads": options.threads, "--k": options.knn.k,
        "--temperature": options.knn.temperature, "--transform": options.knn.transform, "--json": file,
    }  # fmt: skip
    run_script("knn", name, given)
    details = json.loads(file.read_text(encoding="utf-8"))
    value = Value(100 * details["scores"][0]["top1"], details)
    kept.write(row, key, *value)
    file.unlink()
    return value


def linear_value(row: Row, options: Reproduce, out: Path) -> Value:
    """Computes a row by `linear.py`, whose folder goes on, and is bound to images, weights and settings itself."""
    (name,) = row.models
    settings, folder = options.linear, out / "linear" / name
    given = {
        "--layers": settings.layer, "--data.source": options.imagenet, "--data.threads": options.threads,
        "--epochs": settings.epochs, "--batch-size": settings.batch_size, "--optim.lr": settings.lr, "--out": folder,
    }  # fmt: skip
    run_script("linear", name, given)
    scores = [line for line in read_metrics(folder)[1] if f"{settings.layer}_top1" in line]
    last = scores[-1]
    names = ("epoch", f"{settings.layer}_top1", f"{settings.layer}_top5")
    return Value(100 * last[f"{settings.layer}_top1"], {name: last[name] for name in names})


def run_script(script: str, model: str, given: Mapping[str, object]) -> None:
    """Runs another script in this process.

    Raises:
        SystemExit: with its exit code if that isn't 0.
    """
    arguments = [str(part) for pair in given.items() for part in pair]
    if code := run(script, model, *arguments):
        raise SystemExit(code)


def show(results: Iterable[Result], console: Console) -> None:
    """Prints the table, and what rows that weren't run need."""
    results = list(results)
    table = Table(box=SIMPLE, padding=(0, 1))
    for place, title in enumerate(COLUMNS):
        table.add_column(title, no_wrap=not place)
    for result in results:
        table.add_row(*result.cells())
    console.print(table)
    for missing, count in Counter(result.missing for result in results if result.missing).items():
        console.print(f"{count} rows not run, which need {' and '.join(missing)}.", highlight=False)


def main() -> int:
    """Runs the command line; returns the exit code."""
    console = make_console()
    set_up_compiler()
    return exit_code(lambda: reproduce(parse(Reproduce), console))


if __name__ == "__main__":
    sys.exit(main())
