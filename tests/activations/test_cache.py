"""Activations that read-outs share: never of other images, other code or another's half-written file."""

import dataclasses
import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from ipcl_jax.activations.cache import cached_features
from ipcl_jax.activations.encoder import init_encoder
from ipcl_jax.activations.extract import extract
from ipcl_jax.activations.preprocess import make_transform
from ipcl_jax.activations.stimuli import Reader
from ipcl_jax.config import Model
from ipcl_jax.data.sources import FolderSource
from ipcl_jax.errors import ConfigError, InputError

COUNT = 11


def draw(path: Path, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)  # all of one size in bytes


@pytest.fixture(scope="module")
def encoder():
    return init_encoder(Model(fc_dim=32), name="small", size=64)


@pytest.fixture
def images(tmp_path) -> Path:
    for kind in ("train", "val"):
        (tmp_path / "images" / kind / "noise").mkdir(parents=True)
    draw(tmp_path / "images/train/noise/0.bmp", 0)
    for i in range(COUNT):
        draw(tmp_path / f"images/val/noise/{i}.bmp", i)
    return tmp_path / "images"


READER = Reader(make_transform("stimulus", 64), batch_size=4, threads=2)


def compute(encoder, images: Path, layers=("fc7",), *, dtype="float32", **changes):
    """The layers' values, and how many images were computed for them."""
    steps = []
    reader = dataclasses.replace(READER, progress=lambda done, total: steps.append(done), **changes)
    source, folder = FolderSource(str(images), "val"), images.parent / "cache"
    found = cached_features(encoder, source, layers, reader, dtype=dtype, folder=folder)
    return {name: features.values[:] for name, features in found.items()}, len(steps)


def expected(encoder, images: Path, layer: str) -> np.ndarray:
    pixels = [np.asarray(Image.open(images / f"val/noise/{i}.bmp")) for i in range(COUNT)]
    return np.asarray(extract(encoder, np.stack(pixels), layer)[layer])


def close(found, right) -> bool:
    return np.abs(found - right).max() < 1e-5 * np.abs(right).max()  # another batch size, so other sums


def test_an_image_replaced_by_one_of_the_same_size_and_time_is_computed_anew(encoder, images):
    before, _ = compute(encoder, images)
    replaced = images / "val/noise/3.bmp"
    times = replaced.stat().st_atime_ns, replaced.stat().st_mtime_ns
    draw(replaced, 100)
    os.utime(replaced, ns=times)
    after, steps = compute(encoder, images)
    assert steps and (before["fc7"][3] != after["fc7"][3]).any()
    assert close(after["fc7"], expected(encoder, images, "fc7"))
    assert compute(encoder, images)[1] == 0
    assert len(os.listdir(images.parent / "cache")) == 1


def test_other_code_computes_anew(encoder, images, monkeypatch):
    compute(encoder, images)
    for module in ("store", "cache"):
        monkeypatch.setattr(f"ipcl_jax.activations.{module}.code_version", lambda: "9.9, other")
    assert compute(encoder, images)[1]
    assert compute(encoder, images)[1] == 0


def test_layers_interrupted_at_other_rows_and_gone_on_with_in_other_batches(encoder, images):
    class Killed(Exception):
        pass

    def stop(done, total):
        if done >= 4:
            raise Killed

    source, reader = FolderSource(str(images), "val"), dataclasses.replace(READER, progress=stop)
    with pytest.raises(Killed):
        cached_features(encoder, source, ["fc7"], reader, folder=images.parent / "cache")
    found, steps = compute(encoder, images, ("fc7", "fc8"), batch_size=8)
    assert steps
    for layer in ("fc7", "fc8"):
        assert close(found[layer], expected(encoder, images, layer)), layer


def test_images_that_change_while_they_are_computed_are_not_kept(encoder, images):
    def change(done, total):
        os.utime(images / "val/noise/0.bmp", (1, done))

    source, reader = FolderSource(str(images), "val"), dataclasses.replace(READER, progress=change)
    with pytest.raises(InputError, match="changed while their activations were computed; try again"):
        cached_features(encoder, source, ["fc7"], reader, folder=images.parent / "cache")
    assert os.listdir(images.parent / "cache") == []


