"""What reads files from elsewhere: for each reader some sound files, and the errors that say what is wrong."""

import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import safetensors.numpy
import scipy.io
import torch
from PIL import Image

from convert import CheckpointError, convert_torch_checkpoint
from ipcl_jax import load_encoder, load_stimuli
from ipcl_jax.activations.encoder import Encoder, init_encoder
from ipcl_jax.activations.preprocess import make_transform
from ipcl_jax.activations.serialize import export_orbax
from ipcl_jax.activations.stimuli import Reader, open_stimuli
from ipcl_jax.activations.store import FeatureFile, Layer
from ipcl_jax.brain.arrays import open_arrays
from ipcl_jax.brain.rdms import read_rdms
from ipcl_jax.brain.responses import read_responses
from ipcl_jax.config import Model, Train
from ipcl_jax.data.packing import pack, plan_packing
from ipcl_jax.data.records import ArrayRecordSource
from ipcl_jax.errors import ConfigError
from ipcl_jax.run.folder import check_folder
from ipcl_jax.run.history import METRICS, read_metrics
from ipcl_jax.stored_config import to_json

STIMULI = [f"{i}.png" for i in range(6)]
SMALL = 1 << 16  # bytes; in larger files nearly every byte is a number of some array


@dataclass(frozen=True)
class Target:
    """A reader of files.

    Attributes:
        seeds: sound files, each with its place in a folder.
        read: reads what is in a folder; `place` is the file that was changed.
        errors: that say what is wrong with a file; any other is a crash.
        prepare: puts into the folder what else is needed.
        named: what an error's message has to name, beneath the folder; the file itself by default.
        slow: a process is started for each file, so a tenth of the inputs will do.
    """

    seeds: tuple[tuple[str, bytes], ...]
    read: Callable[[Path, str], object]
    errors: tuple[type[Exception], ...] = (ConfigError,)
    prepare: Callable[[Path], object] = lambda folder: None
    named: str | None = None
    slow: bool = False


def images() -> Target:
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).resize((80, 100))
    deep = Image.fromarray(np.arange(900, dtype=np.uint16).reshape(30, 30))
    made = [
        ("JPEG", photo, {}), ("JPEG", photo, {"progressive": True}), ("JPEG", photo.convert("L"), {}),
        ("JPEG", photo.convert("CMYK"), {}), ("PNG", photo, {}), ("PNG", photo.convert("P"), {}),
        ("PNG", photo.convert("RGBA"), {}), ("PNG", deep, {}), ("GIF", photo, {}), ("BMP", photo, {}),
        ("WEBP", photo, {}), ("PPM", photo, {}), ("JPEG2000", photo, {}), ("TIFF", photo, {}),
        *(("TIFF", photo, {"compression": f"tiff_{kind}"}) for kind in ("lzw", "adobe_deflate", "jpeg")),
    ]  # fmt: skip
    seeds = []
    for kind, picture, options in made:
        memory = io.BytesIO()
        picture.save(memory, kind, **options)
        seeds.append(("image.jpg", memory.getvalue()))
    model = Encoder(variables={}, model=Model(), size=64)
    return Target(tuple(seeds), lambda folder, place: load_stimuli([folder / place], model), (OSError,))


def torch_checkpoints() -> Target:
    tensors = {f"module.conv_block_{i}.0.weight": torch.ones(2, 3) for i in range(1, 6)}
    description = {"model": {"arch": "alexnet_gn", "fc_dim": 4}, "mean": [0.5] * 3, "std": [0.2] * 3}
    seeds = []
    for content in (
        tensors,
        {"state_dict": tensors, "epoch": 3},
        {"state_dict": tensors, "ipcl_jax": description},
    ):
        for zipped in (True, False):
            memory = io.BytesIO()
            torch.save(content, memory, _use_new_zipfile_serialization=zipped)
            seeds.append(("model.pth.tar", memory.getvalue()))
    return Target(
        tuple(seeds), lambda folder, place: convert_torch_checkpoint(folder / place), (CheckpointError,)
    )


