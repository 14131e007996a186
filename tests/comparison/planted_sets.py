"""Small stand-ins for every set of brain data, on disk, whose regions are made of known layers.

Each set has the same 48 pictures in an order and under names of its own. A voxel is a sum of a few units of a layer, as
a response to the picture, plus noise; in regions of noise there is nothing else.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from made_up_world import COUNT, make_models, write_images
from PIL import Image

from brain import made_up_algonauts, made_up_bold5000, made_up_nsd, made_up_objects72, made_up_things
from brain.made_up_pictures import write_pictures
from ipcl_jax import extract, load_stimuli
from ipcl_jax.comparison.compare import Model

LAYERS = ("conv_block_1", "conv_block_5", "fc7")
EARLY, LATE, NULL = "conv_block_1", "fc7", None
UNITS = 6  # that a voxel is a sum of, with positive weights, so that sparse-positive can find them
VOXELS = 8  # of a region, where the stand-in leaves a choice
NOISE = 0.6  # standard deviation in a trial, that of the signal being 1


@dataclass(frozen=True)
class World:
    """What all sets share.

    Attributes:
        model: the first small model, with `LAYERS`.
        pictures: `[48, 72, 72, 3]` uint8.
        features: `[48, D]` of each layer.
    """

    model: Model
    pictures: np.ndarray
    features: Mapping[str, np.ndarray]

    def signal(self, layer: str | None, voxels: int, rng: np.random.Generator) -> np.ndarray:
        """`[48, V]` responses to the pictures, of mean 0 and variance 1; all 0 for no layer."""
        if layer is None:
            return np.zeros((COUNT, voxels))
        features = self.features[layer]
        units = features[:, features.std(0) > 0]
        units = units[:, rng.permuted(np.tile(np.arange(units.shape[1]), (voxels, 1)), axis=1)[:, :UNITS]]  # [48, V, 6]
        found = (units * np.abs(rng.normal(size=(voxels, UNITS)))).sum(-1)
        return (found - found.mean(0)) / found.std(0)


class Ceiling(NamedTuple):
    """The planted ceiling, and the standard error of a voxel's estimate."""

    value: float
    error: float


@dataclass(frozen=True)
class PlantedSet:
    """A set on disk.

    Attributes:
        spec: as for `open_brain`.
        regions: the layer that each region is made of.
        stimuli: as `open_brain`'s `images`; none where the set has its own.
        ceilings: of each subject; none where the set has no repeats.
        reading: as `Reading`'s options.
    """

    spec: str
    regions: Mapping[str, str | None]
    stimuli: tuple[str, ...] = ()
    ceilings: Mapping[str, Ceiling] = field(default_factory=dict)
    reading: Mapping[str, object] = field(default_factory=dict)


def make_world(folder: Path) -> World:
    """Makes the pictures, and computes the layers of the first small model."""
    model = make_models()[0]
    names = [f"{i:02}.png" for i in range(COUNT)]
    write_images(folder)
    found = extract(model.encoder, load_stimuli([folder / name for name in names], model.encoder), LAYERS)
    features = {layer: np.asarray(found[layer], np.float64).reshape(COUNT, -1) for layer in LAYERS}
    pictures = np.stack([np.asarray(Image.open(folder / name)) for name in names])
    return World(Model(model.name, model.encoder, model.transform, LAYERS), pictures, features)


def ceiling(repeats: np.ndarray | int, noise: float = NOISE**2) -> Ceiling:
    """The ceiling for signals of variance 1, and the noise variance of a trial.

    The error is that of an intraclass correlation (Fisher 1925), carried over to the ceiling.
    """
    k = 1 / np.mean(1 / np.asarray(repeats, np.float64))
    share = 1 / (1 + noise)  # the correlation of two repeats
    value = np.sqrt(share / (share + (1 - share) / k))
    error = (1 - share) * (1 + (k - 1) * share) * np.sqrt(2 / (k * (k - 1) * (COUNT - 1)))
    return Ceiling(value, error * k / (1 + (k - 1) * share) ** 2 / (2 * value))


