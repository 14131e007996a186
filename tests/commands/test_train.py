"""The trainer as a user runs it: in a process of its own, interrupted in every way there is."""

import json
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from checkpoint_leaves import leaves
from command_line import start
from ipcl_jax import KNNReadout, extract, load_encoder, load_stimuli
from ipcl_jax.augment.views import center_views
from ipcl_jax.config import Model, Train, Views
from ipcl_jax.data.loader import eval_batches
from ipcl_jax.data.sources import open_source
from ipcl_jax.run.checkpoints import Checkpoints
from ipcl_jax.run.history import read_metrics
from ipcl_jax.run.metrics import WAITS
from thinning import first

# One epoch of 30 steps, each with its checkpoint: nothing is spared but size.
SHORT = (
    "--config ipcl_smoke --epochs 1 --batch-size 29 --views.per-image 2 --model.fc-dim 64 "
    "--objective.queue-size 64 --monitor.no-baseline --checkpoints.minutes 0.001"
).split()


def run(*arguments: str, **surroundings) -> tuple[int, str, str]:
    process = start("train.py", *arguments, **surroundings)
    out, err = process.communicate()
    return process.returncode, out, err


def same_bits(folder: Path, other: Path) -> None:
    """The newest checkpoints of two runs hold the same."""
    expected, found = leaves(folder), leaves(other)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def steps_written(folder: Path) -> int:
    return len(read_metrics(folder)[0])


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    code, out, err = run(*SHORT, "--out", str(folder))
    assert code == 0, err
    return folder, out


def test_a_run_leaves_what_it_promises(unbroken):
    folder, out = unbroken
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "checkpoints", "metrics.jsonl", "log.txt", "tensorboard", "report.html"} <= names
    steps, epochs = read_metrics(folder)
    assert [line["step"] for line in steps] == list(range(1, 31))
    assert {"loss", "lr", "momentum", "grad_norm"} <= set(steps[0])
    assert {"knn_top1", "knn_top5", "retrieval", "mean_cosine", "effective_rank"} <= set(epochs[0])
    assert epochs[0]["unreadable"] == 0
    assert "kNN top-1" in out and "report.html" in out
    page = (folder / "report.html").read_text()
    assert "Nearest neighbours" in page and page.count("data:image/jpeg") > 50
    assert len(list((folder / "checkpoints").glob("[0-9]*"))) == 2  # the newest, and no more


@pytest.mark.slow
def test_a_trace_is_written_and_changes_nothing(unbroken, tmp_path):
    folder, _ = unbroken
    code, out, err = run(*SHORT, "--profile-steps", "2", "--max-steps", "9", "--out", str(tmp_path / "run"))
    assert code == 0, err
    assert "Traced 2 steps" in out
    traces = {path.name: path.stat().st_size for path in (tmp_path / "run" / "profile").rglob("*") if path.is_file()}
    assert any(name.endswith(".xplane.pb") for name in traces)  # for XProf
    assert traces["perfetto_trace.json.gz"] > 10_000
    losses = [[line["loss"] for line in read_metrics(of)[0][:9]] for of in (folder, tmp_path / "run")]
    assert losses[0] == losses[1]


def test_what_each_step_waited_for(unbroken):
    steps, epochs = read_metrics(unbroken[0])
    for line in steps:
        assert all(line[name] >= 0 for name in WAITS)
    assert sum(line["wait_device"] for line in steps) > 0.1  # thirty steps of this size take longer
    parts = np.array([[line[name] for name in WAITS] for line in steps]).sum(0)
    np.testing.assert_allclose(epochs[0]["input_share"], parts[:2].sum() / parts.sum(), rtol=1e-6)


def close_to_print(text: str, value: float, unit: float = 1.0) -> bool:
    """Whether a printed number is a value, to the last digit printed; a half rounds either way."""
    number = text.replace(",", "")
    mantissa, _, exponent = number.partition("e")
    digits = len(mantissa.partition(".")[2])
    return abs(float(number) - value / unit) <= 0.5001 * 10.0 ** (int(exponent or 0) - digits)


