"""The command `reproduce` in a world of stand-ins, whose numbers are computed by another path."""

import dataclasses
import functools
import itertools
import json
import time
from pathlib import Path

import h5py
import jax
import numpy as np
import pytest
import scipy.io
from PIL import Image

from command_line import refused, run, start
from convert.models import MADE_BY
from ipcl_jax import extract, load_encoder, save_encoder
from ipcl_jax.activations.encoder import init_encoder
from ipcl_jax.activations.preprocess import make_transform
from ipcl_jax.commands import main as ipcl
from ipcl_jax.data.sources import open_source
from ipcl_jax.reproduction.brain import ALPHA
from ipcl_jax.reproduction.published import DIETS, GROUPS, REGIONS, ROWS
from ipcl_jax.zoo import MODELS
from paper_golden import Region, knn_top1

LAYERS = "conv_block_2", "fc7"
KNN = "--knn.k", 9, "--knn.temperature", 0.2
LINEAR = "--linear.epochs", 2, "--linear.batch-size", 6, "--linear.lr", 0.1


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """Stand-ins of the released models, small and different, kept as their converted copies are."""
    folder, drawn, rng = tmp_path_factory.mktemp("cache"), functools.cache(init_encoder), np.random.default_rng(0)
    for record in MODELS.values():
        if record.file:
            encoder = drawn(dataclasses.replace(record.model, fc_dim=32), size=64)
            encoder = jax.tree.map(lambda leaf: leaf * rng.uniform(0.2, 1.8, leaf.shape).astype(np.float32), encoder)
            facts = {"name": record.name, "mean": record.mean, "std": record.std, "source": f"{record.sha256:0<64}"}
            save_encoder(dataclasses.replace(encoder, **facts), folder / f"{record.name}.safetensors", header=MADE_BY)
    return folder


def picture(rng, channel: int) -> Image.Image:
    pixels = rng.integers(0, 150, (70, 80, 3), np.uint8)
    pixels[..., channel] += 100
    pixels[: rng.integers(10, 60), : rng.integers(10, 70)] //= 2
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory) -> str:
    """Three classes, 12 images each for training and 6 held out."""
    folder, rng = tmp_path_factory.mktemp("imagenet"), np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 6)):
        for channel, name in enumerate(("blue", "green", "red")):
            for i in range(count):
                path = folder / split / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                picture(rng, channel).save(path)
    return f"folder:{folder}"


class Brain:
    """A set of stand-in brain data.

    Args:
        folder: for its images.
        images: number of images.
        subjects: number of subjects.
        seed: of all.
    """

    def __init__(self, folder: Path, images: int, subjects: int, seed: int):
        rng = np.random.default_rng(seed)
        self.stimuli, self.names = folder, [f"object{i:02}.png" for i in range(images)]
        folder.mkdir()
        for i, name in enumerate(self.names):
            picture(rng, i % 3).save(folder / name)
        # All subjects share some structure, and the images' colour is part of it.
        self.responses = {}
        for place, region in enumerate(REGIONS):
            shared = np.column_stack([np.eye(3)[np.arange(images) % 3], rng.normal(size=(images, 3))])
            self.responses[region] = [
                np.float32(shared @ rng.normal(size=(6, 7 + s)) + (0.5 + place) * rng.normal(size=(images, 7 + s)))
                for s in range(subjects)
            ]

    def golden(self, cache: Path, models) -> dict[str, Region]:
        layers = {}
        for model in models:
            encoder, transform = load_encoder(cache / f"{model}.safetensors"), make_transform("stimulus", 64)
            pixels = np.stack([transform((self.stimuli / name).read_bytes()) for name in self.names])
            found = extract(encoder, pixels, LAYERS)
            layers[model] = [np.asarray(found[name]).reshape(len(pixels), -1) for name in LAYERS]
        return {region: Region(layers, responses) for region, responses in self.responses.items()}


@pytest.fixture(scope="module")
def orientation(tmp_path_factory) -> tuple[Brain, tuple]:
    folder = tmp_path_factory.mktemp("orientation")
    brain = Brain(folder / "images", 10, 4, seed=1)
    with h5py.File(folder / "orientation.h5", "w") as file:
        file["names"] = brain.names
        for s in range(4):
            parts = [brain.responses[region][s] for region in REGIONS]
            file[f"responses/sub{s}"] = np.concatenate(parts, 1)
            file[f"regions/sub{s}"] = np.repeat(REGIONS, [part.shape[1] for part in parts]).tolist()
    given = "--orientation", f"arrays:{folder}/orientation.h5", "--orientation-stimuli", brain.stimuli
    return brain, (*given, "--layers", *LAYERS)


