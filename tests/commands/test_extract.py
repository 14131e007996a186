"""The extraction command as a user runs it: killed, refused, resumed, in every format."""

import functools
import hashlib
import os
import shutil
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import scipy.io
from PIL import Image

import command_line
from ipcl_jax import extract, load_encoder, load_stimuli, save_encoder
from ipcl_jax.activations.encoder import init_encoder
from ipcl_jax.activations.preprocess import make_transform
from ipcl_jax.activations.stimuli import Reader
from ipcl_jax.activations.write import Extraction
from ipcl_jax.config import Model
from ipcl_jax.errors import ConfigError
from ipcl_jax.system.locks import file_lock

COUNT = 41


start = functools.partial(command_line.start, "extract.py")
run = functools.partial(command_line.run, "extract.py")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    save_encoder(init_encoder(Model(fc_dim=64), name="small", size=64), path)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        path = folder / ("faces" if i % 2 else "scenes") / f"{i}.{'jpg' if i % 3 else 'png'}"
        path.parent.mkdir(exist_ok=True)
        noise = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8))
        noise.resize((90 + i, 80), Image.Resampling.BICUBIC).save(path, quality=95)
    return folder


@pytest.fixture(scope="module")
def unbroken(model, images, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("unbroken") / "acts.h5"
    text = run(model, images, "--layers", "fc7", "conv_block_1.0", "--batch-size", 4, "--out", path)
    assert "41/41" in text and f"Wrote {path}: fc7 [41, 64], conv_block_1.0 [41, 15, 15, 96]" in text
    assert [file.name for file in path.parent.iterdir()] == ["acts.h5"]
    return path


def test_the_file_holds_what_extract_computes(unbroken, model, images):
    encoder = load_encoder(model)
    with h5py.File(unbroken) as file:
        assert set(file) == {"fc7", "conv_block_1.0", "names", "sha256"}
        names = [name.decode() for name in file["names"]]
        assert names[:3] == ["faces/1.jpg", "faces/3.png", "faces/5.jpg"] and len(names) == COUNT
        assert names.index("scenes/8.jpg") < names.index("scenes/10.jpg")
        found = {name: file[name][:] for name in ("fc7", "conv_block_1.0")}
        digests = [hashlib.sha256((images / name).read_bytes()).hexdigest().encode() for name in names]
        assert list(file["sha256"]) == digests
        attributes = dict(file["fc7"].attrs)
        assert attributes["layer"] == "fc7" and attributes["dtype"] == "float32"
        assert attributes["model"] == file.attrs["model"] == "small"
        assert attributes["weights_sha256"] == encoder.digest()
        assert "shorter side to 64 pixels" in attributes["preprocessing"]
        assert file["conv_block_1.0"].attrs["axes"] == "image height width channel"
    stimuli = load_stimuli([images / name for name in names], encoder)
    expected = extract(encoder, stimuli, list(found))
    for name, values in found.items():
        error = np.abs(values - expected[name]).max() / np.abs(values).max()
        assert error < 2e-6, name  # another batch size, so other orders of sums


@pytest.mark.slow
def test_a_complete_file_is_left_alone_and_another_request_refused(unbroken, model, images, tmp_path):
    before = unbroken.read_bytes(), unbroken.stat().st_mtime_ns
    layers = ("--layers", "fc7", "conv_block_1.0", "--batch-size", 4)
    assert "complete already" in run(model, images, *layers, "--out", unbroken)
    text = run(model, images, "--layers", "fc8", "--batch-size", 4, "--out", unbroken, code=2)
    assert "layers: ['fc7 [64] float32'" in text and "It stays as it is" in text
    text = run(model, images, *layers, "--transform", "validation", "--out", unbroken, code=2)
    assert "preprocessing: shorter side to 64" in text
    other = tmp_path / "other.safetensors"
    save_encoder(init_encoder(Model(fc_dim=64), name="small", size=64, seed=1), other)
    assert "weights_sha256" in run(other, images, *layers, "--out", unbroken, code=2)
    assert "images: 41 there, 21 here" in run(model, images / "scenes", *layers, "--out", unbroken, code=2)
    names = sorted(images.rglob("*.*g"), reverse=True)
    assert "image 0: faces/1.jpg there" in run(model, *names, *layers, "--out", unbroken, code=2)
    assert (unbroken.read_bytes(), unbroken.stat().st_mtime_ns) == before

    (tmp_path / "notes.h5").write_text("mine")
    assert "is no file of activations" in run(model, images, "--out", tmp_path / "notes.h5", code=2)
    assert (tmp_path / "notes.h5").read_text() == "mine"


def test_an_unreadable_image_stops_at_the_start_or_is_a_row_of_nan(model, images, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    whole = sorted(images.rglob("*.jpg"))[:4]
    for i, path in enumerate(whole):
        (folder / f"{i}.jpg").write_bytes(path.read_bytes())
    (folder / "1.jpg").write_bytes(whole[1].read_bytes()[:500])
    out = tmp_path / "acts.h5"
    text = run(model, folder, "--out", out, code=2)
    assert "1 of 4 images can't be read" in text and "1.jpg" in text and "--skip-unreadable" in text
    assert list(tmp_path.iterdir()) == [folder]
    text = run(model, folder, "--out", out, "--skip-unreadable")
    with h5py.File(out) as file:
        assert file["readable"][:].tolist() == [True, False, True, True]
        assert np.isnan(file["fc7"][1]).all() and np.isfinite(file["fc7"][:][[0, 2, 3]]).all()
    assert (tmp_path / "acts.h5.unreadable.txt").read_text().startswith("1.jpg: ")


def test_formats_hold_the_same(unbroken, model, images, tmp_path):
    arguments = (model, images, "--layers", "fc7", "conv_block_1.0", "--batch-size", 4)
    for suffix in ("npz", "mat"):
        run(*arguments, "--out", tmp_path / f"acts.{suffix}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["acts.mat", "acts.npz"]
    npz, mat = np.load(tmp_path / "acts.npz"), scipy.io.loadmat(tmp_path / "acts.mat")
    with h5py.File(unbroken) as file:
        names = [name.decode() for name in file["names"]]
        for layer in ("fc7", "conv_block_1.0"):
            for other in (npz[layer], mat[layer.replace(".", "_")]):
                assert other.dtype == np.float32
                np.testing.assert_array_equal(other, file[layer][:])
        assert npz["names"].tolist() == [row[0][0] for row in mat["names"]] == names
        assert '"model": "small"' in str(npz["attributes"]) and "small" in mat["attributes"][0]
    assert "is there already" in run(*arguments, "--out", tmp_path / "acts.npz", code=2)


@pytest.mark.slow
def test_reductions_and_kinds_of_images(model, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 70, 80, 3), np.uint8)
    with h5py.File(tmp_path / "stimuli.h5", "w") as file:
        file["images"] = pixels
    out = tmp_path / "acts.h5"
    arguments = ("--layers", "all", "--pool", "mean", "--project", 50, "--seed", 3, "--dtype", "float16")
    run(model, f"{tmp_path}/stimuli.h5:images[1:9:2]", *arguments, "--out", out, "--compute", "bfloat16")
    encoder = load_encoder(model)
    with h5py.File(out) as file:
        assert set(file) == {*encoder.layer_names, "names", "sha256"}
        assert [name.decode() for name in file["names"]] == ["1", "3", "5", "7"]
        assert (
            file["fc7"].shape == file["conv_block_3.1"].shape == (4, 50) and file["fc7"].dtype == np.float16
        )
        assert file.attrs["projection"] == "50 components, seed 3" and file.attrs["compute"] == "bfloat16"
        assert all(np.isfinite(file[name][:]).all() for name in encoder.layer_names)
    text = run(model, "sample", "--layers", "fc7", "conv_block_1.0", "--list-layers")
    assert "15 x 15 x 96" in text and "86,400" in text  # bytes an image
    assert f"{336 * (86_400 + 256) / 1e6:.1f} MB" in text


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("sample", "--layers", "fc77"), "did you mean 'fc7'"),
        (("nowhere",), "neither a file nor a folder"),
        (("sample", "--batch-size", "0"), "--batch-size is 0"),
        (("sample", "--seed", "4294967297"), "--seed is 4294967297; it must lie between 0 and 4294967295"),
        (("sample", "--size", "20"), "needs at least 63"),
        ((), "Give images"),
    ],
)
def test_mistakes_are_explained(arguments, message, model, tmp_path):
    assert message in run(model, *arguments, "--out", tmp_path / "acts.h5", code=2)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def few(images, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("few")
    for i, path in enumerate(sorted(images.rglob("*.png"))[:3]):
        (folder / f"{i}.png").write_bytes(path.read_bytes())
    return folder


def scaled(tmp_path: Path, layer: str, factor: float) -> Path:
    encoder = init_encoder(Model(fc_dim=64), name="scaled", size=64)
    parameters = encoder.variables["params"]
    parameters[layer] = {name: value * factor for name, value in parameters[layer].items()}
    save_encoder(encoder, tmp_path / f"{layer}.safetensors")
    return tmp_path / f"{layer}.safetensors"


@pytest.mark.slow
def test_what_float16_cannot_hold_is_refused_and_nothing_left(few, tmp_path):
    # Before its norm, a layer is as large as its weights.
    large, small = scaled(tmp_path, "conv_block_1_conv", 1e7), scaled(tmp_path, "fc8_linear", 1e-7)
    before = "--layers", "conv_block_1.0"
    half = "--dtype", "float16", "--out", tmp_path / "acts.h5"
    said = command_line.refused(
        tmp_path,
        ("extract.py", large, few, *before, *half),
        ("extract.py", large, few, *before, "--pool", "max", *half),
        ("extract.py", large, few, *before, "--project", 50, *half),
        ("extract.py", large, few, *before, "--compute", "bfloat16", *half[:-1], tmp_path / "acts.npz"),
        ("extract.py", small, few, "--layers", "fc8", *half),
    )
    for line in said[:4]:
        assert "0.png: conv_block_1.0 reaches" in line and "too much for float16; use float32" in line
    assert "0.png: fc8 reaches" in said[4] and "too little for float16; use float32" in said[4]
    run(large, few, *before, "--out", tmp_path / "acts.h5")
    with h5py.File(tmp_path / "acts.h5") as file:
        assert np.isfinite(file["conv_block_1.0"][:]).all() and abs(file["conv_block_1.0"][:]).max() > 65504


def test_activations_that_are_no_numbers_are_refused(few, tmp_path):
    broken = scaled(tmp_path, "fc7_linear", np.nan)
    out = "--out", tmp_path / "acts.h5"
    said = command_line.refused(
        tmp_path,
        ("extract.py", broken, few, "--layers", "fc6", "fc7", *out),
        ("extract.py", broken, few, "--layers", "fc7", "--skip-unreadable", "--dtype", "float16", *out),
    )
    assert all("fc7 of 0.png is not a finite number everywhere" in line for line in said)


def replace(path: Path) -> None:
    """Another image in the place of one, with the same times."""
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    Image.new("RGB", (80, 80), "red").save(path)
    os.utime(path, ns=times)


def test_a_replaced_stimulus_is_noticed(model, few, tmp_path):
    folder, out = tmp_path / "set", tmp_path / "acts.h5"
    shutil.copytree(few, folder)
    run(model, folder, "--out", out)
    before = out.read_bytes()
    replace(folder / "1.png")
    text = run(model, folder, "--out", out, code=2)
    assert "other images: 1 of 3 have changed" in text and "the first of them 1.png" in text
    assert "give another --out, or remove it" in text and out.read_bytes() == before


def looks_whole() -> bytes:
    """A PNG with the right checksums of the wrong content."""
    chunks = (b"IHDR", struct.pack(">IIBBBBB", 80, 80, 8, 2, 0, 0, 0)), (b"IDAT", b"nonsense"), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


@pytest.mark.slow
def test_a_replaced_stimulus_is_noticed_when_an_extraction_goes_on(unbroken, model, images, tmp_path):
    folder, out = tmp_path / "set", tmp_path / "acts.h5"
    shutil.copytree(images, folder)
    last = folder / "scenes" / "40.jpg"
    whole = last.read_bytes()
    last.write_bytes(looks_whole())  # until it is decoded, after the rows before it are written
    arguments = model, folder, "--out", out, "--batch-size", 4
    assert "40.jpg can't be read" in run(*arguments, code=2)
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert set(kept) == {"acts.h5.part", "acts.h5.part.json"}
    last.write_bytes(whole)
    first = folder / "faces" / "3.png"
    content, times = first.read_bytes(), (first.stat().st_atime_ns, first.stat().st_mtime_ns)
    replace(first)
    text = run(*arguments, code=2)
    assert "other images: 1 of 40 have changed" in text and "the first of them faces/3.png" in text
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == kept
    first.write_bytes(content)
    os.utime(first, ns=times)
    assert "Going on after 40 images" in run(*arguments)
    with h5py.File(out) as found, h5py.File(unbroken) as right:
        np.testing.assert_array_equal(found["fc7"][:], right["fc7"][:])


@pytest.mark.slow
def test_rows_of_an_array_that_change_are_noticed(model, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 70, 80, 3), np.uint8)
    arguments = model, f"{tmp_path}/stimuli.h5:images", "--out", tmp_path / "acts.h5"
    for change in (0, 1):
        with h5py.File(tmp_path / "stimuli.h5", "w") as file:
            pixels[2, 0, 0, 0] ^= change
            file["images"] = pixels
        text = run(*arguments, code=2 * change)
    assert "other images: 1 of 3 have changed" in text and "the first of them 2." in text


