"""The comparison of models with brain data: what is planted is found, and a comparison that was stopped goes on."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
from made_up_world import (
    COUNT,
    LAYERS,
    NOISE,
    PLANTED,
    MadeUp,
    make_data,
    make_models,
    write_images,
)

from ipcl_jax.activations.preprocess import make_transform
from ipcl_jax.activations.stimuli import Reader
from ipcl_jax.brain.pixels import choose_stimuli
from ipcl_jax.comparison import compare as module
from ipcl_jax.comparison.compare import Plan, cells_of, compare
from ipcl_jax.comparison.folder import Folder
from ipcl_jax.comparison.layers import read_layers
from ipcl_jax.comparison.table import to_csv, to_json
from ipcl_jax.errors import ConfigError, InputError
from ipcl_jax.measures.encoding import Encoding
from ipcl_jax.measures.options import MeasureOptions
from ipcl_jax.measures.registry import open_measure

MEASURES = ("encoding", "konkle2022", "versa", "rsa")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def models():
    return make_models()


@pytest.fixture(scope="module")
def data(images):
    return make_data(images)


@pytest.fixture(scope="module")
def found(data, models, tmp_path_factory):
    return run(data, models, tmp_path_factory.mktemp("out") / "brain")


def run(data, models, out, *, measures=MEASURES, images="shared", memory=1 << 30, **options):
    plan = Plan("made-up:", data, images, models, measures, MeasureOptions(**options))
    reader = Reader(make_transform("stimulus", 64), batch_size=16)
    folder = Folder(out)
    with folder.locked():
        return compare(plan, folder, reader, memory=memory, progress=lambda *_: None)


def test_the_planted_layer_is_first_by_every_measure(found):
    tables, _ = found
    for measure in MEASURES:
        for region, planted in PLANTED.items():
            rows = [row for row in tables.layers if (row.model, row.measure, row.region) == ("first", measure, region)]
            by_layer = {layer: np.mean([row.score for row in rows if row.layer == layer]) for layer in LAYERS}
            assert max(by_layer, key=by_layer.get) == planted, (measure, region, by_layer)


def test_a_region_of_noise_is_at_chance_and_the_ceiling_is_the_planted_one(found):
    tables, _ = found
    for row in tables.layers:
        if row.measure == "encoding" and row.region == "null":
            # 48 images: r has a deviation of 0.15 a voxel, and 17 voxels are averaged.
            assert abs(row.score) < 0.15
        if row.measure == "encoding":
            assert row.ceiling == pytest.approx(1 / np.sqrt(1 + NOISE**2)) and row.ceiling_kind == "as planted"


def test_scores_are_those_of_the_measure_alone(found, data, models):
    tables, _ = found
    reader = Reader(models[1].transform, batch_size=16)
    stimuli = choose_stimuli(data.stimuli, data.shared)
    layers = dict(read_layers(models[1].encoder, stimuli, reader, LAYERS, memory=1 << 30))
    responses = {one.name: one.read(data.shared, one.regions["late"]).mean for one in data.subjects}
    measure = open_measure("encoding", responses, {}, data.shared, MeasureOptions())
    expected = measure.score(layers["fc7"])
    rows = [
        row.score
        for row in tables.scores
        if (row.model, row.layer, row.measure, row.region) == ("second", "fc7", "encoding", "late")
    ]
    assert rows == expected.ravel().tolist()


def test_best_layers_and_differences(found):
    tables, _ = found
    for region, planted in PLANTED.items():
        rows = [r for r in tables.best if (r.model, r.measure, r.region) == ("first", "encoding", region)]
        assert len(rows) == 4
        for row in rows:
            assert max(row.layers, key=row.layers.get) == planted and sum(row.layers.values()) == 5
            assert row.how == "the other folds of the images"
    konkle = [r for r in tables.differences if (r.measure, r.region) == ("konkle2022", "late")]
    assert len(konkle) == 1 and konkle[0].difference > 0 and konkle[0].pairs == "splits" and konkle[0].df == 2
    rsa = [r for r in tables.differences if (r.measure, r.region) == ("rsa", "early")]
    assert len(rsa) == 1 and rsa[0].pairs == "subjects" and rsa[0].subject == "" and rsa[0].df == 3


def test_tables_are_read_back_exactly(found):
    tables, description = found
    rows = list(csv.DictReader(io.StringIO(to_csv(tables.scores))))
    assert len(rows) == len(tables.scores)
    for row, score in zip(rows, tables.scores, strict=True):
        assert float(row["score"]) == score.score and row["layer"] == score.layer
        assert (float(row["ceiling"]) if row["ceiling"] else None) == score.ceiling
    json.dumps([to_json(tables), description], allow_nan=False)
    assert set(description["subjects"]["S1"]) == {"images", "voxels", "responses_sha256"}


def test_a_comparison_that_was_stopped_goes_on_to_the_same_numbers(found, data, models, tmp_path, monkeypatch):
    out, calls, score = tmp_path / "brain", [], Encoding.score

    def stopped(self, layer):
        calls.append(layer)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return score(self, layer)

    monkeypatch.setattr(Encoding, "score", stopped)
    # Little memory: the first layer is a group of its own.
    with pytest.raises(KeyboardInterrupt):
        run(data, models, out, memory=COUNT * 4 * 5_000)
    kept = sorted(path.relative_to(out) for path in (out / "scores").rglob("*.json"))
    assert len(kept) == 3
    stamps = [(out / path).stat().st_mtime_ns for path in kept]
    reads = [subject.reads for subject in data.subjects]
    tables, description = run(data, models, out, memory=COUNT * 4 * 5_000)
    assert [subject.reads for subject in data.subjects] == reads  # from the copies
    # The first layer was complete; of the other two, the first region.
    assert [(out / path).stat().st_mtime_ns for path in kept][0] == stamps[0]
    undisturbed, same = run(data, models, tmp_path / "other", memory=COUNT * 4 * 5_000)
    assert tables == undisturbed and description == same == found[1]
    again, _ = run(data, models, out, memory=COUNT * 4 * 5_000)
    assert again == tables


def test_a_folder_is_bound_to_its_comparison(data, models, tmp_path):
    out = tmp_path / "brain"
    run(data, models[:1], out, measures=("rsa",))
    before = sorted((path, path.read_bytes()) for path in out.rglob("*.json"))
    changed = make_data_changed(data)
    for attempt in (
        lambda: run(data, models, out, measures=("rsa",)),
        lambda: run(dataclasses.replace(data, subjects=data.subjects[:3]), models[:1], out, measures=("rsa",)),
        lambda: run(data, models[:1], out, measures=("encoding",)),
        lambda: run(data, models[:1], out, measures=("rsa",), seed=1),
        lambda: run(changed, models[:1], out, measures=("rsa",)),
    ):
        Folder(out).remove_responses()  # which `compare` keeps until the caller has written its tables
        with pytest.raises(ConfigError, match="holds another comparison"):
            attempt()
        assert not (out / "responses").exists()
    assert sorted((path, path.read_bytes()) for path in out.rglob("*.json")) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(ConfigError, match="holds other files"):
        Folder(tmp_path / "mine").check()


def make_data_changed(data):
    """Returns the data with one response changed."""
    first = data.subjects[0]
    regions = {region: first.values[:, voxels].copy() for region, voxels in first.regions.items()}
    regions["late"][3, 4] += 1e-3
    return dataclasses.replace(data, subjects=(MadeUp(first.name, first.images, regions), *data.subjects[1:]))


def test_own_images_are_compared_by_subject(data, models, tmp_path):
    first, second = data.subjects[:2]
    fewer = MadeUp(second.name, second.images[:40], {"late": second.values[:40, second.regions["late"]]})
    own = dataclasses.replace(data, subjects=(first, fewer))
    tables, description = run(own, models[:1], tmp_path / "own", measures=("encoding",), images="own")
    counts = {(row.subject, row.images) for row in tables.scores}
    assert counts == {("S1", 48), ("S2", 40)}
    assert {row.region for row in tables.scores if row.subject == "S2"} == {"late"}
    assert description["subjects"]["S2"]["images"] == 40
    tables, _ = run(own, models[:1], tmp_path / "shared", measures=("encoding",))
    assert {row.images for row in tables.scores} == {40}


def test_what_cannot_be_compared_is_refused(data, models, tmp_path):
    with pytest.raises(ConfigError, match="keeps no images for tests"):
        cells_of(data, "held-out")
    apart = dataclasses.replace(
        data,
        subjects=tuple(
            MadeUp(one.name, one.images[start : start + 24], {"late": one.values[start : start + 24, :9]})
            for one, start in zip(sorted_subjects(data), (0, 24), strict=True)
        ),
    )
    with pytest.raises(ConfigError, match="No image was seen by all of S1, S2"):
        cells_of(apart, "shared")
    three = dataclasses.replace(data, subjects=data.subjects[:3])
    with pytest.raises(InputError, match="early: konkle2022"):
        run(three, models, tmp_path / "brain", measures=("konkle2022",))
    with pytest.raises(ConfigError, match="sparse-positive needs the activations of conv_block_1 of first"):
        run(data, models, tmp_path / "brain", measures=("sparse-positive",), memory=100_000)
    assert not list(tmp_path.rglob("scores/*"))


def sorted_subjects(data):
    """Returns the first two subjects with their images in the order of names."""
    made = []
    for one in data.subjects[:2]:
        order = np.argsort(one.images)
        made.append(MadeUp(one.name, [one.images[i] for i in order], {"all": one.values[order]}))
    return made


def test_code_is_part_of_the_description(found, monkeypatch):
    assert found[1]["code"].count(", ") == 3 and module.CODE
