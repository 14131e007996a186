"""Files that someone made to do harm: to run code, to fill the memory, to hang, or to write elsewhere.

Each is refused by an error that names it, within seconds, with half a gigabyte of memory at most.
"""

import dataclasses
import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image

from command_line import run
from convert import CheckpointError, convert_torch_checkpoint, save_torch, to_torch_state_dict
from guard import guarded, little_memory
from ipcl_jax import load_encoder, load_stimuli, save_encoder
from ipcl_jax.activations.damage import find_damage
from ipcl_jax.activations.encoder import Encoder, init_encoder
from ipcl_jax.activations.serialize import export_orbax
from ipcl_jax.activations.stimuli import open_stimuli
from ipcl_jax.brain.arrays import open_arrays
from ipcl_jax.brain.rdms import read_rdms
from ipcl_jax.brain.responses import read_responses
from ipcl_jax.config import Model, Train
from ipcl_jax.data.decode import decode
from ipcl_jax.errors import ConfigError
from ipcl_jax.run.folder import check_folder
from targets import STIMULI
from thinning import first

MODEL = Encoder(variables={}, model=Model(), size=64)
SMALL = Model(fc_dim=8, out_dim=4)


@pytest.fixture(scope="module", autouse=True)
def small():
    """A model; JAX makes its folder of compiled programs with the first one, which is no reader's doing."""
    return init_encoder(SMALL, size=64)


def refusal(read, path: Path, kind: type[Exception]) -> str:
    """What a reader says of a file, while it is watched."""
    with guarded(path.parent) as seen, little_memory(512), pytest.raises(kind) as refused:
        read()
    assert not seen
    assert str(path) in str(refused.value)
    return str(refused.value)


# --- images --------------------------------------------------------------------------------


def png(width: int, height: int, rows: int = 0) -> bytes:
    """A grey PNG that says it has that size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(rows * (width + 1)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    """A JPEG that says it has that size."""
    memory = io.BytesIO()
    Image.new("RGB", (16, 16)).save(memory, "JPEG")
    content = memory.getvalue()
    at = content.index(b"\xff\xc0") + 5
    return content[:at] + struct.pack(">HH", height, width) + content[at + 4 :]


def tiff(width: int, height: int) -> bytes:
    memory = io.BytesIO()
    Image.new("L", (1, 1)).save(memory, "TIFF")
    content = memory.getvalue()
    for tag, value in ((256, width), (257, height)):
        at = content.index(struct.pack("<H", tag))
        content = content[: at + 2] + struct.pack("<HII", 4, 1, value) + content[at + 12 :]
    return content


POSTSCRIPT = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(%pipe%touch /tmp/x) (w) file\n%%EOF\n"
)


@pytest.mark.parametrize(
    "image, says",
    [
        (png(50_000, 50_000), "2500000000 pixels"),
        (jpeg(65_500, 65_500), "4290250000 pixels"),
        (tiff(100_000, 100_000), "pixels"),
        (png(1, 5_000_000, rows=5_000_000), "too unlike"),
        (POSTSCRIPT, "not an image"),
        (b"", "not an image"),
    ],
    ids=["png", "jpeg", "tiff", "thin", "postscript", "empty"],
)
def test_images(image, says, tmp_path):
    path = tmp_path / "image.jpg"
    path.write_bytes(image)
    assert says in refusal(lambda: load_stimuli([path], MODEL), path, OSError)


@pytest.mark.parametrize("image", [png(50_000, 50_000), jpeg(65_500, 65_500)], ids=["png", "jpeg"])
def test_training_refuses_an_image_by_its_header(image, tmp_path):
    with guarded(tmp_path), little_memory(512), pytest.raises(Image.DecompressionBombError, match="pixels"):
        decode(image, short_side=256, long_side=512)


def test_an_extraction_names_all_of_them_before_it_begins(tmp_path):
    for name, image in (("a", png(50_000, 50_000)), ("b", jpeg(65_500, 65_500)), ("c", POSTSCRIPT)):
        (tmp_path / f"{name}.png").write_bytes(image)
    with guarded(tmp_path) as seen, little_memory(512):
        assert sorted(find_damage(open_stimuli([str(tmp_path)]), threads=2)) == [0, 1, 2]
    assert not seen


# --- checkpoints ---------------------------------------------------------------------------


class Call:
    """Pickled, it calls a function when it is opened."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "pickle"])
@pytest.mark.parametrize(
    "call",
    [
        Call(os.system, "touch /tmp/ran"),
        Call(eval, "open('/tmp/ran', 'w')"),
        Call(torch.load, "/tmp/x"),
        Call(torch.hub.load, "a/b", "c"),
        Call(__import__, "antigravity"),
        Call(getattr, "", "join"),
    ],
    ids=lambda call: call.call[0].__name__,
)
def test_a_checkpoint_that_calls_something(call, zipped, tmp_path):
    path = tmp_path / "model.pth.tar"
    torch.save({"state_dict": {"a": call}}, path, _use_new_zipfile_serialization=zipped)
    said = refusal(lambda: convert_torch_checkpoint(path), path, CheckpointError)
    assert "refused" in said and "nothing of it was run" in said


