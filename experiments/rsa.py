"""Compares a model's layers with brain data or another model: RDMs, RSA, voxel-wise encoding, CKA.

    python experiments/rsa.py ipcl16 sample --layers conv_block_5 fc7 l2norm --out rsa
    python experiments/rsa.py ipcl1 stimuli/ --brain rdms.h5 --bootstrap 1000 --out rsa
    python experiments/rsa.py ipcl1 stimuli/ --responses betas.mat --and ipcl16 --out rsa

`--brain` compares RDMs (RSA), `--responses` predicts voxels (encoding) and compares RDMs of the predictions
(voxel-encoding RSA), `--and` compares the layers of two models (CKA). The folder then holds rdms.h5,
scores.json, and pictures of both.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import h5py
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from ipcl_jax.activations.damage import find_damage
from ipcl_jax.activations.stimuli import Reader, StimulusSet, open_stimuli
from ipcl_jax.brain.rdms import read_rdms
from ipcl_jax.brain.responses import MeasuredResponses, read_responses
from ipcl_jax.commands.opening import (
    THREADS,
    OpenedModel,
    Preprocessing,
    check_new,
    new_folder,
    open_model,
    progress_bar,
    run_command,
)
from ipcl_jax.errors import ConfigError
from ipcl_jax.models.checks import check_layers
from ipcl_jax.readout.kernels import Metric, kernel_of, layer_kernels
from ipcl_jax.readout.ridge import encode, reliability_ceiling, varying_mean, versa
from ipcl_jax.readout.rsa import (
    Comparison,
    check_comparison,
    compare_rdms,
    kernel_alignment,
    rdm,
    to_rdm,
    upper,
)
from ipcl_jax.report.rdm_figures import draw_alignment, draw_layers, draw_rdms
from ipcl_jax.system.files import expand_home

MIN_IMAGES = 8


@dataclass(frozen=True)
class RSA:
    """Compares a model's layers with brain data or another model: RDMs, RSA, voxel-wise encoding, CKA."""

    model: Annotated[str, tyro.conf.Positional]
    """A released model's name, a PyTorch or safetensors file, or the folder of a run."""
    images: Annotated[tuple[str, ...], tyro.conf.Positional]
    """A folder, files, a 'pattern*.png', a list in a text file, FILE.h5:DATASET[rows], tfds:NAME, or sample."""
    layers: tuple[str, ...] = ("all",)
    """Layers, named as in the reference; `all` for every one."""
    metric: Metric = "correlation"
    """Dissimilarity of two images in a layer."""
    brain: str | None = None
    """Measured RDMs, FILE or FILE:NAME (.h5, .npz, .mat)."""
    responses: str | None = None
    """Measured responses, FILE or FILE:NAME: [N, V], [R, N, V], or a group with a subject in each array."""
    method: Comparison = "spearman"
    """Comparison of RDMs."""
    bootstrap: int = 0
    """Bootstrap samples of subjects and stimuli for the bars' uncertainty; 0 for none."""
    folds: int = 5
    """Folds of the images in encoding, each predicted from the others; 3 images or more in each."""
    also: Annotated[str | None, tyro.conf.arg(name="and")] = None
    """A second model, whose layers of the same names are compared with the first one's by CKA."""
    transform: Preprocessing = "stimulus"
    """Resize the shorter side to the model's size, or (validation) to 8/7 of it, before the centre is cropped."""
    size: int | None = None
    """Side of the cropped images in pixels; by default as in the model's training."""
    split: Literal["val", "train"] = "val"
    """Split of a TFDS dataset or the sample."""
    dir: str | None = None
    """Folder of TFDS data."""
    batch_size: int = 32
    """Images in a batch."""
    threads: int = THREADS
    """Threads that decode images."""
    seed: int = 0
    """Seed of the bootstrap, the folds and the halves of noise ceilings."""
    out: Path = Path("rsa")
    """Folder to write; it must not exist yet."""


def kernels_of(
    model: OpenedModel,
    stimuli: StimulusSet,
    layers: tuple[str, ...],
    kinds: set,
    options: RSA,
    console: Console,
) -> dict:
    """Computes kernels `[N, N]` of each layer, by kind."""
    with progress_bar(console, model.encoder.name or "model") as progress:
        reader = Reader(model.transform, options.batch_size, options.threads, progress)
        return layer_kernels(model.encoder, stimuli, reader, layers, sorted(kinds))


def rsa_scores(rdms: dict[str, np.ndarray], measured: np.ndarray, options: RSA) -> dict:
    """Returns RSA scores of each layer, and the noise ceiling."""
    found = compare_rdms(
        rdms, measured, method=options.method, bootstrap=options.bootstrap, seed=options.seed
    )
    return {
        "method": options.method, "scores": found.scores, "sem": found.sem, "ceiling": found.ceiling,
        "by_subject": {name: values.tolist() for name, values in found.by_subject.items()},
    }  # fmt: skip