def safetensors_files() -> Target:
    described = {"ipcl_jax": json.dumps(init_encoder(Model(fc_dim=8, out_dim=4), size=64).description())}
    arrays = {f"params/fc{i}/kernel": np.ones((2, 3), np.float32) for i in range(6)}
    seeds = [safetensors.numpy.save(arrays, metadata) for metadata in (described, None)]
    return Target(
        tuple(("model.safetensors", seed) for seed in seeds),
        lambda folder, place: load_encoder(folder / place),
    )


def orbax_models() -> Target:
    model = init_encoder(Model(fc_dim=8, out_dim=4), size=64)
    seeds, prepare = _in_folder(lambda folder: export_orbax(model, folder / "model"))
    return Target(seeds, lambda folder, place: load_encoder(folder / "model"), prepare=prepare, named="model")


def packed_images() -> Target:
    def write(folder: Path) -> None:
        for place in ("train/a/1.png", "train/a/2.png", "train/b/1.png", "val/a/1.png", "val/b/1.png"):
            (folder / "images" / place).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 3)).save(folder / "images" / place)
        plan = plan_packing(folder / "images", None)
        for _ in pack(plan, folder / "packed", encode=bytes, settings="", processes=1):
            pass

    def read(folder: Path, place: str) -> None:
        source = ArrayRecordSource(str(folder / "packed"), "train")
        assert len(source.labels()) == len(source) == len(list(source.stamps()))
        source.describe(len(source) - 1)

    seeds, prepare = _in_folder(write)
    described = tuple(seed for seed in seeds if seed[0] in ("packed/dataset.json", "packed/train.stamps"))
    return Target(described, read, prepare=prepare, named="packed")


def brain_data(suffix: str, *seeds: bytes) -> Target:
    def prepare(folder: Path) -> None:
        (folder / "images").mkdir()
        for name in STIMULI:
            Image.new("RGB", (4, 3)).save(folder / "images" / name)

    def read(folder: Path, place: str) -> None:
        read_rdms(str(folder / place), STIMULI)
        read_responses(str(folder / place), STIMULI)
        for subject in open_arrays(str(folder / place), images=[str(folder / "images")]).subjects:
            for voxels in subject.regions.values():
                subject.read(subject.images, voxels)

    return Target(tuple((f"brain{suffix}", seed) for seed in seeds), read, prepare=prepare, slow=suffix != ".npz")


def npz_files() -> Target:
    arrays = {"rdms": _rdms(), "responses/one": np.ones((6, 4)), "names": np.array(STIMULI)}
    arrays |= {"regions/one/V1": np.arange(4) > 1}
    return brain_data(
        ".npz",
        *(
            _in_memory(lambda file, save=save: save(file, **arrays))
            for save in (np.savez, np.savez_compressed)
        ),
    )


def mat_files() -> Target:
    names = np.array(STIMULI, object)[:, None]
    arrays = {"rdms": _rdms(), "names": names, "responses": {"one": np.ones((6, 4))}}
    arrays |= {"regions": np.array(["V1", "V1", "V2", "V2"], object)}
    return brain_data(
        ".mat",
        *(
            _in_memory(lambda file, packed=packed: scipy.io.savemat(file, arrays, do_compression=packed))
            for packed in (True, False)
        ),
    )


def hdf5_files() -> Target:
    def write(memory: io.BytesIO, **options) -> None:
        with h5py.File(memory, "w") as file:
            file.create_dataset("rdms", data=_rdms(), **options)
            file["names"] = STIMULI
            file.create_dataset("responses/one", data=np.ones((6, 4)), **options)
            file["regions/V1"] = np.arange(4) > 1

    kinds = {}, {"compression": "gzip", "shuffle": True}, {"chunks": True}
    return brain_data(
        ".h5", *(_in_memory(lambda file, options=options: write(file, **options)) for options in kinds)
    )