def test_every_number_on_screen_is_that_of_the_metrics(unbroken):
    folder, out = unbroken
    steps, epochs = read_metrics(folder)
    shown = 0
    for line in re.findall(r"^epoch \d+/\d+  step .*$", out, re.MULTILINE):
        number = int(re.search(r"step (\d+)/30", line)[1])
        for name, text in re.findall(r"(loss|lr) ([\d.e+-]+)", line):
            assert close_to_print(text, steps[number - 1][name]), line
            shown += 1
        for text in re.findall(r"([\d,]+) views/s", line):
            assert close_to_print(text, steps[number - 1]["views_per_second"]), line
    assert shown >= 4  # the first and the last step at least
    names = {
        "loss": "loss", "kNN top-1": "knn_top1", "top-5": "knn_top5", "instance retrieval": "retrieval",
        "mean cosine": "mean_cosine", "effective rank": "effective_rank", "waiting for input": "input_share",
    }  # fmt: skip
    (line,) = re.findall(r"^epoch 1/1: .*$", out, re.MULTILINE)
    found = re.findall(rf"({'|'.join(names)}) ([\d.,]+)(%?)", line)
    assert [name for name, *_ in found] == list(names)
    for name, text, percent in found:
        assert close_to_print(text.rstrip(","), epochs[0][names[name]], 0.01 if percent else 1.0), line


def test_the_monitor_is_the_read_out_of_the_same_checkpoint(unbroken):
    """Training's own path (canvas, embed, bank) against the one of users: extract and KNNReadout."""
    folder, _ = unbroken
    config, (epoch,) = json.loads((folder / "config.json").read_text()), read_metrics(folder)[1]
    encoder, source = load_encoder(folder), open_source("sample", "val")
    views = Views(size=64)
    whole = [
        extract(encoder, center_views(batch["canvas"], batch["size"], views), ["l2norm"])["l2norm"]
        for batch in eval_batches(source, batch_size=28, canvas=tuple(config["data"]["canvas"]), threads=2)
    ]
    embedded = np.concatenate(whole)
    np.testing.assert_equal(len(embedded), len(source))
    references, labels = (np.load(folder / "bank" / f"{name}.npy") for name in ("embeddings", "label"))
    references, labels = references.reshape(-1, references.shape[-1]), labels.ravel()
    k = min(config["monitor"]["k"], len(labels) // len(source.classes))
    readout = KNNReadout(k=k, temperature=config["objective"]["temperature"]).fit(references, labels)
    assert readout.score(embedded, source.labels()) == pytest.approx(epoch["knn_top1"], abs=1e-12)
    assert readout.score(embedded, source.labels(), top=5) == pytest.approx(epoch["knn_top5"], abs=1e-12)
    # Stimuli are resized by Pillow, in whole steps of 1/255: an image at the border of two classes may change sides.
    stimuli = load_stimuli([source[i][0] for i in range(len(source))], encoder)
    again = readout.score(np.asarray(extract(encoder, stimuli, ["l2norm"])["l2norm"]), source.labels())
    assert abs(again - epoch["knn_top1"]) <= 0.02  # six images of 336, of a network that is hardly trained


@pytest.mark.parametrize("number", first(1, [signal.SIGTERM, signal.SIGINT]))
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, number):
    folder = tmp_path / "run"
    arguments = [*SHORT[:-2], "--out", str(folder)]  # checkpoints at the end of the epoch only
    process = start("train.py", *arguments)
    while steps_written(folder) < 3 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number, err
    assert f"{number.name}: saved at step" in out and "To go on: python " in out and str(folder) in out
    with Checkpoints(folder, keep=2) as checkpoints:
        assert checkpoints.latest_step() == steps_written(folder) >= 3


@pytest.mark.slow
def test_stopping_early_and_going_on_is_one_run(unbroken, tmp_path):
    folder, _ = unbroken
    again = tmp_path / "run"
    assert run(*SHORT, "--max-steps", "11", "--out", str(again))[0] == 0
    assert "Nearest neighbours" not in (again / "report.html").read_text()  # nothing is measured yet
    code, out, err = run(*SHORT, "--out", str(again))
    assert code == 0 and "Going on after step 11" in out, err
    same_bits(folder, again)


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    folder = tmp_path / "run"
    code, out, err = run(*SHORT, "--optim.lr", "1e30", "--schedule.name", "constant", "--out", str(folder))
    assert code == 1
    assert "At step" in err and "--optim.lr" in err and "Traceback" not in err
    state = leaves(folder)  # the last good one
    assert all(np.isfinite(value).all() for value in state.values())


