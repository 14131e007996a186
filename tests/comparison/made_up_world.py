"""A made-up world: images, two small models, and subjects whose regions are made of the first model's layers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ipcl_jax import extract, load_stimuli
from ipcl_jax.activations.encoder import init_encoder
from ipcl_jax.activations.preprocess import make_transform
from ipcl_jax.activations.stimuli import open_stimuli
from ipcl_jax.brain.base import BrainData, Responses, Subject
from ipcl_jax.comparison.compare import Model
from ipcl_jax.config import Model as Network

LAYERS = ("conv_block_1", "conv_block_3", "fc7")
COUNT = 48
PLANTED = {"early": "conv_block_1", "late": "fc7"}
NOISE = 0.6  # its standard deviation, that of the signal being 1


class MadeUp(Subject):
    """A subject whose responses are in memory."""

    def __init__(self, name: str, images: Sequence[str], regions: dict[str, np.ndarray]):
        self.name, self.images, self.ceiling_kind = name, tuple(images), "as planted"
        self.values = np.concatenate(list(regions.values()), 1).astype(np.float32)
        ends = np.cumsum([0, *(values.shape[1] for values in regions.values())])
        self.regions = {region: np.arange(*ends[i : i + 2]) for i, region in enumerate(regions)}
        self.reads = 0

    def read(self, images: Sequence[str], voxels: np.ndarray) -> Responses:
        self.reads += 1
        ceiling = np.full(len(voxels), 1 / np.sqrt(1 + NOISE**2), np.float32)
        return Responses(self.values[np.ix_(self.rows(images), voxels)], ceiling)


def write_images(folder: Path) -> Path:
    """Writes images whose coarse and fine structure vary."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        coarse = np.kron(rng.integers(0, 255, (4, 4, 3)), np.ones((18, 18, 1))) * rng.uniform(0, 1)
        fine = rng.integers(0, 255, (72, 72, 3)) * rng.uniform(0, 1)
        Image.fromarray(np.clip(coarse + fine, 0, 255).astype(np.uint8)).save(folder / f"{i:02}.png")
    return folder


def make_models() -> tuple[Model, ...]:
    """Makes two networks with different weights."""
    transform = make_transform("stimulus", 64)
    return tuple(
        Model(name, init_encoder(Network(fc_dim=48), name=name, size=64, seed=seed), transform, LAYERS)
        for seed, name in enumerate(("first", "second"))
    )


def make_data(folder: Path, subjects: int = 4, seed: int = 0) -> BrainData:
    """Makes subjects; each region is a random mixture of a layer of the first model, or noise alone (`null`)."""
    encoder = make_models()[0].encoder
    names = [f"{i:02}.png" for i in range(COUNT)]
    found = extract(encoder, load_stimuli([folder / name for name in names], encoder), LAYERS)
    rng = np.random.default_rng(seed)
    made = []
    for number in range(1, subjects + 1):
        regions = {}
        for region, layer in PLANTED.items():
            features = np.asarray(found[layer], np.float64).reshape(COUNT, -1)
            features -= features.mean(0)
            signal = features @ rng.normal(size=(features.shape[1], 20 + number))
            regions[region] = signal / signal.std(0) + NOISE * rng.normal(size=signal.shape)
        regions["null"] = rng.normal(size=(COUNT, 15 + number))
        order = rng.permutation(COUNT)  # each subject saw the images in an order of their own
        made.append(
            MadeUp(f"S{number}", [names[i] for i in order], {name: values[order] for name, values in regions.items()})
        )
    return BrainData("made-up", tuple(made), open_stimuli([str(folder)]))