def test_a_damaged_entry_is_computed_anew(encoder, images):
    before, _ = compute(encoder, images)
    (entry,) = (images.parent / "cache").iterdir()
    for damage in (
        lambda: entry.write_bytes(b"no HDF5"),
        lambda: os.truncate(entry, entry.stat().st_size // 2),
    ):
        damage()
        after, steps = compute(encoder, images)
        assert steps and (after["fc7"] == before["fc7"]).all()


def test_what_float16_cannot_hold_is_refused(encoder, images):
    large = jax.tree.map(lambda leaf: leaf, encoder.variables)
    large["params"]["fc8_linear"]["kernel"] *= 1e7
    large = dataclasses.replace(encoder, variables=large)
    with pytest.raises(InputError, match=r"0\.bmp: fc8 reaches .*e\+0.*, too much for float16; use float32"):
        compute(large, images, ("fc8",), dtype="float16")
    assert os.listdir(images.parent / "cache") == []
    assert np.isfinite(compute(large, images, ("fc8",))[0]["fc8"]).all()


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"dtype": "int8"}, "dtype is 'int8', expected one of float32, float16"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"threads": 0}, "threads 0"),
        ({"layers": ("fc77",)}, "did you mean 'fc7'"),
    ],
)
def test_arguments_that_cannot_be(wrong, message, encoder, images):
    with pytest.raises(ValueError, match=message):
        compute(encoder, images, **wrong)


def test_threads_that_want_the_same_compute_it_once(encoder, images):
    together = threading.Barrier(3)

    def work(layers):
        together.wait()
        return compute(encoder, images, layers)

    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(work, [("fc7", "fc8"), ("fc8", "fc7"), ("fc7", "fc8")]))
    assert sorted(steps for _, steps in done) == [0, 0, 3]
    for values, _ in done:
        for layer in ("fc7", "fc8"):
            assert (values[layer] == done[0][0][layer]).all()


def first(folder: Path, begun, going_on) -> None:
    encoder = init_encoder(Model(fc_dim=32), name="small", size=64)

    def progress(done, total):
        begun.set()
        going_on.wait(100)

    source, reader = FolderSource(str(folder), "val"), dataclasses.replace(READER, progress=progress)
    cached_features(encoder, source, ["fc7"], reader, folder=folder.parent / "cache")


def test_a_second_process_waits_for_the_first_and_has_what_it_computed(encoder, images, caplog):
    context = multiprocessing.get_context("spawn")
    begun, going_on = context.Event(), context.Event()
    process = context.Process(target=first, args=(images, begun, going_on))
    process.start()
    assert begun.wait(100)
    threading.Timer(0.5, going_on.set).start()
    values, steps = compute(encoder, images)
    process.join(100)
    assert process.exitcode == 0 and steps == 0
    assert f"Another process ({process.pid} on" in caplog.text and "waiting" in caplog.text
    assert close(values["fc7"], expected(encoder, images, "fc7"))


def test_a_killed_process_is_gone_on_with(encoder, images):
    context = multiprocessing.get_context("spawn")
    begun, going_on = context.Event(), context.Event()
    process = context.Process(target=first, args=(images, begun, going_on))
    process.start()
    assert begun.wait(100)
    process.kill()
    process.join(100)
    values, steps = compute(encoder, images)
    assert steps and close(values["fc7"], expected(encoder, images, "fc7"))
    assert len(os.listdir(images.parent / "cache")) == 1


def test_too_many_unreadable_images_leave_nothing(encoder, images):
    (images / "val/noise/5.bmp").write_bytes(b"no image")
    with pytest.raises(ConfigError, match="1 of 11 images can't be read"):
        compute(encoder, images)
    assert os.listdir(images.parent / "cache") == []