@pytest.fixture(scope="module")
def inanimate(tmp_path_factory) -> tuple[Brain, tuple]:
    """In the layout of the lab's file: the second subject is left out, and so are unreliable voxels."""
    folder = tmp_path_factory.mktemp("inanimate")
    brain, rng = Brain(folder / "images", 12, 5, seed=2), np.random.default_rng(3)
    betas, reliability = {}, {}
    for region, responses in brain.responses.items():
        betas[region], reliability[region] = (np.empty(6, object) for _ in range(2))
        for place, s in enumerate([0, None, 1, 2, 3, 4]):
            values = rng.normal(size=(12, 9)) if s is None else responses[s]
            noise = rng.normal(size=(3, 12))
            betas[region][place] = np.concatenate([values.T, noise])  # [V, 72]
            reliability[region][place] = np.concatenate([np.full(values.shape[1], 0.5), np.full(3, 0.1)])
    struct = {"conditions": np.array(brain.names, object), "Betas": betas, "Reliability": reliability}
    scipy.io.savemat(folder / "ExploringObjectsData_SECTORS.mat", {"SECTORS": struct})
    return brain, ("--objects72", folder, "--stimuli", brain.stimuli, "--layers", *LAYERS)


@pytest.fixture
def reproduce(cache, monkeypatch, capsys):
    """Runs the command in this process, as `ipcl reproduce` does; returns what it says."""
    monkeypatch.setenv("IPCL_JAX_CACHE", str(cache))

    def call(*arguments, code: int = 0) -> str:
        found = ipcl.run("reproduce", *map(str, arguments))
        said = capsys.readouterr()
        assert found == code, said
        return said.out

    return call


def result(out: Path) -> dict[str, dict]:
    return {row["id"]: row for row in json.loads((out / "reproduction.json").read_text())["rows"]}


def write(path: Path, values: dict[str, float], tolerance: float) -> Path:
    path.write_text(json.dumps({n: {"published": float(v), "tolerance": tolerance} for n, v in values.items()}))
    return path


def golden_knn(cache: Path, imagenet: str, model: str) -> float:
    encoder, transform = load_encoder(cache / f"{model}.safetensors"), make_transform("stimulus", 64)
    layer, found = encoder.layer_names[-1], []
    for split in ("train", "val"):
        source = open_source(imagenet, split)
        pixels = np.stack([transform(source[i][0]) for i in range(len(source))])
        found += [np.asarray(extract(encoder, pixels, [layer])[layer]), source.labels()]
    return knn_top1(*found, k=9, temperature=0.2)


def golden_set(name: str, figure: str, found: dict[str, Region]) -> dict[str, float]:
    values = {}
    for region, golden in found.items():
        values[f"{figure}/{name}/ceiling/{region}"] = golden.ceiling
        for group, models in GROUPS.items():
            if set(models) <= set(golden.best):
                values[f"{figure}/{name}/{group}/{region}"] = golden.share(models)
    if set(DIETS) <= set(found["EarlyV"].best):
        by = {m: np.mean([abs(g.score(m) - g.score("ipcl6")) for g in found.values()]) for m in DIETS}
        values[f"fig4/{name}/diets"] = float(np.mean(list(by.values())))
        values[f"fig4/{name}/outlier"] = 1 + sum(value > by["ipcl9"] for value in by.values())
    return values


