"""Files of an earlier version are read and gone on with; `earlier/make.py` made them, and says by which version."""

import gzip
import json
import os
import shutil
from pathlib import Path

import h5py
import jax
import numpy as np
import pytest

from command_line import run
from ipcl_jax import extract, load_encoder, load_stimuli

EARLIER = Path(__file__).with_name("earlier")
TIME = 1_700_000_000  # of the images' last change, which a run notes
LINEAR = (
    "linear.py run --layers conv_block_5 fc7 --data.source folder:images --data.canvas 64 64 --data.threads 1 "
    "--batch-size 4 --epochs 2 --out linear"
).split()
EXTRACT = "extract.py run images/val --layers fc7 --batch-size 2 --threads 1 --out".split()


@pytest.fixture
def place(tmp_path):
    """A copy of what was written then."""
    shutil.copytree(EARLIER / "made", tmp_path, dirs_exist_ok=True)
    for path in tmp_path.glob("images/**/*.png"):
        os.utime(path, (TIME, TIME))
    return tmp_path


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def same_course(found: Path, expected: Path) -> None:
    """The lines of a log but for its times, which agree to what float32 sums in another order come to."""
    for line, right in zip(lines(found), lines(expected), strict=True):
        for name, value in right.items():
            # The gradient at weights that are all alike is nearly 0, and so nothing but rounding.
            if not name.startswith(("views_per", "wait", "input", "grad_norm")):
                assert line[name] == (pytest.approx(value, rel=1e-4, abs=1e-6) if name != "kind" else value), name


@pytest.mark.slow
def test_a_run_is_gone_on_with(place):
    said = run("train.py", "--config", "./tiny.py", "--max-steps", "4", cwd=place)
    assert "Going on after step 2 of 4." in said and "version 0.1" not in said
    same_course(place / "run/metrics.jsonl", place / "expected/run.jsonl")


def test_a_linear_read_out_is_gone_on_with(place):
    said = run(*LINEAR, cwd=place, cache=place / "cache")
    assert "Going on after step 2 of 4." in said
    same_course(place / "linear/metrics.jsonl", place / "expected/linear.jsonl")


def test_activations_are_read_and_gone_on_with(place):
    assert "whole.h5 is complete already: 6 images." in run(*EXTRACT, "whole.h5", cwd=place)
    said = run(*EXTRACT, "part.h5", cwd=place)
    assert "Going on after 2 images." in said
    with h5py.File(place / "whole.h5") as whole, h5py.File(place / "part.h5") as part:
        assert whole.keys() == part.keys() and whole.attrs["weights_sha256"] == part.attrs["weights_sha256"]
        np.testing.assert_array_equal(part["names"][:], whole["names"][:])
        # Rows 2 to 6 are of this version, those of the other file all of the earlier one.
        np.testing.assert_allclose(part["fc7"][:], whole["fc7"][:], rtol=1e-5, atol=1e-6)


def test_models_are_read(place, monkeypatch):
    monkeypatch.chdir(place)
    with gzip.open("tiny.safetensors.gz") as packed:
        Path("tiny.safetensors").write_bytes(packed.read())
    kept, trained = load_encoder("tiny.safetensors"), load_encoder("run")
    assert kept.digest() == trained.digest() and (kept.name, kept.steps) == ("tiny", 2)
    files = sorted(str(path) for path in Path("images/val").rglob("*.png"))
    with h5py.File("whole.h5") as whole:
        features = extract(kept, load_stimuli(files, kept), "fc7")["fc7"]
        np.testing.assert_allclose(features, whole["fc7"][:], rtol=1e-5, atol=1e-6)
    assert jax.tree.structure(kept.variables) == jax.tree.structure(trained.variables)