def test_a_bare_pickle_that_calls_something(tmp_path):
    path = tmp_path / "model.pth"
    path.write_bytes(pickle.dumps(Call(os.system, "touch /tmp/ran"), protocol=2))
    refusal(lambda: convert_torch_checkpoint(path), path, CheckpointError)


def test_tensors_larger_than_their_file(tmp_path):
    """One number, repeated a trillion times by a stride of 0."""
    path = tmp_path / "model.pth"
    endless = torch.zeros(1).expand(1_000_000, 1_000_000)
    names = [f"conv_block_{i}.0.weight" for i in range(1, 6)] + [
        "fc6.0.weight",
        "fc7.0.weight",
        "fc8.0.weight",
    ]
    torch.save(dict.fromkeys(names, endless), path)
    assert path.stat().st_size < 10_000
    assert "more numbers than fit" in refusal(lambda: convert_torch_checkpoint(path), path, CheckpointError)


def test_an_archive_that_unpacks_to_gigabytes_or_elsewhere(tmp_path):
    sound, path = io.BytesIO(), tmp_path / "model.pth"
    torch.save({"fc8.0.weight": torch.ones(2, 2)}, sound)
    with zipfile.ZipFile(sound) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.namelist():
            large = member.endswith("data/0")
            new.writestr(member, bytes(1 << 30) if large else old.read(member))
        new.writestr("../../../../tmp/ran", b"x")
    refusal(lambda: convert_torch_checkpoint(path), path, CheckpointError)
    assert not Path("/tmp/ran").exists()


def described(**changes) -> str:
    return json.dumps(Encoder(variables={}, model=SMALL, size=64).description() | changes)