def write_objects72(folder: Path, world: World) -> PlantedSet:
    """Five subjects, of whom the second is left out, and voxels of noise whose reliability is low."""
    rng = np.random.default_rng(72)
    regions, order = {"EarlyV": EARLY, "aOTC": LATE, "pOTC": NULL}, rng.permutation(COUNT)
    betas: dict[str, list[np.ndarray]] = {region: [] for region in regions}
    for region, layer in regions.items():
        for _ in range(5):
            signal = world.signal(layer, VOXELS, rng)[order]
            found = signal + NOISE * rng.normal(size=signal.shape)
            betas[region].append(np.concatenate([found, 9 * rng.normal(size=(COUNT, 3))], 1).T)
    reliability = {name: [np.repeat([0.9, 0.1], [VOXELS, 3])[:, None]] * 5 for name in regions}
    names = [f"object{place:02}" for place in range(COUNT)]
    made_up_objects72.write(folder / "ExploringObjectsData_SECTORS.mat", betas, reliability, names)
    stimuli = write_pictures(folder / "pictures", [f"{name}.jpg" for name in names], world.pictures[order])
    return PlantedSet(f"objects72:{folder}", regions, stimuli)


def _write_nsd(folder: Path, world: World, formats: tuple[str, ...], subjects: int) -> PlantedSet:
    """Three sessions in which each picture comes thrice. Rows 0 to 47 are shown, and row 48 is the first picture."""
    rng = np.random.default_rng(73)
    regions = {"early": EARLY, "ventral": LATE, "midventral": NULL}
    labels = rng.permutation(np.repeat([1, 5, 2, 0], [VOXELS, VOXELS, VOXELS, made_up_nsd.VOXELS - 3 * VOXELS]))
    order = rng.permutation(COUNT)
    names = tuple(f"subj{number:02}" for number in range(1, subjects + 1))
    signals = {name: np.zeros((COUNT, made_up_nsd.VOXELS)) for name in names}
    for signal in signals.values():
        for label, layer in ((1, EARLY), (5, LATE)):
            signal[:, labels == label] = world.signal(layer, VOXELS, rng)[order]
    made_up_nsd.write(
        folder, subjects=names, trials=COUNT, ncsnr=1 / NOISE, formats=formats, shared=signals, labels=labels,
        pictures=world.pictures[[*order, order[0]]],
    )  # fmt: skip
    return PlantedSet(f"nsd:{folder}", regions, ceilings=dict.fromkeys(names, ceiling(3)), reading={"sessions": 3})


def write_nsd_volume(folder: Path, world: World) -> PlantedSet:
    """Four subjects in the volume."""
    return _write_nsd(folder, world, ("hdf5",), 4)


def write_nsd_surface(folder: Path, world: World) -> PlantedSet:
    """Two subjects on the surface."""
    found = _write_nsd(folder, world, ("mgh",), 2)
    return PlantedSet(found.spec, found.regions, (), found.ceilings, {**found.reading, "space": "surface"})


def write_algonauts2023(folder: Path, world: World) -> PlantedSet:
    """Four subjects, each with the same pictures under other numbers of rows."""
    rng = np.random.default_rng(2023)
    numbers = rng.permutation(73_000)[:COUNT]
    pictures = dict(zip(numbers.tolist(), world.pictures, strict=True))
    for number in range(1, 5):
        labels = rng.permutation(np.repeat([1, 5, 2], 10))
        responses = NOISE * rng.normal(size=(COUNT, len(labels)))
        for label, layer in ((1, EARLY), (5, LATE)):
            responses[:, labels == label] += world.signal(layer, 10, rng)
        order = np.argsort(numbers) if number % 2 else rng.permutation(COUNT)
        made_up_algonauts.write_subject(
            folder, f"subj{number:02}", numbers[order].tolist(), responses=responses[order], labels=labels,
            pictures=pictures,
        )  # fmt: skip
    return PlantedSet(f"algonauts2023:{folder}", {"early": EARLY, "ventral": LATE, "midventral": NULL})


