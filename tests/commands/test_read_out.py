"""The read-outs' commands as a user runs them."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy.spatial.distance import squareform

from command_line import refused, run, script
from ipcl_jax import extract, load_encoder, save_encoder
from ipcl_jax.activations.cache import cached_features
from ipcl_jax.activations.encoder import init_encoder
from ipcl_jax.activations.preprocess import make_transform
from ipcl_jax.activations.stimuli import Reader
from ipcl_jax.config import Model
from ipcl_jax.data.sources import open_source
from ipcl_jax.errors import ConfigError
from ipcl_jax.readout.knn import KNNReadout
from ipcl_jax.readout.rsa import rdm


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    save_encoder(init_encoder(Model(fc_dim=64), name="small", size=64), path)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> str:
    """Three classes of coloured noise, 12 images each for training and 6 held out."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 6)):
        for place, name in enumerate(("blue", "green", "red")):
            for i in range(count):
                pixels = rng.integers(0, 160, (70, 80, 3), np.uint8)
                pixels[..., 2 - place] += 90
                path = folder / split / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return f"folder:{folder}"


def features_of(model, images, split, layer):
    """A layer, image by image, without the cache."""
    source, encoder = open_source(images, split), load_encoder(model)
    transform = make_transform("stimulus", 64)
    pixels = np.stack([transform(source[i][0]) for i in range(len(source))])
    return np.asarray(extract(encoder, pixels, [layer])[layer]), source.labels()


def test_knn_is_that_of_python(model, images, cache, tmp_path):
    asked = ("--layer", "fc7", "--data.source", images, "--k", 3, 9, "--json", tmp_path / "scores.json")
    text = run("knn.py", model, *asked, cache=cache)
    assert "18 images tested, 36 vote, 3 classes (chance 33.3%)" in text
    found = json.loads((tmp_path / "scores.json").read_text())
    train, held_out = (features_of(model, images, split, "fc7") for split in ("train", "val"))
    for score in found["scores"]:
        readout = KNNReadout(k=score["k"], temperature=0.07).fit(*train)
        assert score["top1"] == readout.score(*held_out) > 0.5
    kept = sorted((cache / "features").iterdir())
    assert len(kept) == 2 and run("knn.py", model, *asked, cache=cache)
    assert sorted((cache / "features").iterdir()) == kept


def test_knn_without_held_out_images(model, images, cache, tmp_path):
    for protocol in ("leave-one-out", "folds"):
        asked = ("--k", 5, "--protocol", protocol, "--repeats", 2, "--json", tmp_path / "scores.json")
        text = run("knn.py", model, "--layer", "fc7", "--data.source", images, *asked, cache=cache)
        assert "54 images tested, 54 vote" in text
        (score,) = json.loads((tmp_path / "scores.json").read_text())["scores"]
        assert 0.5 < score["top1"] <= 1 and ("top1_sd" in score) == (protocol == "folds")


@pytest.mark.slow
def test_linear_goes_on_as_if_it_had_not_stopped(model, images, cache, tmp_path):
    asked = (
        model, "--layers", "fc7", "conv_block_5", "--data.source", images, "--epochs", 3, "--batch-size", 6,
        "--optim.lr", 0.1,
    )  # fmt: skip
    text = run("linear.py", *asked, "--out", tmp_path / "whole", cache=cache)
    assert "epoch 3: fc7 top-1" in text and "Done: 18 steps" in text
    run("linear.py", *asked, "--out", tmp_path / "parts", "--max-steps", 8, cache=cache)
    assert "Going on after step 8 of 18" in run("linear.py", *asked, "--out", tmp_path / "parts", cache=cache)

    def lines(name):
        read = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in line.items() if k in STAYS or "fc7" in k or "conv" in k} for line in read]

    STAYS = ("step", "epoch", "loss", "lr", "momentum")
    assert lines("whole") == lines("parts")
    assert lines("whole")[-1]["fc7_top1"] > 1 / 3  # chance
    text = run("linear.py", *asked, "--seed", 1, "--out", tmp_path / "whole", code=2, cache=cache)
    assert "holds a run with another config:" in text and "seed: 0 there, 1 here" in text


@pytest.fixture(scope="module")
def brain(model, images, tmp_path_factory) -> dict[str, Path]:
    """RDMs and responses of three subjects whose voxels are units of conv_block_3, with noise; in another order."""
    features, _ = features_of(model, images, "val", "conv_block_3")
    root, rng = Path(images.removeprefix("folder:")) / "val", np.random.default_rng(0)
    flat = features.reshape(len(features), -1)
    flat = (flat - flat.mean(0)) / (flat.std(0) + 1e-6)
    names = np.array(
        [str(Path(name).relative_to(root)) for name in map(open_source(images, "val").describe, range(18))]
    )
    order = rng.permutation(18)
    truth = rdm(features)[np.triu_indices(18, 1)]
    measured = [squareform(truth + 0.1 * truth.std() * rng.normal(size=truth.size)) for _ in range(3)]
    found = {"rdms": np.stack(measured)[:, order][:, :, order]}
    for subject in range(3):
        voxels = flat[:, rng.choice(flat.shape[1], 40, replace=False)]
        repeats = voxels + 0.3 * rng.normal(size=(2, *voxels.shape))
        found[f"responses/{subject}"] = repeats[:, order]
    folder = tmp_path_factory.mktemp("brain")
    np.savez(folder / "brain.npz", names=names[order], **found)
    return {"brain": folder / "brain.npz", "images": root}


