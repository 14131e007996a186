"""Tables of measurements, what was compiled meanwhile, and the images they are made on."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ipcl_jax.benchmarks import material, turns
from ipcl_jax.benchmarks.cards import find_card
from ipcl_jax.benchmarks.compilations import Compilations, Program
from ipcl_jax.benchmarks.turns import Measured, compare, save
from ipcl_jax.errors import ConfigError


def test_ratios_to_every_other_column():
    table = Measured("t", "s", ("ours", "torch", "other"), [(2.0, 1.0, 4.0), (6.0, 2.0, 3.0)])
    summary = table.summary()
    assert summary["ratio"] == {"median": 2.5, "lowest": 2.0, "highest": 3.0}
    assert summary["ratio to other"] == {"median": 1.25, "lowest": 0.5, "highest": 2.0}


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "a.json"
    save([], path)
    assert json.loads(path.read_text())["device"] is None
    with pytest.raises(TypeError):
        save([Measured("t", facts={"device": "d", "bad": object()})], path)
    assert json.loads(path.read_text())["tables"] == []
    assert list(tmp_path.iterdir()) == [path]


def test_compilations_are_recorded_within_the_block_only():
    def doubled_and_more(x):
        return 2 * x + 3

    with Compilations() as compilations:
        jax.jit(doubled_and_more)(jnp.arange(7.0))
        jax.jit(doubled_and_more)(jnp.arange(7.0))
    jax.jit(doubled_and_more)(jnp.arange(9.0))
    names = [program.name for program in compilations.programs]
    assert names.count("doubled_and_more") == 1
    assert (
        compilations.facts()["compilation, s"]
        == sum(program.seconds for program in compilations.programs)
        > 0
    )


def test_long_compilations_are_named():
    compilations = Compilations()
    compilations.programs = [
        Program("short", 0.25, 0.0),
        Program("step", 2.0, 0.0),
        Program("views", 40.0, 0.0),
    ]
    compilations.cached = 1
    facts = compilations.facts()
    assert facts == {
        "compilation, s": 42.25,
        "compiled": "views 40.0 s, step 2.0 s, 1 more, 1 of all from the cache",
    }


@pytest.mark.parametrize("seconds, repetitions", [(0.6, 1), (0.3, 2), (0.1, 20), (0.02, 40), (0.001, 500)])
def test_short_work_on_a_gpu_is_repeated_in_whole_groups(seconds, repetitions, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(turns, "_seconds", lambda work, times: work(times) or seconds * times)
    done = []
    table = Measured("t", "views/s", ("ours",))
    compare(table, 3, done.append, 640, None, None, group=20)
    assert done == [1, 1, repetitions, repetitions, repetitions]
    assert table.turns == [(pytest.approx(640 / seconds),)] * 3


def test_limits_of_a_card():
    card = find_card("NVIDIA H100 80GB HBM3")
    assert card.bandwidth == 3350 and card.bfloat16 == 989
    assert find_card("cpu") is None


def test_images_without_the_packages_of_the_photographs(tmp_path, monkeypatch):
    def missing():
        raise ConfigError("not installed")

    monkeypatch.setattr(material, "photographs", missing)
    assert material.origin().startswith("of noise")
    material.write_jpegs(tmp_path, 3, side=64)
    sizes = [Image.open(tmp_path / f"{i}.jpg").size for i in range(3)]
    assert all(min(size) == 64 for size in sizes)
    pixels = np.asarray(Image.open(tmp_path / "0.jpg"), np.float32)
    assert 30 < pixels.std() < 80  # neither flat nor black and white
    # Near pixels are alike, as in a photograph, or the JPEG would take much longer to decode.
    assert np.abs(np.diff(pixels, axis=1)).mean() < 0.6 * pixels.std()