def test_an_ending_that_is_no_format_is_refused(model, few, tmp_path):
    wrong = [f"acts.{ending}" for ending in ("npy", "csv", "pt", "parquet")]
    asked = [("extract.py", model, few, "--out", tmp_path / name) for name in wrong]
    asked.append(("extract.py", model, few, "--format", "npz", "--out", tmp_path / "acts.h5"))
    said = command_line.refused(tmp_path, *asked)
    for line, name in zip(said, wrong, strict=False):
        assert f"{name} ends in" in line and "known endings: .h5, .hdf5, .hdf, .npz, .mat" in line
    assert "and npz is asked for" in said[-1]
    run(model, few, "--out", tmp_path / "acts.NPZ")
    assert np.load(tmp_path / "acts.NPZ")["fc7"].shape == (3, 64)


def test_a_layer_too_large_for_matlab_is_said_before_the_work(model, tmp_path):
    images = SimpleNamespace(names=["a"] * 8_500_000)  # below 2 GB in float16, which MATLAB hasn't
    extraction = Extraction(
        encoder=load_encoder(model), reader=Reader(make_transform(size=64)), dtype="float16"
    )
    with pytest.raises(ConfigError, match=r"2\.2 GB, and MATLAB's format 5 ends at 2 GB"):
        extraction.write(images, tmp_path / "acts.mat")


def test_home_is_home(model, few, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    run(model, few, "--out=~/acts.h5", cwd=tmp_path)
    assert os.listdir(tmp_path) == ["acts.h5"]


def test_a_second_writer_is_told_who_writes(model, few, tmp_path):
    with file_lock(tmp_path / "acts.h5"):
        text = run(model, few, "--out", tmp_path / "acts.h5", code=2)
    said = text.splitlines()[-1]
    assert f"Another process ({os.getpid()} on " in said and "again when that process is done" in said
    assert "remove" not in text and os.listdir(tmp_path) == []


def test_a_name_that_is_no_text_is_refused_and_nothing_left(model, few, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(few, folder)
    os.rename(os.fsencode(folder / "1.png"), os.fsencode(folder) + b"/caf\xe9.png")
    (tmp_path / "out").mkdir()
    text = run(model, folder, "--out", tmp_path / "out" / "acts.h5", code=2)
    assert "caf" in text and os.listdir(tmp_path / "out") == []