REFUSED = {
    "no config": ([], "--config NAME"),
    "unknown config": (["--config", "ipcl_smok"], "Did you mean 'ipcl_smoke'?"),
    "unknown field": (["--config", "ipcl_smoke", "--optim.lrr", "1"], "--optim.lr"),
    "no data": (["--config", "ipcl_alexnet_gn"], "--data.source sample"),
    "unknown source": (["--config", "ipcl_smoke", "--data.source", "sampel"], "sample"),
    "small views": (["--config", "ipcl_smoke", "--views.size", "32"], "at least 63"),
    "long warm-up": (
        ["--config", "ipcl_smoke", "--schedule.name", "warmup_cosine", "--epochs", "5"], "no warm-up",
    ),
    "cold end": (["--config", "ipcl_smoke", "--objective.temperature-end", "0"], "greater than zero"),
    "large batch": (["--config", "ipcl_smoke", "--batch-size", "99996"], "fewer than one batch"),
    "one embedding": (
        ["--config", "ipcl_smoke", "--batch-size", "1", "--views.per-image", "1"], "single embedding",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_run_is_refused_at_once(name, tmp_path):
    arguments, hint = REFUSED[name]
    begun = time.monotonic()
    nowhere = {"TFDS_DATA_DIR": str(tmp_path / "nothing")}
    code, out, err = run(*arguments, cwd=tmp_path, variables=nowhere)
    assert code == 2 and hint in err + out and "Traceback" not in err
    assert time.monotonic() - begun < 20
    assert not (tmp_path / "runs").exists()  # nothing was begun


def test_devices_must_share_the_batch(tmp_path):
    four = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    code, _, err = run(*SHORT[:-2], "--batch-size", "42", "--out", str(tmp_path / "run"), variables=four)
    assert code == 2 and "multiple of 4: 40 or 44 is nearest" in err


def test_another_config_in_the_folder_is_refused(unbroken):
    folder, _ = unbroken
    before = sorted(folder.rglob("*"))
    code, _, err = run(*SHORT, "--optim.lr", "0.5", "--out", str(folder))
    assert code == 2 and "optim.lr: 0.001 there, 0.5 here" in err and "--out" in err
    assert sorted(folder.rglob("*")) == before
    code, _, err = run(*SHORT, "--out", str(folder.parent))
    assert code == 2 and "holds no run" in err


def test_help_explains_every_field():
    code, out, _ = run("--config", "ipcl_alexnet_gn", "--help")
    assert code == 0
    for text in ("--optim.lr", "--data.source", "Probability of a horizontal flip", "641 million views"):
        assert text in out


@pytest.mark.slow
def test_a_folder_without_labels_and_with_damage(tmp_path):
    from PIL import Image

    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for i in range(160):
        side = (70, 90) if i % 3 else (90, 70)
        small = Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8))
        small.resize(side, Image.Resampling.BICUBIC).save(photos / f"{i}.jpg")
    (photos / "33.jpg").write_bytes((photos / "33.jpg").read_bytes()[:300])
    folder = tmp_path / "run"
    arguments = [*SHORT, "--data.source", f"folder:{photos}", "--data.canvas", "64", "96"]
    code, out, err = run(*arguments, "--batch-size", "38", "--out", str(folder))
    assert code == 0, err
    assert out.count("33.jpg") == 1  # named once
    epoch = read_metrics(folder)[1][-1]
    assert epoch["unreadable"] == 1 and "retrieval" in epoch and "knn_top1" not in epoch
    for i in (40, 41):
        (photos / f"{i + 1}.jpg").write_bytes(b"nothing")
    code, out, err = run(*arguments, "--batch-size", "38", "--out", str(tmp_path / "other"))
    # It stops at the second one it meets, which is more than 1 % of 152.
    assert code == 1 and "2 of 152 images can't be read" in err and "Traceback" not in err
    assert err.count(str(photos)) == 2  # both are listed


def test_config_round_trip():
    from ipcl_jax.stored_config import differences, to_json

    config = Train(name="x")
    assert differences(config, json.loads(to_json(config))) == []
    other = Train(name="x", out="elsewhere", max_steps=3)
    assert differences(other, json.loads(to_json(config))) == []  # where and how long is no difference
    older = json.loads(to_json(config))
    del older["model"]["norm"]  # by a version that had no such field
    assert differences(config, older) == []
    assert differences(Train(name="x", model=Model(norm="batch")), older) == [
        "model.norm: group there, batch here"
    ]