def write_things_fmri(folder: Path, world: World) -> PlantedSet:
    """Three subjects, who saw 12 training images once and 36 test images in each of three sessions."""
    rng = np.random.default_rng(3)
    names = [f"{'abcdefgh'[place % 8]}thing_{place:02}s.jpg" for place in rng.permutation(COUNT)]
    regions = np.repeat(["V1", "lFFA", "rFFA", "lSTS"], [VOXELS, VOXELS // 2, VOXELS // 2, VOXELS])
    regions = rng.permutation(regions)
    columns = {name: (regions == name).astype(int) for name in ("V1", "lFFA", "rFFA", "lSTS")}
    shared = 1 / (1 + NOISE**2 / 3)  # the explainable share of variance of a mean of three trials
    columns["nc_testset"] = np.where(regions == "lSTS", 0.0, 100 * shared)
    for number in range(1, 4):
        signal = np.zeros((COUNT, len(regions)))
        signal[:, columns["V1"] == 1] = world.signal(EARLY, VOXELS, rng)
        signal[:, (columns["lFFA"] + columns["rFFA"]) == 1] = world.signal(LATE, VOXELS, rng)
        data = made_up_things.planted(
            number, train=names[:12], test=names[12:], signal=dict(zip(names, signal, strict=True)), noise=NOISE,
            columns=columns,
        )  # fmt: skip
        made_up_things.write(folder, data, f"sub-{number:02}", permuted=True)
    stimuli = write_pictures(folder / "pictures", [f"{name[:6]}/{name}" for name in names], world.pictures)
    # The ceiling isn't estimated but read, and holds for as many trials as were averaged.
    known = Ceiling(ceiling(np.repeat([1, 3], [12, 36])).value, 0)
    return PlantedSet(
        f"things-fmri:{folder}", {"V1": EARLY, "FFA": LATE, "STS": NULL}, stimuli,
        {f"sub-{number:02}": known for number in range(1, 4)},
    )  # fmt: skip


def write_bold5000(folder: Path, world: World) -> PlantedSet:
    """Four subjects, who saw half of the pictures in each session."""
    rng = np.random.default_rng(5000)
    names = [
        f"n0{1000 + place}_{place}.JPEG" if place % 2 else f"COCO_train2014_{place:012}.jpg"
        for place in rng.permutation(COUNT)
    ]
    size = int(np.prod(made_up_bold5000.SHAPE))
    layers = {"EarlyVis": EARLY, "LO": LATE, "LOC": LATE, "RSC": NULL, "RRSC": NULL}  # as masks are called
    ceilings = {}
    for subject, sessions in made_up_bold5000.SESSIONS.items():
        places = iter(np.split(rng.permutation(size - 1)[:30], 6))
        signal, masks = np.zeros((COUNT, size)), {}
        for name in made_up_bold5000.SIDES.get(subject, made_up_bold5000.SIDES["CSI1"]):
            if name[2:] in layers:
                side = next(places)
                masks[name] = np.zeros(made_up_bold5000.SHAPE, np.uint8)
                masks[name].ravel()[side] = 1
                signal[:, side] = world.signal(layers[name[2:]], len(side), rng)
        truth = {name: row.reshape(made_up_bold5000.SHAPE) for name, row in zip(names, signal, strict=True)}
        order = rng.permutation(names)
        shown = [order[:24].tolist(), order[24:].tolist()]  # every picture once
        shown += [rng.permutation(names)[:24].tolist() for _ in range(sessions - 2)]
        data = made_up_bold5000.planted(subject, signal=1 / (1 + NOISE**2), names=shown, truth=truth, step=20)
        made_up_bold5000.write(folder / subject, data, subject, names=shown, masks=masks)
        ceilings[subject] = ceiling(np.unique(np.concatenate(shown), return_counts=True)[1])
    stimuli = write_pictures(folder / "pictures", names, world.pictures)
    return PlantedSet(f"bold5000:{folder}", {"EarlyVis": EARLY, "LOC": LATE, "RSC": NULL}, stimuli, ceilings)


def write_arrays(folder: Path, world: World) -> PlantedSet:
    """Four subjects with three repeats in an HDF5 file, each with an order of images and voxels of its own."""
    rng = np.random.default_rng(4)
    regions = {"early": EARLY, "late": LATE, "null": NULL}
    names, subjects = [f"{place:02}.png" for place in rng.permutation(COUNT)], [f"S{number}" for number in range(1, 5)]
    with h5py.File(folder / "brain.h5", "w") as file:
        for subject in subjects:
            order, voxels = rng.permutation(COUNT), rng.permutation(np.repeat(list(regions), VOXELS))
            signal = np.zeros((COUNT, len(voxels)))
            for region, layer in regions.items():
                signal[:, voxels == region] = world.signal(layer, VOXELS, rng)
                file[f"responses/regions/{subject}/{region}"] = voxels == region
            file[f"responses/{subject}"] = (signal + NOISE * rng.normal(size=(3, *signal.shape)))[:, order]
            file[f"responses/{subject}"].attrs["images"] = [names[place] for place in order]
    stimuli = write_pictures(folder / "pictures", names, world.pictures)
    return PlantedSet(f"arrays:{folder / 'brain.h5'}", regions, stimuli, dict.fromkeys(subjects, ceiling(3)))


WRITERS: Mapping[str, Callable[[Path, World], PlantedSet]] = {
    "objects72": write_objects72, "nsd-volume": write_nsd_volume, "nsd-surface": write_nsd_surface,
    "algonauts2023": write_algonauts2023, "things-fmri": write_things_fmri, "bold5000": write_bold5000,
    "arrays": write_arrays,
}  # fmt: skip
"""A writer for each set, into an empty folder."""
