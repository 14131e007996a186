"""Compares models on one page with pictures: read-outs, neighbours, maps of embeddings, filters, RDMs.

    python experiments/report.py ipcl1 runs/ipcl_smoke --data.source folder:/data/imagenet256 --out report
    python experiments/report.py ipcl16 runs/ipcl_smoke --data.source sample --k 20 --out report
    python experiments/report.py ipcl1 --data.source sample --k 20 --linear runs/linear-ipcl1 --out report

The folder then holds report.html, which needs no other file, and scores.json. Activations are cached, so that
a second report of the same models is quick.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console

from ipcl_jax.activations.encoder import Encoder
from ipcl_jax.activations.stimuli import Reader, SourceStimuli
from ipcl_jax.commands.opening import (
    THREADS,
    OpenedModel,
    Preprocessing,
    check_new,
    labelled_features,
    new_folder,
    open_labelled,
    open_model,
    progress_bar,
    run_command,
)
from ipcl_jax.commands.recipes import published as published_of_recipe
from ipcl_jax.config import Data
from ipcl_jax.data.sources import Source
from ipcl_jax.errors import ConfigError, require
from ipcl_jax.models.checks import check_layers
from ipcl_jax.readout.base import Rows
from ipcl_jax.readout.kernels import layer_kernels
from ipcl_jax.readout.knn import EXCLUDED, nearest, vote
from ipcl_jax.readout.rsa import to_rdm
from ipcl_jax.report.gallery import neighbour_pictures, read_images
from ipcl_jax.report.model_page import Findings, write_model_page
from ipcl_jax.run.folder import CONFIG
from ipcl_jax.run.history import History
from ipcl_jax.run.monitor import evenly_spaced
from ipcl_jax.system.files import expand_home, read_json
from ipcl_jax.zoo import MODELS

MIN_IMAGES = 8  # on the map
NEIGHBOURS = 5  # shown for each chosen image
THUMBNAIL = (96, 192)  # canvas of the pictures, in pixels


@dataclass(frozen=True)
class Report:
    """Compares models on one page with pictures: read-outs, neighbours, maps of embeddings, filters, RDMs."""

    models: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Released models' names, PyTorch or safetensors files, or folders of runs."""
    data: Data = field(default_factory=lambda: Data(threads=THREADS))
    """Images with labels."""
    layer: str | None = None
    """Layer of kNN, neighbours and map; by default each model's last one (l2norm if it has that)."""
    k: int = 200
    """Neighbours that vote."""
    temperature: float = 0.07
    """Divides similarities before the exponential."""
    linear: tuple[Path, ...] = ()
    """Folders of linear read-outs of these models (by linear.py), to show their scores."""
    layers: tuple[str, ...] = ()
    """Layers whose RDMs are drawn; by default six, from the first to the last."""
    chosen: tuple[int, ...] = ()
    """LockHeld-out images whose neighbours are shown, by their index from 0; by default six, evenly spaced."""
    shown: int = 300
    """Number of held-out images on the map and in RDMs, evenly spaced."""
    transform: Preprocessing = "stimulus"
    """Resize the shorter side to the model's size, or (validation) to 8/7 of it, before the centre is cropped."""
    size: int | None = None
    """Side of the cropped images in pixels; by default as in each model's training."""
    dtype: Literal["float32", "float16"] = "float32"
    """Type of the activations in the cache."""
    batch_size: int = 64
    """Images in a batch."""
    seed: int = 0
    """Seed of the map."""
    out: Path = Path("report")
    """Folder to write; it must not exist yet."""


def measure(options: Report, console: Console) -> list[Findings]:
    """Measures each model, and writes the folder; returns what the page shows of each model."""
    out = expand_home(options.out)
    check_new(out)
    train, held_out = open_labelled(options.data, console)
    linear = check(options, train, held_out)
    models = tuple(dict.fromkeys(options.models))
    found = [
        examine(model, title, train, held_out, linear, options, console)
        for model, title in zip(models, titles_of(models), strict=True)
    ]
    with new_folder(out) as part:
        write_model_page(part / "report.html", found, options.data.source, train.classes, len(train))
        scores = [findings.scores for findings in found]
        text = json.dumps(scores, indent=2, allow_nan=False)
        (part / "scores.json").write_text(text + "\n", encoding="utf-8")
    return found


