"""Runs side by side: every number is one that a run has written."""

import functools
import json
import statistics

import numpy as np
import pytest
from PIL import Image

import command_line
from ipcl_jax.config import Train
from ipcl_jax.report.table_figure import _spread
from ipcl_jax.stored_config import to_json

NAMES = {"one/run": "ipcl_alexnet_gn", "two/run": "ipcl_smoke", "new/run": "mine"}


run = functools.partial(command_line.run, "table.py", columns=250)


@pytest.fixture
def runs(tmp_path):
    for name, knn in (("one/run", [0.31, 0.42, 0.37]), ("two/run", [None, 0.5]), ("new/run", [])):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(to_json(Train(name=NAMES[name], epochs=9)))
        lines = [
            {"kind": "step", "step": i, "epoch": 1, "loss": 10 / i, "views_per_second": 100.0 + i}
            for i in range(1, 4 * len(knn) + 1)
        ]
        for epoch, value in enumerate(knn):
            lines.append(
                {"kind": "epoch", "epoch": epoch, "step": 4 * epoch, "loss": 9.0 - epoch, "retrieval": 0.1}
            )
            if value is not None:
                lines[-1]["knn_top1"] = value
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [tmp_path / name for name in ("one/run", "two/run", "new/run")]


def test_the_numbers_are_those_of_the_runs(runs):
    lines = [line.strip("| ").split(" | ") for line in run(*runs, "--markdown").splitlines() if line]
    table = [dict(zip(lines[0], line, strict=True)) for line in lines[2:5]]
    one, two, new = table
    assert one["run"] == "one/run" and one["recipe"] == "ipcl_alexnet_gn" and one["epochs"] == "2 of 9"
    assert (one["steps"], one["images x views"]) == ("12", "128 x 5")
    assert one["views seen"] == f"{12 * 128 * 5:,}"
    assert (one["first loss"], one["loss"]) == ("10", f"{10 / 12:.4g}")
    assert (one["published kNN"], two["published kNN"], new["published kNN"]) == ("38.4%", "–", "–")
    assert one["retrieval"] == "10.0%" and "accuracy" not in one  # which no run has
    assert (one["kNN before"], one["kNN"], one["best kNN"]) == ("31.0%", "37.0%", "42.0% (epoch 1)")
    assert one["views/s"] == f"{statistics.median(range(101, 113)):.0f}"
    assert (two["kNN before"], two["kNN"]) == ("–", "50.0%")
    assert new["epochs"] == "0 of 9" and new["views seen"] == "0"
    assert {new[name] for name in ("steps", "first loss", "loss", "kNN", "best kNN", "views/s")} == {"–"}
    by_epoch = [line for line in lines[5:] if line[0].isdigit()]
    assert by_epoch == [["0", "31.0%", "–", "–"], ["1", "42.0%", "50.0%", "–"], ["2", "37.0%", "–", "–"]]


def test_a_narrow_terminal_gets_a_column_a_run_and_every_cell(runs):
    wide, narrow = run(*runs), run(*runs, columns=70)
    assert len(wide.splitlines()[0]) > 120 and max(map(len, narrow.splitlines())) <= 70
    for text in ("one/run", "ipcl_alexnet_gn", "42.0% (epoch 1)", "published kNN", f"{12 * 128 * 5:,}"):
        assert text in wide and text in narrow
    single = run(*runs, columns=45)
    assert single.count("best kNN") == 3  # a piece for each run
    assert run(runs[0], runs[0], "--markdown") == run(runs[0], "--markdown")


def test_the_figure(runs, tmp_path):
    assert "ipcl_smoke" in run(*runs, "--out", tmp_path / "table.png")
    with Image.open(tmp_path / "table.png") as picture:
        assert picture.width > 1200 and len(picture.convert("RGB").getcolors(10**6)) > 50
    run(*runs, "--out", tmp_path / "table.svg")
    text = (tmp_path / "table.svg").read_text()
    for label in ("one/run  37.0 %", "two/run  50.0 %", "one/run  7", "two/run  8"):  # at the lines' ends
        assert f">{label}<" in text
    assert "new/run" not in text
    run(runs[2], "--out", tmp_path / "empty.pdf")  # a run without an epoch has nothing to draw
    assert (tmp_path / "empty.pdf").read_bytes().startswith(b"%PDF")


def test_names_keep_apart_and_in_order():
    assert _spread({0: 0.5, 1: 0.1}, gap=0.1) == pytest.approx({0: 0.5, 1: 0.1})
    close = _spread({0: 0.5, 1: 0.5, 2: 0.53}, gap=0.1)
    assert close == pytest.approx({0: 0.41, 1: 0.51, 2: 0.61})  # around their mean
    rng = np.random.default_rng(0)
    for number in range(2, 10):
        before = dict(enumerate(rng.uniform(0, 1, number)))
        after = _spread(before, gap=0.1)
        order = sorted(before, key=before.get)
        assert np.diff([after[k] for k in order]).min() > 0.1 - 1e-9
        assert min(after.values()) > -1e-9 and max(after.values()) < 1 + 1e-9


def test_mistakes(runs, tmp_path):
    (tmp_path / "file").touch()
    asked = {
        "is not the folder of a run: it has no config.json": [tmp_path],
        "it does not exist": [runs[0], tmp_path / "nowhere"],
        "ends in .png": [runs[0], "--out", tmp_path / "table.gif"],
        "is a file": [runs[0], "--out", tmp_path / "file/table.png"],
        "No runs given": [],
    }
    for number, text in enumerate(("{", '{"name": "x"}', "[]")):
        folder = tmp_path / f"damaged {number}"
        folder.mkdir()
        (folder / "config.json").write_text(text)
        asked[f"{folder}/config.json is no run's config"] = [folder]
    lines = command_line.refused(tmp_path, *(("table.py", *arguments) for arguments in asked.values()))
    for said, line in zip(asked, lines, strict=True):
        assert said in line