def test_a_row_alone_and_one_that_is_off(reproduce, cache, imagenet, tmp_path):
    golden = golden_knn(cache, imagenet, "ipcl2")
    assert 34 < golden < 100  # neither chance nor perfect
    out, name = tmp_path / "out", "s1/knn/ipcl2"
    # One image of 18 may be tipped over by sums in another order; half of one is 2.8 points.
    asked = "--imagenet", imagenet, "--rows", name, *KNN, "--out", out, "--published"
    said = reproduce(*asked, write(tmp_path / "same.json", {name: golden}, 2.7))
    (row,) = result(out).values()
    assert row["ours"] == pytest.approx(golden) and row["verdict"] == "ok" and row["details"]["queries"] == 18
    assert "1 ok, 0 off, 0 not run" in said
    once = (out / "reproduction.json").read_bytes(), sorted(path.name for path in out.rglob("*"))
    # Kept: neither images nor votes are computed again, and the result is the same.
    said = reproduce(*asked, tmp_path / "same.json")
    assert "images tested" not in said
    assert once == ((out / "reproduction.json").read_bytes(), sorted(path.name for path in out.rglob("*")))
    # A published number that differs.
    said = reproduce(*asked, write(tmp_path / "other.json", {name: golden + 3}, 2.7), code=1)
    assert "Off: s1/knn/ipcl2" in said and result(out)[name]["verdict"] == "off"
    # Other settings are computed anew. (The second --knn.k counts.)
    reproduce(*asked, write(tmp_path / "any.json", {name: golden}, 100), "--knn.k", 36)
    assert result(out)[name]["details"]["scores"][0]["k"] == 36


def test_brain_rows_equal_those_of_scikit_learn(reproduce, cache, orientation, tmp_path):
    brain, given = orientation
    values = golden_set("orientation", "fig2", brain.golden(cache, GROUPS["category"]))
    assert len(values) == 6
    # Kernels are of float32 activations, and shares are in percent.
    published = write(tmp_path / "golden.json", values, 1e-3)
    out = tmp_path / "out"
    asked = *given, "--rows", "fig2/orientation/c*", "--published", published, "--out", out
    said = reproduce(*asked)
    assert "6 ok, 0 off, 0 not run" in said and "Off" not in said
    # Ceilings alone need no model, and go into the same folder.
    reproduce(*given, "--rows", "fig2/*/ceiling/*", "--published", published, "--out", out)
    assert {row["verdict"] for row in result(out).values()} == {"ok"} and len(result(out)) == 3
    name = "fig2/orientation/category/pOTC"
    (tmp_path / "golden.json").write_text(json.dumps({name: values[name] + 10}))
    said = reproduce(*given, "--rows", name, "--published", published, "--out", out, code=1)
    assert f"Off: {name}" in said
    reproduce(*given, "--rows", name, "--share", "correlation", "--out", out, code=1)
    row = result(out)[name]
    ceiling = row["details"]["ceiling"]
    assert row["ours"] == pytest.approx(100 * np.mean(list(row["details"]["r"].values())) / ceiling)


def test_the_labs_file_of_72_objects(reproduce, cache, inanimate, tmp_path):
    brain, given = inanimate
    golden = {f"fig3/inanimate/ceiling/{name}": r.ceiling for name, r in brain.golden(cache, ()).items()}
    published = write(tmp_path / "golden.json", golden, 1e-6)  # responses are float32
    said = reproduce(*given, "--rows", "*/ceiling/*", "--published", published, "--out", tmp_path / "out")
    assert "3 ok, 0 off, 3 not run" in said and "note: subject02 is left out" in said
    reproduce(*given, "--rows", *golden, "--published", published, "--min-reliability", -1, "--out", tmp_path / "all", code=1)


def test_a_command_that_was_killed_goes_on(cache, orientation, tmp_path):
    _, given = orientation
    asked = *given, "--rows", "fig2/orientation/category/*"
    run("reproduce.py", *asked, "--out", tmp_path / "whole", code=1, cache=cache)
    killed = start("reproduce.py", *asked, "--out", tmp_path / "parts", cache=cache)
    scores = tmp_path / "parts" / "brain" / "orientation" / "scores"
    while killed.poll() is None and not list(scores.rglob("*.json")):
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    assert not (tmp_path / "parts" / "reproduction.json").exists()
    assert list(scores.rglob("[!.]*.json"))
    run("reproduce.py", *asked, "--out", tmp_path / "parts", code=1, cache=cache)
    whole, parts = ((tmp_path / name / "reproduction.json").read_bytes() for name in ("whole", "parts"))
    assert whole == parts


