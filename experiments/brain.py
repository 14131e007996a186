"""Compares models with a set of brain data: every layer, region and subject, by published measures.

    python experiments/brain.py ipcl1 ipcl12 ipcl16 --data nsd:/data/nsd --subjects 1 2 5 7 --regions streams --out brain
    python experiments/brain.py ipcl1 --data arrays:betas.h5 --stimuli stimuli/ --measures encoding rsa --out brain

The folder then holds scores.csv (a row a model, layer, region, subject and split), scores.json (means, best layers,
differences between models, and the sha256 of weights, data and code), figures, and the page brain.html. The same command
goes on where it was stopped.
"""

import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from ipcl_jax.activations.stimuli import Reader
from ipcl_jax.brain.sources import Reading, open_brain
from ipcl_jax.commands.opening import THREADS, Preprocessing, open_model, progress_bar, run_command
from ipcl_jax.commands.running import command_line
from ipcl_jax.comparison.compare import Images, Model, Plan, compare
from ipcl_jax.comparison.folder import Folder
from ipcl_jax.comparison.table import Tables, to_csv, to_json
from ipcl_jax.errors import ConfigError, near_miss, require
from ipcl_jax.measures.options import MeasureOptions
from ipcl_jax.measures.registry import MEASURES, about_measure
from ipcl_jax.models.checks import check_layers
from ipcl_jax.report.brain_figures import draw_layers_by_region, draw_models
from ipcl_jax.report.brain_page import Comparison, write_brain_page
from ipcl_jax.report.brain_summary import ceiling, grouped, summarise, unique
from ipcl_jax.system.files import atomic


@dataclass(frozen=True)
class Brain:
    """Compares models with a set of brain data: every layer, region and subject, by published measures."""

    models: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Released models' names, PyTorch or safetensors files, or folders of runs."""
    data: str
    """objects72:, nsd:, algonauts2023:, things-fmri: or bold5000: and a folder as downloaded, or arrays:FILE."""
    subjects: tuple[str, ...] = ()
    """Subjects, by name or number; by default all that there are."""
    regions: tuple[str, ...] = ("all",)
    """Regions, or atlases of regions, such as streams; docs/brain.md has those of each data set, and its default."""
    stimuli: tuple[str, ...] = ()
    """Images of a data set that comes without them: a folder, files, a 'pattern*.png' or a list."""
    images: Images = "shared"
    """Images that all the subjects saw, each subject's own, or those that the data set keeps for tests."""
    layers: tuple[str, ...] = ("all",)
    """Layers, named as in the reference; `all` for every one."""
    measures: tuple[str, ...] = ("encoding",)
    """Measures; docs/measures.md says how they differ."""
    options: Annotated[MeasureOptions, tyro.conf.arg(name="")] = field(default_factory=MeasureOptions)
    """Of the measures."""
    reading: Annotated[Reading, tyro.conf.arg(name="")] = field(default_factory=Reading)
    """How the data set is read."""
    transform: Preprocessing = "stimulus"
    """Resize the shorter side to the model's size, or (validation) to 8/7 of it, before the centre is cropped."""
    size: int | None = None
    """Side of the cropped images in pixels; by default as in each model's training."""
    batch_size: int = 32
    """Images in a batch."""
    threads: int = THREADS
    """Threads that decode images."""
    memory: float = 4.0
    """GB of activations, and of responses, that are held at a time."""
    out: Path = Path("brain")
    """Folder to write; that of the same comparison goes on."""