def check(options: Report, train: Source, held_out: Source) -> dict[str, dict[str, float]]:
    """Raises ConfigError for options that can't be used; returns linear read-outs by the sha256 of the weights."""
    if not options.models:
        raise ConfigError("No models given; give names, files, or folders of runs.")
    if not 1 <= options.k <= len(train):
        raise ConfigError(
            f"--k is {options.k}; it must lie between 1 and {len(train)}, the images that can vote."
        )
    if not options.temperature > 0:
        raise ConfigError(f"--temperature is {options.temperature}; it must be above 0.")
    if not 0 <= options.seed < 2**32:
        raise ConfigError(f"--seed is {options.seed}; it must lie between 0 and {2**32 - 1}.")
    if min(options.shown, len(held_out)) < MIN_IMAGES:
        raise ConfigError(
            f"--shown is {options.shown}, of {len(held_out)} held-out images; a map takes {MIN_IMAGES} or more."
        )
    if wrong := [place for place in options.chosen if not 0 <= place < len(held_out)]:
        raise ConfigError(f"--chosen {wrong[0]} is none of the held-out images, 0 to {len(held_out) - 1}.")
    require("The map, and the drawings,", "brain", "sklearn", "matplotlib")
    linear: dict[str, dict[str, float]] = {}
    folders: dict[str, Path] = {}
    for folder in options.linear:
        digest, scores = read_linear(folder, options)
        linear[digest] = linear.get(digest, {}) | scores
        folders[digest] = folder
    for model in options.models:
        encoder = open_model(model, options.transform, options.size).encoder
        check_layers(tuple(filter(None, (options.layer, *options.layers))), encoder.layer_names)
        if linear:
            folders.pop(encoder.digest(), None)
    for folder in folders.values():
        raise ConfigError(f"--linear {folder} is the read-out of none of these models.")
    return linear


def read_linear(folder: Path, options: Report) -> tuple[str, dict[str, float]]:
    """Returns the sha256 of the weights that a linear read-out was trained on, and its last scores (`fc7_top1`)."""
    folder = expand_home(folder)
    try:
        config = read_json(folder / CONFIG)
        digest, source, layers = config["weights_sha256"], config["data"]["source"], config["layers"]
    except (ConfigError, KeyError, TypeError):
        raise ConfigError(f"--linear {folder} is not the folder of a linear read-out (linear.py).") from None
    if source != options.data.source:
        raise ConfigError(f"--linear {folder} is of other images: {source}, not {options.data.source}.")
    epochs = History(folder).read().epochs
    if not epochs:
        raise ConfigError(f"--linear {folder} has not measured anything yet.")
    names = [f"{layer}_{top}" for layer in layers for top in ("top1", "top5")]
    return digest, {name: epochs[-1][name] for name in names}


def titles_of(models: tuple[str, ...]) -> list[str]:
    """Returns the last part of each model's name or path; the full path if two would have the same title."""
    short = [Path(model).name or model for model in models]
    return [name if short.count(name) == 1 else model for name, model in zip(short, models, strict=True)]


def examine(
    model: str, title: str, train: Source, held_out: Source, linear: dict, options: Report, console: Console
) -> Findings:
    """Measures one model; returns everything that the page shows of it."""
    opened, path = open_model(model, options.transform, options.size), expand_home(model)
    encoder, digest = opened.encoder, opened.encoder.digest()
    layer = options.layer or encoder.layer_names[-1]
    references, tests = (
        labelled_features(opened, layer, options, console, source) for source in (train, held_out)
    )
    used = np.flatnonzero(tests.used)  # indices of images that can be read
    if len(used) < MIN_IMAGES:
        raise ConfigError(
            f"{len(used)} of {len(held_out)} held-out images can be read; a map takes {MIN_IMAGES} or more."
        )
    queries, labels = tests.queries()
    groups = np.zeros(len(used), int), np.where(references.used, 1, EXCLUDED)
    similarities, rows = nearest(queries, references.values, k=options.k, groups=groups)
    n_classes = len(train.classes)
    votes = jnp.asarray(similarities), jnp.asarray(references.labels[rows])
    ranked = vote(*votes, options.temperature, n_classes=n_classes)
    hits = np.asarray(ranked) == labels[:, None]  # [M, 5]
    total, right = (np.bincount(labels, weights, minlength=n_classes) for weights in (None, hits[:, 0]))
    chosen = np.flatnonzero(np.isin(used, options.chosen)) if options.chosen else evenly_spaced(len(used), 6)
    near = rows[chosen, :NEIGHBOURS]
    shown = evenly_spaced(len(used), options.shown)
    shown = shown[np.argsort(labels[shown], kind="stable")]  # sorted by class
    if unreadable := sorted(set(options.chosen) - set(used.tolist())):
        raise ConfigError(f"--chosen {unreadable[0]} can't be read: {held_out.describe(unreadable[0])}")
    trained_on, published = origin(path, opened)
    return Findings(
        title=title,
        about=repr(encoder).strip("<>").removeprefix("Encoder "),
        scores={
            "model": title, "trained_on": trained_on, "weights_sha256": digest, "layer": layer,
            "images": options.data.source, "transform": str(opened.transform), "k": options.k,
            "temperature": options.temperature, "references": int(references.used.sum()), "queries": len(used),
            "knn_top1": float(hits[:, 0].mean()), "knn_top5": float(hits.any(1).mean()),
            "by_class": {
                name: right[place] / total[place] for place, name in enumerate(train.classes) if total[place]
            },
            "linear": linear.get(digest, {}), "published": published,
            "knn_by_epoch": [
                [line["epoch"], line["knn_top1"]]
                for line in History(path).read().epochs
                if line.get("knn_top1") is not None
            ],
        },
        neighbours=neighbour_pictures(
            held_out, used[chosen], train, near, similarities[chosen, : near.shape[1]], canvas=THUMBNAIL
        ),
        points=tsne_map(rows_of(queries, shown), options.seed),
        thumbnails=read_images(held_out, used[shown], canvas=THUMBNAIL),
        labels=labels[shown],
        rdms=rdms_of(opened, SourceStimuli(held_out, used[shown]), options, console),
        categories=[train.classes[label] for label in labels[shown]],
        filters=first_kernel(encoder),
    )  # fmt: skip