def safetensors(header: bytes | dict, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(64)


def with_description(text: str) -> bytes:
    """A sound file, but for what it says of its model."""
    tensor = {"dtype": "U8", "shape": [64], "data_offsets": [0, 64]}
    return safetensors({"a": tensor, "__metadata__": {"ipcl_jax": text}})


DEEP = "[" * 200_000
HUGE = {"dtype": "F32", "shape": [2**31, 2**31], "data_offsets": [0, 2**64 - 4]}


@pytest.mark.parametrize(
    "content, says",
    [
        (safetensors(b"{}", length=2**63), "header"),
        (safetensors(DEEP.encode()), "header"),
        (safetensors({"a": HUGE, "__metadata__": {"ipcl_jax": described()}}), "header"),
        (safetensors({"a": {"dtype": "F32", "shape": [4], "data_offsets": [4, 2]}}), "header"),
        (with_description(DEEP), "recursion"),
        (with_description("[]"), "of type list"),
        (with_description("{}"), "the network in its description is None"),
        (with_description('{"model": 3}'), "the network in its description is 3"),
        (with_description('{"model": {"fc_dim": 1e99}}'), "--model.fc-dim is 1e+99"),
        (with_description('{"model": {"l2norm": 1}}'), "--model.l2norm is 1, of type int"),
        (with_description('{"model": {"arch": [1]}}'), "--model.arch is [1]"),
        (with_description(described(size=10**9)), "size in its description is 1000000000, expected 63 to 4096 pixels"),
        (with_description(described(mean=["a", 2, 3])), "mean in its description is a list, expected three numbers"),
        (with_description(described(std=[0, 1, 1])), "std in its description is a list, expected three numbers above"),
        (with_description(described(name="../../evil")), "name in its description is '../../evil', expected a name"),
        (with_description(described(model={"fc_dim": 10**9})), "--model.fc-dim is 1000000000"),
        (with_description(described(extra=1)), "fields that this version doesn't know: 'extra'"),
        (with_description(described()), "its variables don't fit its description"),
    ],
)
def test_safetensors(content, says, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert says in refusal(lambda: load_encoder(path), path, ConfigError)


def test_a_model_whose_name_is_a_path_leads_nowhere(small, tmp_path):
    """A name becomes part of the read-out's folder."""
    path = tmp_path / "model.safetensors"
    model = dataclasses.replace(small, name="../../evil")
    for write in (save_encoder, save_torch, export_orbax):
        with pytest.raises(ValueError, match="expected a name, and no path"):
            write(model, path)
    assert not any(tmp_path.iterdir())
    path.write_bytes(with_description(described(name="../../evil")))
    assert "no path" in refusal(lambda: load_encoder(path), path, ConfigError)
    torch_file = tmp_path / "model.pth"
    tensors = to_torch_state_dict(model)
    torch.save({"state_dict": tensors, "ipcl_jax": json.loads(described(name="../../evil"))}, torch_file)
    assert "no path" in refusal(lambda: convert_torch_checkpoint(torch_file), torch_file, CheckpointError)


# --- brain data, activations, runs -----------------------------------------------------------


def read_both(path: Path) -> None:
    read_rdms(str(path), STIMULI)
    read_responses(str(path), STIMULI)


def test_arrays_that_call_something_when_they_are_opened(tmp_path):
    path = tmp_path / "brain.npz"
    path.write_bytes(b"PK")
    refusal(lambda: read_both(path), path, ConfigError)
    np.savez(path, rdms=np.array([Call(os.system, "touch /tmp/ran")], object))
    refusal(lambda: read_both(path), path, ConfigError)


def test_archives_that_unpack_to_more_than_the_memory(tmp_path):
    path = tmp_path / "brain.npz"
    np.savez_compressed(path, rdms=np.ones((2, 6, 6)))
    content = path.read_bytes()
    at = content.rindex(b"PK\x01\x02") + 24  # in the directory at the end: the size of its one member
    path.write_bytes(content[:at] + struct.pack("<I", 2**32 - 2) + content[at + 4 :])
    refusal(lambda: read_both(path), path, ConfigError)


def test_packed_variables_that_unpack_to_more_than_the_memory(tmp_path, monkeypatch):
    path = tmp_path / "brain.mat"
    scipy.io.savemat(path, {"rdms": np.zeros((2000, 2000))}, do_compression=True)
    assert path.stat().st_size < 100_000
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("", (), {"available": 10**8})())
    assert "it says that it holds 0.0 GB" in refusal(lambda: read_both(path), path, ConfigError)


@pytest.mark.parametrize("name", first(1, ["crashes_scipy_1.17.mat", "hangs_hdf5.h5"]))
def test_what_fuzzing_found(name, tmp_path):
    """Files that take the library down that reads them, or keep it busy forever."""
    path = tmp_path / name
    path.write_bytes((Path(__file__).parent / "found" / name).read_bytes())
    assert "it is damaged" in refusal(lambda: read_both(path), path, ConfigError)


def test_datasets_larger_than_the_memory(tmp_path):
    path = tmp_path / "brain.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("rdms", (1_000_000, 1_000_000), "f8", chunks=(100, 100), compression="gzip")
    assert "8,000.0 GB" in refusal(lambda: read_both(path), path, ConfigError)


@pytest.mark.parametrize(
    "datasets, says",
    [
        ({"responses": ((6, 10**12), "f4", (6, 1000))}, "is too large: it says that it holds 8,000.0 GB"),
        ({"responses": ((6, 10**10), "f4", (6, 10**8 * 9))}, "21.6 GB"),
        ({"responses": ((6, 4), "f4", (6, 4)), "regions/V1": ((10**12,), "u1", (1000,))}, "1,000.0 GB"),
        ({"responses": ((6, 4), "f4", (6, 4)), "names": ((10**12,), "S8", (1000,))}, "8,000.0 GB"),
        ({"responses": ((10**9, 4), "f4", (1000, 4))}, "is of 1000000000 images, and there are 6 stimuli"),
    ],
    ids=["voxels", "chunk", "mask", "names", "images"],
)
def test_arrays_that_are_read_in_parts(datasets, says, tmp_path):
    for name in STIMULI:
        (tmp_path / "images" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "images" / name).write_bytes(png(1, 1, 1))
    path = tmp_path / "brain.h5"
    with h5py.File(path, "w") as file:
        for name, (shape, kind, chunks) in datasets.items():
            file.create_dataset(name, shape, kind, chunks=chunks, compression="gzip")
    read = lambda: open_arrays(str(path), images=[str(tmp_path / "images")])  # noqa: E731
    assert says in refusal(read, path, ConfigError)


def test_stimuli_of_any_size(tmp_path):
    path = tmp_path / "stimuli.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("images", (3, 100_000, 100_000, 3), "u1", chunks=(1, 100, 100, 3))
    assert "100000 x 100000 pixels" in refusal(lambda: open_stimuli([f"{path}:images"]), path, ConfigError)


@pytest.mark.parametrize("text", [DEEP, "[]", "null", '{"name": "a", "views": 3}', "\x00" * 100, "1" * 5000])
def test_configs_of_runs(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    for read in (lambda: load_encoder(tmp_path), lambda: check_folder(Train(name="a"), {}, str(tmp_path))):
        refusal(read, tmp_path, ConfigError)


@pytest.mark.slow
def test_names_that_mean_something_to_a_terminal_or_a_page(small, tmp_path):
    """They are said as they are, and a page shows them as text."""
    folder = tmp_path / "[red]a[" / "red] é ☃ {task} %s <b>"
    for split in ("train", "val"):
        for label in ("<b>one<", "[bold]two"):
            (folder / split / label).mkdir(parents=True)
            for i in range(5):
                Image.new("RGB", (70, 70), (50 * i, 9, 9)).save(folder / split / label / f"{i}.png")
    model = tmp_path / "[red]small.safetensors"
    save_encoder(dataclasses.replace(small, name="<b>[red"), model)
    source = "--data.source", f"folder:{folder}"
    out = tmp_path / "[b]acts.h5"
    assert str(out) in run(
        "extract.py", model, folder / "val", "--layers", "fc7", "--out", out, cache=tmp_path
    )
    said = run("report.py", model, *source, "--k", "2", "--shown", "8", "--out", tmp_path / "report", cache=tmp_path)
    assert "[red]small" in said
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<b>" not in page and "&lt;b&gt;" in page