def measure(options: Brain, console: Console) -> tuple[Tables, dict]:
    """Compares, and writes the folder; returns the tables and their description."""
    folder = Folder(options.out)
    folder.check()
    if unknown := [name for name in options.measures if name not in MEASURES]:
        raise ConfigError(f"--measures: no measure {unknown[0]!r}.{near_miss(unknown[0], MEASURES)}")
    for option in ("measures", "layers", "regions"):
        if not getattr(options, option):
            raise ConfigError(f"--{option} names none; give one or more, or leave the option out.")
    if not 0 < options.memory < math.inf:
        raise ConfigError(f"--memory is {options.memory}; it must be a number of GB above 0.")
    require("The figures", "brain", "matplotlib")
    models = open_models(options)
    data = open_brain(
        options.data, subjects=options.subjects, regions=options.regions, images=options.stimuli,
        reading=options.reading,
    )  # fmt: skip
    for note in data.notes:
        console.print(f"note: {note}", highlight=False, markup=False)
    plan = Plan(options.data, data, options.images, models, tuple(dict.fromkeys(options.measures)), options.options)
    reader = Reader(models[0].transform, options.batch_size, options.threads)
    with folder.locked():
        with progress_bar(console, "regions of layers") as progress:
            tables, description = compare(
                plan, folder, reader, memory=int(options.memory * 1e9), progress=lambda _, *counts: progress(*counts)
            )
        write(folder, tables, description, options, data.notes)
        folder.remove_responses()
    return tables, description


def open_models(options: Brain) -> tuple[Model, ...]:
    """Opens the models, and checks the layers.

    Raises:
        ConfigError: for none, for two of the same name, or for a layer that a model lacks.
    """
    found = []
    for given in options.models:
        opened = open_model(given, options.transform, options.size)
        every = opened.encoder.layer_names
        layers = every if options.layers == ("all",) else check_layers(options.layers, every)
        in_order = tuple(name for name in every if name in layers)
        found.append(Model(opened.encoder.name or Path(given).name, opened.encoder, opened.transform, in_order))
    names = [model.name for model in found]
    if not names:
        raise ConfigError("No models given; give names, files, or folders of runs.")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"Two models are named {twice[0]}; give each once, or rename one's file or folder.")
    return tuple(found)


def write(folder: Folder, tables: Tables, description: dict, options: Brain, notes: tuple[str, ...]) -> None:
    """Writes tables, figures and page, each atomically; the same tables give the same bytes."""

    def put(name: str, make: Callable[[Path], object]) -> None:
        with atomic(folder.path / name) as part:
            make(part)

    found = {"description": description, "notes": list(notes), **to_json(tables)}
    text = json.dumps(found, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    put("scores.csv", lambda path: path.write_text(to_csv(tables.scores), encoding="utf-8", newline=""))
    put("scores.json", lambda path: path.write_text(text, encoding="utf-8"))
    for name in description["measures"]:
        draw_layers_by_region(tables, name, folder.path / f"layers-{name}.png")
        if any(row.measure == name for row in tables.best):
            draw_models(tables, name, folder.path / f"models-{name}.png")
    subjects = description["subjects"]
    about = Comparison(
        command=command_line(),
        data=description["data"],
        images=max(one["images"] for one in subjects.values()),
        models={name: one["weights_sha256"] for name, one in description["models"].items()},
        files={name: one["responses_sha256"] for name, one in subjects.items()},
        code=description["code"],
        measures={name: about_measure(name) for name in description["measures"]},
        notes=notes,
    )
    put("brain.html", lambda path: write_brain_page(path, tables, about))


def show(result: tuple[Tables, dict], options: Brain, console: Console) -> None:
    """Prints each measure's best layers, averaged over subjects, and the files written."""
    tables, description = result
    for name in description["measures"]:
        rows = [row for row in tables.best if row.measure == name]
        if not rows:
            console.print(f"{name}: a best layer is chosen on other subjects, and there is one alone; see scores.csv.")
            continue
        regions = unique(row.region for row in rows)
        table = Table(f"{name}, best layer", *regions)
        found = grouped(rows, "model", "region")
        for model in description["models"]:
            known = [found.get((model, region)) for region in regions]
            table.add_row(model, *("–" if own is None else f"{summarise(own).score:.3f}" for own in known))
        bounds = [ceiling(row for row in rows if row.region == region) for region in regions]
        table.add_row("ceiling", *("–" if b is None else f"{b[0]:.3f} to {b[1]:.3f}" for b in bounds))
        console.print(table)
    path = Folder(options.out).path
    console.print(f"Wrote {path}: {', '.join(sorted(entry.name for entry in path.iterdir()))}", markup=False)


if __name__ == "__main__":
    sys.exit(run_command(Brain, measure, show))