def origin(path: Path, model: OpenedModel) -> tuple[str, dict[str, float | None]]:
    """Returns what a model was trained on, and its published scores in percent (for a run, those of its recipe)."""
    if model.encoder.name in MODELS:
        record = MODELS[model.encoder.name]
        words = (text for text in (record.trained_on, record.notes) if text not in ("", "–"))
        return ": ".join(words), model.published
    if not (path / CONFIG).is_file():
        return "", {}
    config = read_json(path / CONFIG)
    try:
        name, source = str(config["name"]), config["data"]["source"]
    except (KeyError, TypeError):
        return "", {}
    score = published_of_recipe(name)
    return f"{source}: {name}", {"knn": 100 * score} if score else {}


def rows_of(features: Rows, places: np.ndarray) -> np.ndarray:
    """Returns rows of features that may be on disk; h5py takes indices in ascending order only."""
    ascending = np.sort(places)
    return np.asarray(features[ascending])[np.searchsorted(ascending, places)]


def rdms_of(model: OpenedModel, stimuli: SourceStimuli, options: Report, console: Console) -> dict[str, np.ndarray]:
    """Computes RDMs (1 - r) of layers, `[N, N]` each."""
    blocks = [name for name in model.encoder.layer_names if "." not in name]
    layers = options.layers or tuple(blocks[index] for index in evenly_spaced(len(blocks), 6))
    with progress_bar(console, "RDMs") as progress:
        reader = Reader(model.transform, options.batch_size, options.data.threads, progress)
        kernels = layer_kernels(model.encoder, stimuli, reader, layers, ["correlation"])
    return {layer: to_rdm(kernels[layer]["correlation"], "correlation") for layer in layers}


def tsne_map(features: np.ndarray, seed: int) -> np.ndarray:
    """Returns a two-dimensional map `[N, 2]` of features `[N, ...]`, by t-SNE of cosine distances.

    Source: van der Maaten & Hinton 2008, as scikit-learn computes it.
    """
    from sklearn.manifold import TSNE

    flat = np.asarray(features, np.float32).reshape(len(features), -1)
    perplexity = min(30, (len(flat) - 1) / 3)
    return TSNE(perplexity=perplexity, metric="cosine", init="random", random_state=seed).fit_transform(flat)


def first_kernel(encoder: Encoder) -> np.ndarray:
    """Returns the filters of the first convolution, `[h, w, 3, N]`."""
    kernels = (
        np.asarray(layer["kernel"]) for layer in encoder.variables["params"].values() if "kernel" in layer
    )
    return next(kernel for kernel in kernels if kernel.ndim == 4 and kernel.shape[2] == 3)


def show(found: list[Findings], options: Report, console: Console) -> None:
    """Prints the scores and the path of the page."""
    for findings in found:
        scores = findings.scores
        console.print(
            f"{findings.title}: kNN of {scores['layer']} {scores['knn_top1']:.1%}, top-5 {scores['knn_top5']:.1%}"
        )
    console.print(f"Report: {expand_home(options.out) / 'report.html'}")


if __name__ == "__main__":
    sys.exit(run_command(Report, measure, show))