@pytest.mark.slow
def test_rsa_finds_the_planted_layer_in_all_measures(model, brain, cache, tmp_path):
    given = model, brain["images"], "--out", tmp_path / "rsa"
    layers = "--layers", "conv_block_1.0", "conv_block_3", "fc7", "l2norm"
    asked = (
        "--brain",
        f"{brain['brain']}:rdms",
        "--responses",
        f"{brain['brain']}:responses",
        "--bootstrap",
        20,
    )
    text = run("rsa.py", *given, *layers, *asked, cache=cache)
    assert "no names" not in text and "noise ceiling" in text
    made = sorted(path.name for path in (tmp_path / "rsa").iterdir())
    assert made == ["cka.png", "layers.png", "rdms.h5", "rdms.png", "scores.json"]
    scores = json.loads((tmp_path / "rsa" / "scores.json").read_text())
    for measure in ("rsa", "encoding", "versa"):
        found = scores[measure]["scores"]
        assert max(found, key=found.get) == "conv_block_3", (measure, found)
    low, high = scores["rsa"]["ceiling"]
    assert low - 0.02 < scores["rsa"]["scores"]["conv_block_3"] <= high + 0.02
    assert scores["cka_biased"]["fc7"]["fc7"] == pytest.approx(1)
    with h5py.File(tmp_path / "rsa" / "rdms.h5") as file:  # which can be given as --brain itself
        assert file["rdms/fc7"].shape == (18, 18) and file["names"].shape == (18,)
    assert "is there already" in refused(cache, ("rsa.py", *given))[0]


def test_rsa_between_models(model, brain, cache, tmp_path):
    out = tmp_path / "deep" / "rsa"
    text = run("rsa.py", model, brain["images"], "--layers", "fc7", "--and", model, "--out", out, cache=cache)
    assert "Wrote" in text
    scores = json.loads((out / "scores.json").read_text())
    assert scores["cka_debiased"]["fc7"]["fc7"] == pytest.approx(1)


def test_brain_data_that_do_not_fit_are_refused(model, brain, cache, tmp_path):
    data = dict(np.load(brain["brain"]))
    cases = {
        "names": ({"names": np.array([f"x{i}" for i in range(18)])}, "not those of the stimuli: x0"),
        "size": ({"rdms": data["rdms"][:, :9, :9]}, "is of 9 images, and there are 18 stimuli"),
        "nan": ({"rdms": data["rdms"] * np.nan}, "not finite"),
    }
    for case, (change, _) in cases.items():
        np.savez(tmp_path / f"{case}.npz", **data | change)
    given = "rsa.py", model, brain["images"], "--out", cache / "rsa", "--brain"
    said = refused(cache, *((*given, f"{tmp_path}/{case}.npz:rdms") for case in cases))
    for line, (_, message) in zip(said, cases.values(), strict=True):
        assert message in line


def test_what_makes_no_sense_is_refused(model, images, brain, cache, tmp_path):
    (tmp_path / "one").mkdir()
    Image.new("RGB", (70, 70)).save(tmp_path / "one" / "1.png")
    labelled, out = (model, "--data.source", images), ("--out", cache / "rsa")
    stimuli, report = (model, brain["images"], *out), (*labelled, *out)
    cases = [
        (
            ("knn.py", *labelled, "--k", 50),
            "--k is 50; it must lie between 1 and 36, the images that can vote",
        ),
        (("knn.py", *labelled, "--layer", "fc9"), "fc9"),
        (("knn.py", *labelled, "--k", 5, "--temperature", 0), "--temperature is 0.0; it must be above 0"),
        (("knn.py", *labelled, "--protocol", "folds", "--folds", 99), "--folds is 99"),
        (("knn.py", *labelled, "--size", 8), "--size is 8 pixels"),
        (("linear.py", *labelled, "--layers", "fc9"), "fc9"),
        (("linear.py", *labelled, "--batch-size", 99), "99"),
        (("rsa.py", *stimuli, "--layers", "fc9"), "fc9"),
        (("rsa.py", *stimuli, "--brain", tmp_path / "none.npz"), "There is no file"),
        (("rsa.py", *stimuli, "--and", tmp_path / "none"), "none"),
        (("rsa.py", model, tmp_path / "one", *out), "1 images are too few"),
        (
            ("rsa.py", *stimuli, "--responses", brain["brain"], "--folds", 7),
            "--folds is 7; 18 images can be dealt out to 2 to 6",
        ),
        (("knn.py", *labelled, "--k", 5, "--temperature", "nan"), "--temperature is nan"),
        (("report.py", *report), "--k is 200; it must lie between 1 and 36, the images that can vote"),
        (("report.py", *report, "--k", 5, "--layer", "fc9"), "fc9"),
        (("report.py", *report, "--k", 5, "--layers", "fc9"), "fc9"),
        (
            ("report.py", *report, "--k", 5, "--chosen", 18),
            "--chosen 18 is none of the held-out images, 0 to 17",
        ),
        (("report.py", *report, "--k", 5, "--shown", 4), "a map takes 8 or more"),
        (("report.py", *report, "--k", 5, "--linear", tmp_path), "not the folder of a linear read-out"),
        (("report.py", model, tmp_path / "none", *report[1:], "--k", 5), "none"),
        (("report.py", *labelled, "--k", 5, "--out", tmp_path / "one"), "is there already"),
    ]
    said = refused(cache, *(command for command, _ in cases))
    for line, (command, message) in zip(said, cases, strict=True):
        assert message in line, command


