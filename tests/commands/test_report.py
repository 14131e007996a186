"""The page of read-outs, as a user makes it."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from command_line import refused, run, script
from convert.models import MADE_BY
from ipcl_jax import Encoder, extract, load_encoder, save_encoder
from ipcl_jax.activations.encoder import expected_variables, init_encoder
from ipcl_jax.activations.preprocess import make_transform
from ipcl_jax.config import Data, Model, Train, Views
from ipcl_jax.data.sources import open_source
from ipcl_jax.readout.knn import KNNReadout
from ipcl_jax.report import figures
from ipcl_jax.run.checkpoints import Checkpoints
from ipcl_jax.run.folder import claim_folder
from ipcl_jax.system.distributed import make_mesh
from ipcl_jax.training.step import compile_steps
from ipcl_jax.zoo import MODELS
from pages import Page, stands_alone

SMALL = "--data.source", "sample", "--k", 20, "--size", 64, "--shown", 28


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Stand-ins of all released models, kept as their converted copies are."""
    folder = tmp_path_factory.mktemp("cache")
    drawn = functools.cache(init_encoder)
    for number, record in enumerate(MODELS.values()):
        if record.file:
            model = dataclasses.replace(record.model, fc_dim=32)
            encoder = jax.tree.map(lambda leaf, scale=1 + number / 100: leaf * scale, drawn(model))
            facts = {
                "name": record.name,
                "mean": record.mean,
                "std": record.std,
                "source": f"{record.sha256:0<64}",
            }
            save_encoder(dataclasses.replace(encoder, **facts), folder / f"{record.name}.safetensors", header=MADE_BY)
    return folder


@pytest.fixture
def trained(tmp_path):
    """A run of the paper's recipe after two epochs."""
    config = Train(
        name="ipcl_alexnet_gn", model=Model(fc_dim=32), views=Views(size=64), data=Data(source="sample"),
        batch_size=8, out=str(tmp_path / "run"),
    )  # fmt: skip
    folder = tmp_path / "run"
    claim_folder(folder, config, {})
    state = compile_steps(config, make_mesh(), n_images=8, steps_per_epoch=2).init()
    with Checkpoints(folder, keep=2) as checkpoints:
        checkpoints.save(state.replace(step=jnp.asarray(4, jnp.int32)))
    epochs = [{"kind": "epoch", "step": 2 * e, "epoch": e, "knn_top1": 0.3 + e / 10} for e in range(3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in epochs))
    return folder


def read(folder):
    text = (folder / "report.html").read_text(encoding="utf-8")
    return text, Page(text), json.loads((folder / "scores.json").read_text())


@pytest.mark.slow
def test_all_released_models(cache, tmp_path):
    asked = *MODELS, *SMALL, "--layers", "fc7"
    said = run("report.py", *asked, "--out", tmp_path / "report", cache=cache)
    text, page, scores = read(tmp_path / "report")
    stands_alone(text, page)
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == ["report.html", "scores.json"]
    assert "What 16 models know" in page.text and "Chance is 7.1 %" in page.text
    tags = [tag for tag, _ in page.tags]
    assert tags.count("details") == 16 and not page.attributes("open")
    for record, found in zip(MODELS.values(), scores, strict=True):
        assert found["published"] == {"knn": record.knn, "linear": record.linear}
        assert f"{record.name}: kNN of {found['layer']} {found['knn_top1']:.1%}" in said
        assert found["layer"] == ("l2norm" if record.out_dim == 128 else "fc8")
        assert np.mean(list(found["by_class"].values())) == pytest.approx(
            found["knn_top1"]
        )  # 24 of each class
        assert f"map of {record.name}" in page.attributes("alt")
    encoder, transform = load_encoder(cache / "ipcl9.safetensors"), make_transform("stimulus", 64)
    features = {}
    for split in ("train", "val"):
        source = open_source("sample", split)
        pixels = np.stack([transform(source[i][0]) for i in range(len(source))])
        features[split] = np.asarray(extract(encoder, pixels, ["l2norm"])["l2norm"]), source.labels()
    expected = KNNReadout(k=20).fit(*features["train"]).score(*features["val"])
    # Sums in another order may tip a vote over: one image of 336.
    assert scores[8]["knn_top1"] == pytest.approx(expected, abs=1.01 / 336)