def response_scores(linear: dict[str, np.ndarray], responses: MeasuredResponses, options: RSA) -> tuple[dict, dict]:
    """Returns scores of encoding and of voxel-encoding RSA: of each layer and subject, and the noise ceilings."""
    subjects, names = list(responses.subjects.values()), list(responses.subjects)
    encoding = {
        layer: [
            float(encode(kernel, one, n_folds=options.folds, seed=options.seed).mean()) for one in subjects
        ]
        for layer, kernel in linear.items()
    }
    ceilings = [voxels.mean() for voxels in map(reliability_ceiling, subjects) if voxels is not None]
    ceiling = float(np.mean(ceilings)) if len(ceilings) == len(subjects) else None
    geometry = {
        layer: versa(kernel, subjects, method=options.method, seed=options.seed)
        for layer, kernel in linear.items()
    }
    return (
        {
            "measure": "Pearson's r of predicted and measured responses, mean over voxels",
            "subjects": names, "scores": {layer: float(np.mean(values)) for layer, values in encoding.items()},
            "by_subject": encoding, "ceiling": None if ceiling is None else [ceiling, ceiling],
        },
        {
            "method": options.method, "subjects": names,
            "scores": {layer: float(values.mean()) for layer, (values, _) in geometry.items()},
            "by_subject": {layer: values.tolist() for layer, (values, _) in geometry.items()},
            "ceiling": next(iter(geometry.values()))[1],
        },
    )  # fmt: skip


def measure(options: RSA, console: Console) -> dict:
    """Computes everything that the options ask for, and writes the folder; returns the scores."""
    check_new(options.out)
    if options.brain or options.responses:
        check_comparison(options.method)
    stimuli = open_stimuli(options.images, split=options.split, dir=options.dir)
    count = len(stimuli.names)
    if count < MIN_IMAGES:
        raise ConfigError(f"{count} images are too few to compare geometries; it takes {MIN_IMAGES}.")
    if options.responses and not 2 <= options.folds <= count // 3:
        raise ConfigError(
            f"--folds is {options.folds}; {count} images can be dealt out to 2 to {count // 3} folds of 3 or more."
        )
    measured = read_rdms(options.brain, stimuli.names) if options.brain else None
    responses = read_responses(options.responses, stimuli.names) if options.responses else None
    for found, path in ((measured, options.brain), (responses, options.responses)):
        if found and not found.by_name:
            console.print(f"{path} has no names of images; taken in the order of the stimuli.")
        for note in found.notes if found else ():
            console.print(note, markup=False)
    for name, one in responses.subjects.items() if responses else ():
        alive = varying_mean(one)
        if alive.shape[1] < 2 or np.ptp(upper(rdm(alive))) < 1e-6:
            raise ConfigError(
                f"The responses of {name}, [R, N, V] = {list(one.shape)}, have no geometry: their images are all equally "
                "far apart. Voxel-encoding RSA takes 2 voxels or more that vary."
            )
    models = [
        open_model(name, options.transform, options.size) for name in (options.model, options.also) if name
    ]
    every = models[0].encoder.layer_names
    layers = every if options.layers == ("all",) else check_layers(options.layers, every)
    for other in models[1:]:
        check_layers(layers, other.encoder.layer_names)
    if damage := find_damage(stimuli, threads=options.threads):
        place, reason = next(iter(damage.items()))
        raise ConfigError(
            f"{len(damage)} of {count} images can't be read, such as {stimuli.names[place]}: {reason}"
        )

    wanted = kernel_of(options.metric)
    kernels = kernels_of(models[0], stimuli, layers, {wanted, "linear"}, options, console)
    rdms = {layer: to_rdm(kernels[layer][wanted], options.metric) for layer in layers}
    linear = {layer: kernels[layer]["linear"] for layer in layers}
    scores = {"model": models[0].encoder.name or options.model, "images": count, "metric": options.metric}
    if measured:
        scores["rsa"] = rsa_scores(rdms, measured.rdms, options)
    if responses:
        scores["encoding"], scores["versa"] = response_scores(linear, responses, options)
    others = None
    if options.also:
        others = {
            layer: kinds["linear"]
            for layer, kinds in kernels_of(models[1], stimuli, layers, {"linear"}, options, console).items()
        }
        scores["other_model"] = models[1].encoder.name or options.also
    for kind in ("biased", "debiased"):
        found = kernel_alignment(linear, others, debiased=kind == "debiased").tolist()
        scores[f"cka_{kind}"] = {
            row: dict(zip(others or linear, values, strict=True))
            for row, values in zip(linear, found, strict=True)
        }
    write(options.out, rdms, stimuli, scores)
    return scores


def write(out: Path, rdms: dict[str, np.ndarray], stimuli: StimulusSet, scores: dict) -> None:
    """Writes the folder atomically."""
    with new_folder(out) as part:
        with h5py.File(part / "rdms.h5", "w") as file:
            file.attrs["metric"] = scores["metric"]
            file["names"] = list(stimuli.names)
            for layer, matrix in rdms.items():
                file[f"rdms/{layer}"] = matrix
        (part / "scores.json").write_text(
            json.dumps(scores, indent=2, allow_nan=False) + "\n", encoding="utf-8"
        )
        draw_rdms(rdms, stimuli.categories, part / "rdms.png")
        draw_alignment(scores, part / "cka.png")
        if measures := [name for name in ("rsa", "encoding", "versa") if name in scores]:
            draw_layers({name: scores[name] for name in measures}, part / "layers.png")


def show(scores: dict, options: RSA, console: Console) -> None:
    """Prints the scores, one row a layer, and the files written."""
    measures = [name for name in ("rsa", "encoding", "versa") if name in scores]
    if measures:
        table = Table("layer", *measures)
        for layer in scores[measures[0]]["scores"]:
            table.add_row(layer, *(f"{scores[name]['scores'][layer]:.3f}" for name in measures))
        bounds = [scores[name]["ceiling"] for name in measures]
        table.add_row("noise ceiling", *("–" if b is None else f"{b[0]:.3f} to {b[1]:.3f}" for b in bounds))
        console.print(table)
    out = expand_home(options.out)
    made = sorted(path.name for path in out.iterdir())
    console.print(f"Wrote {out}: {', '.join(made)}")


if __name__ == "__main__":
    sys.exit(run_command(RSA, measure, show))