def hdf5_stimuli() -> Target:
    def write(memory: io.BytesIO, **options) -> None:
        with h5py.File(memory, "w") as file:
            file.create_dataset("images", data=np.zeros((3, 20, 20, 3), np.uint8), **options)

    def read(folder: Path, place: str) -> None:
        stimuli = open_stimuli([f"{folder / place}:images"])
        for batch in Reader(make_transform("stimulus", 64), 4, 1).batches(stimuli):
            if batch.first > 100:  # a file can say that it has a million
                break

    kinds = {}, {"compression": "gzip"}
    return Target(
        tuple(("stimuli.h5", _in_memory(lambda file, o=options: write(file, **o))) for options in kinds),
        read, slow=True,
    )  # fmt: skip


def activations(rows: int = 6) -> Target:
    layers, digests = {"fc7": Layer((2,), np.dtype(np.float32))}, ["0" * 64] * len(STIMULI)
    request = {"layers": layers, "attributes": {"model": "a"}, "digests": lambda count: digests[:count]}

    def write(folder: Path) -> None:
        with FeatureFile(folder / "acts.h5", names=STIMULI, **request) as file:
            file.write({"fc7": np.ones((rows, 2), np.float32)}, digests[:rows])
            if rows == len(STIMULI):
                file.publish()

    def read(folder: Path, place: str) -> None:
        FeatureFile(folder / "acts.h5", names=STIMULI, **request).close()

    seeds, prepare = _in_folder(write)
    return Target(seeds, read, prepare=prepare, named="acts.h5", slow=True)


def lists() -> Target:
    _, image = images().seeds[4]
    return Target(
        (("list.txt", b"# images\na.png\n"), ("list.txt", "a.png\né.png\n".encode())),
        lambda folder, place: open_stimuli([str(folder / place)]),
        prepare=lambda folder: (folder / "a.png").write_bytes(image),
        named="",
    )


def configs() -> Target:
    config = Train(name="a")
    return Target(
        (("config.json", to_json(config).encode()),),
        lambda folder, place: check_folder(config, {}, str(folder)),
        named="",
    )


def metrics() -> Target:
    lines = [
        {"kind": kind, "step": i, "epoch": 1, "loss": i / 3} for i in range(3) for kind in ("step", "epoch")
    ]
    seed = "".join(json.dumps(line) + "\n" for line in lines).encode()
    return Target(((METRICS, seed),), lambda folder, place: read_metrics(folder), errors=())


TARGETS: dict[str, Callable[[], Target]] = {
    "images": images,
    "torch checkpoints (zip, pickle)": torch_checkpoints,
    "safetensors models": safetensors_files,
    "Orbax models": orbax_models,
    "brain data, .npz": npz_files,
    "brain data, .mat": mat_files,
    "brain data, HDF5": hdf5_files,
    "stimuli, HDF5": hdf5_stimuli,
    "activations, HDF5": activations,
    "unfinished activations and their journal": lambda: activations(2),
    "packed images": packed_images,
    "lists of images": lists,
    "config.json of a run": configs,
    "metrics.jsonl": metrics,
}


def _in_folder(
    write: Callable[[Path], object],
) -> tuple[tuple[tuple[str, bytes], ...], Callable[[Path], object]]:
    """The small files of a folder that a function fills, and what fills another one with the same files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder)
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    def prepare(folder: Path) -> None:
        for place, content in files.items():
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).write_bytes(content)

    return tuple((place, content) for place, content in files.items() if len(content) < SMALL), prepare


def _in_memory(write: Callable[[io.BytesIO], object]) -> bytes:
    memory = io.BytesIO()
    write(memory)
    return memory.getvalue()


def _rdms() -> np.ndarray:
    points = np.random.default_rng(0).normal(size=(2, 6, 3))
    return np.linalg.norm(points[:, :, None] - points[:, None], axis=-1)