def test_home_is_home_and_bad_numbers_are_no_json(tmp_path, monkeypatch):
    rsa = script("rsa.py")
    monkeypatch.setenv("HOME", str(tmp_path))
    with rsa.new_folder(Path("~/deep/x")) as part:
        (part / "a").write_text("a")
    assert (tmp_path / "deep" / "x" / "a").exists()
    with pytest.raises(ConfigError, match="is there already"):
        rsa.check_new(Path("~/deep/x"))
    stimuli = SimpleNamespace(names=["a"] * 8)
    with pytest.raises(ValueError, match="not JSON compliant"):
        rsa.write(Path("~/y"), {}, stimuli, {"metric": "cosine", "a": float("nan")})
    assert not (tmp_path / "y").exists()


def test_images_without_labels_or_of_one_class_are_refused(model, images, cache, tmp_path):
    root = Path(images.removeprefix("folder:"))
    for split in ("train", "val"):
        (tmp_path / "one" / split).mkdir(parents=True)
        (tmp_path / "one" / split / "red").symlink_to(root / split / "red")
    commands = [("knn.py", model), ("linear.py", model), ("report.py", model, "--k", 5)]
    one = refused(cache, *((*command, "--data.source", f"folder:{tmp_path}/one") for command in commands))
    assert all("only one class, red" in line for line in one)
    none = refused(cache, *((*command, "--data.source", f"folder:{root}/train/red") for command in commands))
    assert all("no labels" in line for line in none)


@pytest.mark.slow
def test_features_that_are_not_numbers_are_refused(images, brain, cache, tmp_path):
    encoder = init_encoder(Model(fc_dim=64), name="broken", size=64)
    encoder.variables["params"]["fc7_linear"]["bias"] *= np.nan
    save_encoder(encoder, tmp_path / "broken.safetensors")
    labelled = tmp_path / "broken.safetensors", "--data.source", images
    said = refused(
        cache,
        ("knn.py", *labelled, "--layer", "fc7", "--k", 5),
        ("linear.py", *labelled, "--batch-size", 6),
        ("report.py", *labelled, "--layer", "fc7", "--k", 5),
        ("rsa.py", tmp_path / "broken.safetensors", brain["images"], "--layers", "fc7"),
    )
    assert all("fc7 of" in line and "0.png is not a finite number everywhere" in line for line in said[:3])
    assert "images are not finite numbers; the first is in row 0" in said[3]


def test_the_cache_knows_what_it_holds(model, images, tmp_path):
    source, encoder = open_source(images, "val"), load_encoder(model)
    calls = []

    def features(**changes):
        transform = changes.get("transform", make_transform("stimulus", 64))
        reader = Reader(transform, threads=1, progress=lambda *done: calls.append(done))
        dtype, chosen = changes.get("dtype", "float32"), changes.get("encoder", encoder)
        return cached_features(chosen, source, ["fc7"], reader, dtype=dtype, folder=tmp_path)["fc7"]

    first = features()
    expected, _ = features_of(model, images, "val", "fc7")
    # Another batch size, so other sums; float32.
    np.testing.assert_allclose(first.values[:], expected, rtol=1e-4, atol=1e-5)
    assert first.readable.all() and calls[-1] == (18, 18)
    calls.clear()
    np.testing.assert_array_equal(features().values[:], first.values[:])
    assert not calls
    for other in (
        {"transform": make_transform("validation", 64)},
        {"dtype": "float16"},
        {"encoder": init_encoder(Model(fc_dim=64), seed=1, size=64)},
    ):
        assert (features(**other).values[:] != first.values[:]).any() and calls
        calls.clear()
    assert len(list(tmp_path.iterdir())) == 4
    changed = Path(images.removeprefix("folder:")) / "val" / "red" / "0.png"
    os.utime(changed, (1, 1))
    features()
    assert calls