def test_a_run_with_its_epochs_and_a_linear_read_out(cache, trained, tmp_path):
    linear = tmp_path / "linear"
    linear.mkdir()
    about = {
        "weights_sha256": load_encoder(trained).digest(),
        "layers": ["fc7"],
        "data": {"source": "sample"},
    }
    (linear / "config.json").write_text(json.dumps(about))
    line = {"kind": "epoch", "step": 9, "epoch": 1, "fc7_top1": 0.125, "fc7_top5": 0.625}
    (linear / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    asked = *SMALL, "--linear", linear, "--chosen", 0, 100, 335
    run("report.py", trained, "ipcl1", *asked, "--out", tmp_path / "report", cache=cache)
    text, page, scores = read(tmp_path / "report")
    stands_alone(text, page)
    assert scores[0]["knn_by_epoch"] == [[0, 0.3], [1, 0.4], [2, 0.5]] and not scores[1]["knn_by_epoch"]
    assert scores[0]["published"] == {"knn": 38.4}  # of the recipe
    for said in (
        "run 50.0 %",
        "chance 7.1 %",
        "sample: ipcl_alexnet_gn",
        "linear top-1, fc7",
        "12.5 %",
    ):
        assert said in page.text
    assert sum("held-out image" in alt for alt in page.attributes("alt")) == 2 * 3
    assert sum("neighbour" in alt for alt in page.attributes("alt")) == 2 * 3 * 5
    other = "sample@100"
    said = refused(
        cache,
        ("report.py", "ipcl1", *SMALL, "--linear", linear, "--out", "report"),
        ("report.py", trained, *SMALL[2:], "--data.source", other, "--linear", linear, "--out", "report"),
    )
    assert "is the read-out of none of these models" in said[0]
    assert f"is of other images: sample, not {other}" in said[1]


@pytest.mark.slow
def test_home_is_home_and_what_cannot_be_is_refused(cache, trained, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    run("report.py", "~/run", *SMALL, "--layers", "fc7", "--out=~/report", cache=cache, cwd=tmp_path)
    assert not (tmp_path / "~").exists()
    _, _, scores = read(tmp_path / "report")
    assert scores[0]["trained_on"] == "sample: ipcl_alexnet_gn" and scores[0]["knn_by_epoch"]
    monkeypatch.setenv("HOME", "/nowhere")
    said = refused(
        cache,
        ("report.py", "ipcl1", *SMALL, "--linear", "~/linear", "--out", "report"),
        ("report.py", "ipcl1", *SMALL, "--temperature", "nan", "--out", "report"),
        ("report.py", "ipcl1", *SMALL, "--seed", "-1", "--out", "report"),
    )
    assert "--linear /nowhere/linear" in said[0]
    assert "--temperature is nan" in said[1] and "--seed is -1" in said[2]


def test_the_map_puts_images_where_their_points_are():
    images = [np.full((30, 50, 3), shade, np.uint8) for shade in (10, 120, 200)]
    labels = np.array([4, 7, -1])
    drawn = np.asarray(figures.draw_map(np.array([[0.0, 0.0], [1, 0], [1, 1]]), images, labels))
    assert drawn.shape == (1100, 1100, 3)
    shades = {10: (48, 48), 120: (48, 1052), 200: (1052, 1052)}  # middles: thumbnails are 96 a side
    for shade, place in shades.items():
        assert (drawn[place] == shade).all()
    assert (drawn[1052, 48] == 255).all()
    frames = figures.class_colours(labels)
    assert list(frames) == [4, 7] and len(set(frames.values())) == 2
    corner = tuple(int(frames[4][i : i + 2], 16) for i in (1, 3, 5))
    assert tuple(drawn[0, 0]) == corner and (drawn[1005, 1005] == 200).all()  # no class, no frame
    assert figures.class_colours(np.arange(21)) == {}


def test_filters_are_drawn_each_in_its_own_range():
    rng = np.random.default_rng(0)
    kernel = (rng.normal(size=(11, 11, 3, 20)) * 10.0 ** np.arange(-10, 10)).astype(np.float32)
    drawn = np.asarray(figures.draw_filters(kernel))
    assert drawn.shape == (2 * 44 + 2, 16 * 44 + 15 * 2, 3)
    for place in (0, 15, 16, 19):
        row, column = divmod(place, 16)
        shown = drawn[row * 46 : row * 46 + 44 : 4, column * 46 : column * 46 + 44 : 4]
        own = kernel[..., place].astype(np.float64)
        expected = 255 * (own - own.min()) / np.ptp(own)
        np.testing.assert_allclose(shown, expected, atol=0.51)  # rounded to whole numbers


@pytest.mark.parametrize("arch, shape", [("alexnet_gn", (11, 11, 3, 96)), ("resnet18", (7, 7, 3, 64))])
def test_the_first_kernel_looks_at_the_image(arch, shape):
    shapes = expected_variables(Model(arch=arch))
    encoder = Encoder(variables=jax.tree.map(lambda x: np.zeros(x.shape), shapes), model=Model(arch=arch))
    assert script("report.py").first_kernel(encoder).shape == shape
