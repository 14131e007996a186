"""The comparison with brain data, as a user makes it."""

import csv
import json
import shutil
import time

import h5py
import numpy as np
import pytest

from command_line import refused, run, start
from comparison.made_up_world import COUNT, write_images
from ipcl_jax import extract, load_encoder, load_stimuli, save_encoder
from ipcl_jax.activations.encoder import init_encoder
from ipcl_jax.config import Model

REGIONS = "[red]V1 $a$ <b>", "视觉 [/x]"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a model, its images, and two subjects' responses in regions with difficult names."""
    root = tmp_path_factory.mktemp("world")
    write_images(root / "images")
    save_encoder(init_encoder(Model(fc_dim=48), name="small", size=64), root / "small.safetensors")
    rng, names = np.random.default_rng(0), [f"{i:02}.png" for i in range(COUNT)]
    with h5py.File(root / "betas.h5", "w") as file:
        file["names"] = names
        for subject in ("one", "two"):
            file[f"responses/{subject}"] = rng.normal(size=(COUNT, 30))
            file[f"regions/{subject}"] = np.repeat(np.array([REGIONS[0], REGIONS[1].replace("/", "|")], object), 15)
    return root


def arguments(world, *more):
    return (
        "brain.py", world / "small.safetensors", "--data", f"arrays:{world / 'betas.h5'}", "--stimuli",
        world / "images", "--layers", "conv_block_5", "fc7", *more,
    )  # fmt: skip


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_command_gives_the_same_bytes_also_after_it_was_killed(world, tmp_path):
    command = arguments(world, "--measures", "encoding", "--out", "brain")
    (tmp_path / "a").mkdir()
    text = run(*command, cwd=tmp_path / "a")
    assert REGIONS[0] in text and "\\[" not in text
    warned = [line for line in text.splitlines() if line.startswith("warning: ")]
    assert len(warned) == len(set(warned))  # of characters that the figures' font lacks
    first = content(tmp_path / "a")
    run(*command, cwd=tmp_path / "a")
    assert content(tmp_path / "a") == first
    (tmp_path / "b").mkdir()
    process = start(*command, cwd=tmp_path / "b")
    while process.poll() is None and not list((tmp_path / "b").rglob("scores/*/*/*.json")):
        time.sleep(0.01)
    process.kill()
    process.communicate()
    run(*command, cwd=tmp_path / "b")
    second = content(tmp_path / "b")
    assert {path: second[path] for path in first} == first


def test_data_that_were_changed_after_a_kill_are_refused(world, tmp_path):
    for name in ("small.safetensors", "betas.h5"):
        shutil.copy(world / name, tmp_path)
    (tmp_path / "images").symlink_to(world / "images")
    command = arguments(tmp_path, "--measures", "encoding", "--out", tmp_path / "out")
    process = start(*command)
    while process.poll() is None and not list((tmp_path / "out").rglob("scores/*/*/*.json")):
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert not (tmp_path / "out" / "scores.csv").exists()
    with h5py.File(tmp_path / "betas.h5", "r+") as file:
        file["responses/one"][0, 0] += 1
    assert "subjects.one.responses_sha256" in run(*command, code=2)


def test_refusals_are_one_line_and_touch_nothing(world):
    other = ("--out", "out")
    lines = refused(
        world,
        arguments(world, "--measures", *other),
        arguments(world, "--measures", "encodin", *other),
        arguments(world, "--regions", *other),
        arguments(world, "--memory", "inf", *other),
        arguments(world, "--measures", "konkle2022", *other),
        arguments(world, "--subjects", "three", *other),
        ("brain.py", world / "small.safetensors", *arguments(world, *other)[1:]),
        arguments(world, "--encoding-folds", 40, *other),
    )
    expected = (
        "--measures names none", "Did you mean 'encoding'", "--regions names none", "--memory is inf",
        "can't be halved", "no subject 'three'", "Two models are named small", "in 40 folds",
    )  # fmt: skip
    for line, part in zip(lines, expected, strict=True):
        assert part in line
    assert not (world / "out").exists()


def test_one_subject_without_a_best_layer(world, tmp_path):
    text = run(*arguments(world, "--subjects", "one", "--measures", "rsa", "--out", tmp_path / "out"))
    assert "other subjects" in text
    page = (tmp_path / "out" / "brain.html").read_text(encoding="utf-8")
    assert "no other data that a best layer could be chosen on" in page and "&lt;b&gt;" in page
    assert json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))["best"] == []


def test_scores_of_another_shape_are_refused(world, tmp_path):
    command = arguments(world, "--measures", "encoding", "--out", tmp_path / "out")
    run(*command)
    kept = next((tmp_path / "out" / "scores").rglob("fc7.json"))
    kept.write_text('{"V1": 3}', encoding="utf-8")
    assert "fc7.json does not hold scores; remove it" in run(*command, code=2)


def test_encoding_is_that_of_scikit_learn(world, tmp_path):
    """With one penalty, to 1e-5: features are float32."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    run(*arguments(world, "--measures", "encoding", "--encoding-alphas", 0.1, "--out", tmp_path / "out"))
    encoder, names = load_encoder(world / "small.safetensors"), [f"{i:02}.png" for i in range(COUNT)]
    features = np.asarray(
        extract(encoder, load_stimuli([world / "images" / name for name in names], encoder), ["fc7"])["fc7"], np.float64
    )
    with h5py.File(world / "betas.h5") as file:
        responses = file["responses/one"][:, :15]
    places, scores = np.random.default_rng(0).permutation(COUNT) % 5, []
    for fold in range(5):
        fitted = places != fold
        penalty = 0.1 * features[fitted].var(0).sum()  # in units of the layer's mean variance
        predicted = linear_model.Ridge(alpha=penalty).fit(features[fitted], responses[fitted]).predict(features[~fitted])
        pairs = zip(predicted.T, responses[~fitted].T, strict=True)
        scores.append(np.mean([np.corrcoef(*pair)[0, 1] for pair in pairs]))
    with open(tmp_path / "out" / "scores.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = [
        float(row["score"])
        for row in rows
        if (row["layer"], row["region"], row["subject"]) == ("fc7", REGIONS[0], "one")
    ]
    np.testing.assert_allclose(found, scores, atol=1e-5)