def test_data_that_is_not_given(reproduce, cache, imagenet, tmp_path):
    said = run("reproduce.py", cache=cache, cwd=tmp_path, columns=80)
    assert "Nothing was computed" in said and not list(tmp_path.iterdir())
    assert all(name in said for name in ROWS) and max(map(len, said.splitlines())) <= 80
    out = tmp_path / "out"
    said = reproduce("--imagenet", imagenet, "--rows", "s1/knn/ipcl2", "fig*", *KNN, "--out", out, code=1)
    assert "11 rows not run, which need --objects72." in said
    assert "1 rows not run, which need --orientation and --objects72." in said
    verdicts = {name: row["verdict"] for name, row in result(out).items()}
    assert verdicts.pop("s1/knn/ipcl2") == "off" and set(verdicts.values()) == {"not run"}


def test_what_makes_no_sense_is_refused(cache, imagenet, orientation, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "photo.png").write_bytes(b"")
    (tmp_path / "bad.json").write_text('{"s1/knn/x": 1}')
    given = "reproduce.py", "--imagenet", imagenet, "--rows", "s1/knn/ipcl2"
    cases = {
        ("reproduce.py", "--rows", "fig3/inanimate/ceiling/pOTC"): "fig3/inanimate/ceiling/pOTC needs --objects72",
        ("reproduce.py", *orientation[1], "--rows", "fig2-3/comparisons"): "fig2-3/comparisons needs --objects72",
        ("reproduce.py", "--rows", "fig5/*"): "no row 'fig5/*'",
        (*given, "--out", tmp_path / "other"): "holds other files, such as photo.png",
        (*given, "--out", tmp_path / "bad.json"): "is a file",
        (*given, "--published", tmp_path / "bad.json"): "no row 's1/knn/x'",
        (*given, "--published", tmp_path / "none.json"): "none.json can't be read",
        (*given, "--memory", 0): "--memory is 0.0",
    }
    for line, (command, message) in zip(refused(cache, *cases), cases.items(), strict=True):
        assert message in line, command


@pytest.mark.slow  # 15 models in three read-outs
def test_a_whole_world(cache, imagenet, orientation, inanimate, tmp_path):
    files = [name for name, record in MODELS.items() if record.file]
    compared = [name for name in files if name in {"ipcl6", *DIETS, *itertools.chain(*GROUPS.values())}]
    values = {f"s1/knn/{name}": golden_knn(cache, imagenet, name) for name in files}
    worse = 0
    for (brain, _), name, figure in ((orientation, "orientation", "fig2"), (inanimate, "inanimate", "fig3")):
        found = brain.golden(cache, compared)
        values |= golden_set(name, figure, found)
        for region, model, other in itertools.product(REGIONS, GROUPS["ipcl"], GROUPS["category"]):
            worse += found[region].worse(model, other, ALPHA)
    values["fig2-3/comparisons"] = 60 - worse
    for name in files:
        if f"s1/linear/{name}" in ROWS:
            linear = tmp_path / "linear" / name
            run(
                "linear.py", name, "--layers", "fc7", "--data.source", imagenet, "--epochs", 2, "--batch-size", 6,
                "--optim.lr", 0.1, "--out", linear, cache=cache,
            )  # fmt: skip
            lines = (linear / "metrics.jsonl").read_text().splitlines()
            values[f"s1/linear/{name}"] = 100 * [json.loads(line) for line in lines][-1]["fc7_top1"]
    rows = [name for name in ROWS if "ipcl16" not in name]
    assert set(values) == set(rows)
    published = write(tmp_path / "golden.json", values, 1e-3)
    asked = (
        "--imagenet", imagenet, *orientation[1], *inanimate[1][:4], *KNN, *LINEAR, "--published", published,
        "--out", tmp_path / "out", "--rows",
    )  # fmt: skip
    said = run("reproduce.py", *asked, *rows, cache=cache)
    assert f"{len(rows)} ok, 0 off, 0 not run" in said
    ours = {name: row["ours"] for name, row in result(tmp_path / "out").items()}
    assert ours == pytest.approx(values, abs=1e-3)  # also of bounds
    assert 0 < worse < 60
    changed = json.loads(published.read_text())
    changed["s1/linear/ipcl3"]["published"] += 1
    published.write_text(json.dumps(changed))
    said = run("reproduce.py", *asked, *rows, code=1, cache=cache)
    assert f"{len(rows) - 1} ok, 1 off, 0 not run" in said and "Off: s1/linear/ipcl3" in said


