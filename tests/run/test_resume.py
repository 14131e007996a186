"""Going on with a run, or not: other images, lost checkpoints, a folder of an earlier version."""

import dataclasses
import gzip
import json

import flax.struct
import jax
import numpy as np
import pytest
from PIL import Image

from command_line import run
from ipcl_jax import training
from ipcl_jax.config import Model, Objective, Train, Views
from ipcl_jax.run.checkpoints import Checkpoints
from ipcl_jax.run.history import read_metrics
from ipcl_jax.system import distributed

SMALL = (
    "--config ipcl_smoke --epochs 4 --batch-size 4 --accumulate 1 --views.size 64 --model.fc-dim 32 "
    "--views.per-image 2 --objective.queue-size 7 --monitor.no-baseline"
).split()


def fill(folder, start: int, number: int) -> None:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(start)
    for i in range(start, start + number):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(folder / f"{i}.png")


def contents(folder) -> dict:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run on 38 of 40 images, stopped in its second epoch."""
    place = tmp_path_factory.mktemp("resume")
    fill(place / "images", 0, 40)
    train(place, 12)
    return place


def train(place, steps: int, *more, code: int = 0) -> str:
    return run("train.py", *SMALL, "--data.source", f"folder:{place / 'images'}", "--out", place / "run",
               "--max-steps", steps, *more, cache=place, code=code)  # fmt: skip


@pytest.mark.slow
def test_images_added_to_a_runs_folder(begun):
    before = contents(begun / "run")
    fill(begun / "images", 1000, 60)
    for _ in range(3):  # as a queue would
        said = train(begun, 14, code=2)
        assert said.count("\n") == 1
        assert "38 training images then, 95 now; the first that differs is none then, 1001.png now" in said
        assert "2 held-out images then, 5 now" in said
        assert contents(begun / "run") == before

    said = train(begun, 14, "--data.accept-other-images")
    assert "warning: Going on with other images than before, as asked: 38 training images then, 95 now" in said
    assert "Going on after step 12 of 14." in said
    assert "as asked" in (begun / "run" / "log.txt").read_text()
    # An epoch has 23 batches now; it is measured with the images that were seen since.
    said = train(begun, 23)
    assert "Going on after step 14 of 23." in said and said.count("warning") == 1
    assert "48 of 92 training images have no embedding of epoch 1" in said
    assert [line["step"] for line in read_metrics(begun / "run")[0]] == list(range(1, 24))
    epoch = read_metrics(begun / "run")[1][-1]
    assert epoch["step"] == 23 and 0 <= epoch["retrieval"] <= 1


@pytest.mark.slow
def test_a_run_whose_checkpoints_are_gone_is_not_begun_anew(begun):
    place = begun / "run"
    kept = place / "checkpoints"
    kept.rename(begun / "checkpoints")
    before = contents(place)
    said = train(begun, 99, code=2)
    assert "but no checkpoint to go on from" in said and said.count("\n") == 1
    assert {path: text for path, text in contents(place).items() if "checkpoints" not in path.parts} == before
    (place / "checkpoints").rmdir()
    (begun / "checkpoints").rename(kept)


@pytest.mark.slow
def test_a_run_that_was_killed_before_its_first_checkpoint_goes_on(tmp_path):
    """There is one of step 0 before anything is measured."""
    fill(tmp_path / "images", 0, 40)
    train(tmp_path, 1)
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["0", "1"]
    with Checkpoints(tmp_path / "run", keep=2) as checkpoints:
        assert checkpoints.latest_step() == 1


@pytest.mark.slow
def test_a_run_of_version_0_1_goes_on(tmp_path):
    """It kept Z instead of its logarithm, and did not note its images."""
    config = Train(
        name="x", model=Model(fc_dim=16), views=Views(size=64, per_image=2), batch_size=4,
        objective=Objective(queue_size=5),
    )  # fmt: skip
    state = training.init_state(config).replace(log_Z=jax.numpy.float32(21.5))
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    fields["Z"] = jax.numpy.exp(fields.pop("log_Z"))
    annotated = {"__annotations__": dict.fromkeys(fields, jax.Array)}
    Earlier = type("Earlier", (flax.struct.PyTreeNode,), annotated)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(Earlier(**fields))
        checkpoints.wait()
    mesh = distributed.make_mesh()
    shapes = training.compile_steps(config, mesh, n_images=12, steps_per_epoch=3).state
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        found = checkpoints.restore(shapes, earlier=training.RENAMED_FIELDS)
    np.testing.assert_allclose(found.log_Z, 21.5, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, found.params, state.params)


@pytest.mark.slow
def test_the_images_of_a_run_are_noted_in_a_file_that_can_be_read(begun):
    header, *lines = gzip.decompress((begun / "run" / "images.txt.gz").read_bytes()).decode().splitlines()
    counts = {split: noted["count"] for split, noted in json.loads(header).items()}
    assert len(lines) == sum(counts.values())
    assert lines[0].split()[0] == "1.png" and int(lines[0].split()[1]) == (begun / "images/1.png").stat().st_size


@pytest.mark.slow
def test_a_run_that_noted_no_images_is_told_so_and_notes_them(begun):
    (begun / "run" / "images.txt.gz").unlink()
    assert "warning: This run was started by version 0.1" in train(begun, 24)
    assert (begun / "run" / "images.txt.gz").exists()
