"""Runs side by side: every number is one that a run has written."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from ipcl_jax.config import Train, to_json

SCRIPT = Path(__file__).parents[1] / "experiments" / "table.py"


def run(*arguments, code: int = 0) -> str:
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parents[1]), "COLUMNS": "250"}
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def runs(tmp_path):
    for name, knn in (("one/run", [0.31, 0.42, 0.37]), ("two/run", [None, 0.5]), ("new/run", [])):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(to_json(Train(name=f"recipe_{name[:3]}", epochs=9)))
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
    assert one["run"] == "one/run" and one["recipe"] == "recipe_one" and one["epochs"] == "2 of 9"
    assert one["views"] == f"{12 * 128 * 5:,}" and one["loss"] == f"{10 / 12:.4g}"
    assert (one["kNN before"], one["kNN"], one["best kNN"]) == ("31.0%", "37.0%", "42.0% (epoch 1)")
    assert one["views/s"] == f"{statistics.median(range(101, 113)):.0f}"
    assert (two["kNN before"], two["kNN"]) == ("–", "50.0%")
    assert new["epochs"] == "0 of 9" and new["kNN"] == new["loss"] == new["views/s"] == "–"
    by_epoch = [line for line in lines[5:] if line[0].isdigit()]
    assert by_epoch == [["0", "31.0%", "–", "–"], ["1", "42.0%", "50.0%", "–"], ["2", "37.0%", "–", "–"]]


def test_the_figure(runs, tmp_path):
    assert "recipe_two" in run(*runs, "--out", tmp_path / "table.png")
    with Image.open(tmp_path / "table.png") as picture:
        assert picture.width > 1200 and len(picture.convert("RGB").getcolors(10**6)) > 50
    run(runs[2], "--out", tmp_path / "empty.svg")  # a run without an epoch has nothing to draw


def test_mistakes(runs, tmp_path):
    assert "is not the folder of a run" in run(tmp_path, code=2)
    assert "ends in .png" in run(runs[0], "--out", tmp_path / "table.gif", code=2)
    assert "No runs given" in run(code=2)
