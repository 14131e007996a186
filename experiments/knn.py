"""k-nearest-neighbour read-out: predicts the class of an image from the classes of the most similar images.

    python experiments/knn.py ipcl1 --layer l2norm --data.source folder:/data/imagenet256
    python experiments/knn.py runs/ipcl_smoke --data.source sample --k 10 50 --temperature 0.07 0.2
    python experiments/knn.py ipcl16 --data.source sample --protocol leave-one-out --k 20

Activations are cached, so that a second read-out of the same layer is quick.
"""

import functools
import json
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from ipcl_jax.commands.opening import (
    THREADS,
    Preprocessing,
    labelled_features,
    open_labelled,
    open_model,
    run_command,
)
from ipcl_jax.config import Data
from ipcl_jax.errors import ConfigError
from ipcl_jax.models.checks import check_layers
from ipcl_jax.readout.knn import EXCLUDED, Normalize, Score, knn_scores, stratified_folds
from ipcl_jax.system.files import atomic, check_writable, expand_home


@dataclass(frozen=True)
class KNN:
    """k-nearest-neighbour read-out: predicts the class of an image from the classes of the most similar images."""

    model: Annotated[str, tyro.conf.Positional]
    """A released model's name, a PyTorch or safetensors file, or the folder of a run."""
    layer: str | None = None
    """Layer, named as in the reference; by default the last one (l2norm, for a model with one)."""
    data: Data = field(default_factory=lambda: Data(threads=THREADS))
    """Images with labels."""
    k: tuple[int, ...] = (200,)
    """Neighbours that vote; several are scored in one pass."""
    temperature: tuple[float, ...] = (0.07,)
    """Divides similarities before the exponential; several are scored in one pass."""
    normalize: Normalize = "all"
    """`all` scales an image's features to unit length; `channels` scales them at each position of a convolutional
    layer, as the reference does."""
    protocol: Literal["held-out", "leave-one-out", "folds"] = "held-out"
    """`held-out`: training images vote for held-out images. The others use all images of the source, and the
    neighbours of an image are all others, or those of other folds."""
    folds: int = 5
    """Number of folds, stratified by class."""
    repeats: int = 10
    """Random divisions into folds, whose scores are averaged."""
    seed: int = 0
    """Seed of the folds."""
    transform: Preprocessing = "stimulus"
    """Resize the shorter side to the model's size, or (validation) to 8/7 of it, before the centre is cropped."""
    size: int | None = None
    """Side of the cropped images in pixels; by default as in the model's training."""
    dtype: Literal["float32", "float16"] = "float32"
    """Type of the activations in the cache."""
    batch_size: int = 64
    """Images in a batch."""
    json: Path | None = None
    """File to write the scores to."""


def measure(options: KNN, console: Console) -> dict:
    """Computes the scores; returns them with the model, layer and images that they were measured on."""
    if options.json:
        check_writable(expand_home(options.json), "give another --json")
    model = open_model(options.model, options.transform, options.size)
    names = model.encoder.layer_names
    (layer,) = check_layers((options.layer or names[-1],), names)
    train, held_out = open_labelled(options.data, console)
    _check(options, len(train) + (len(held_out) if options.protocol != "held-out" else 0))

    features = functools.partial(labelled_features, model, layer, options, console)
    score = functools.partial(
        knn_scores, n_classes=len(train.classes), k=options.k, temperature=options.temperature,
        normalize=options.normalize,
    )  # fmt: skip
    if options.protocol == "held-out":
        references, tests = features(train), features(held_out)
        queries, labels = tests.queries()
        two_groups = np.zeros(len(queries), int), np.where(references.used, 1, EXCLUDED)
        runs = [score(queries, labels, references.values, references.labels, groups=two_groups)]
    else:
        references = features(train, held_out)
        queries, labels = references.queries()
        runs = []
        for repeat in range(options.repeats if options.protocol == "folds" else 1):
            groups = np.arange(len(labels))
            if options.protocol == "folds":
                groups = stratified_folds(labels, options.folds, seed=options.seed + repeat)
            runs.append(score(queries, labels, queries, labels, groups=(groups, groups)))
    return {
        "model": model.encoder.name, "weights_sha256": model.encoder.digest(), "layer": layer,
        "images": options.data.source, "classes": len(train.classes), "protocol": options.protocol,
        "normalize": options.normalize, "transform": str(model.transform),
        "references": int(references.used.sum()), "queries": len(labels),
        "unreadable": int((~references.readable).sum()),
        "published": model.published.get("knn"), "scores": _summary(runs),
    }  # fmt: skip


def _check(options: KNN, total: int) -> None:
    if not options.k or not options.temperature:
        raise ConfigError("Give at least one --k and one --temperature.")
    if options.protocol == "folds" and not 2 <= options.folds <= total:
        raise ConfigError(
            f"--folds is {options.folds}; it must lie between 2 and the number of images, {total}."
        )
    if options.protocol == "folds" and options.repeats < 1:
        raise ConfigError(f"--repeats is {options.repeats}; it must be 1 or more.")
    voters = {"held-out": total, "leave-one-out": total - 1}.get(
        options.protocol, total - -(-total // options.folds)
    )
    if wrong := [k for k in options.k if not 1 <= k <= voters]:
        raise ConfigError(f"--k is {wrong[0]}; it must lie between 1 and {voters}, the images that can vote.")
    if wrong_tau := [tau for tau in options.temperature if not 0 < tau < float("inf")]:
        raise ConfigError(f"--temperature is {wrong_tau[0]}; it must be above 0.")


def _summary(runs: list[list[Score]]) -> list[dict]:
    """Averages the scores of each k and temperature over repeats; adds the standard deviation, `top1_sd`."""
    found = []
    for repeats in zip(*runs, strict=True):
        mean = {name: statistics.mean(getattr(score, name) for score in repeats) for name in ("top1", "top5")}
        found.append(repeats[0]._asdict() | mean)
        if len(repeats) > 1:
            found[-1]["top1_sd"] = statistics.stdev(score.top1 for score in repeats)
    return found


def show(found: dict, options: KNN, console: Console) -> None:
    """Prints the scores, and writes them to a file if `--json` is given."""
    published = f", published on ImageNet: {found['published']} %" if found["published"] else ""
    console.print(
        f"{found['model'] or 'model'}, {found['layer']}: {found['queries']:,} images tested, {found['references']:,} "
        f"vote, {found['classes']} classes (chance {1 / found['classes']:.1%}){published}"
    )
    if found["unreadable"]:
        console.print(f"{found['unreadable']} images can't be read and are left out.")
    table = Table("K", "temperature", "top-1", "top-5")
    for score in found["scores"]:
        spread = f" ± {score['top1_sd']:.1%}" if "top1_sd" in score else ""
        table.add_row(
            str(score["k"]),
            f"{score['temperature']:g}",
            f"{score['top1']:.1%}{spread}",
            f"{score['top5']:.1%}",
        )
    console.print(table)
    if options.json:
        with atomic(expand_home(options.json)) as part:
            part.write_text(json.dumps(found, indent=2, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(run_command(KNN, measure, show))
