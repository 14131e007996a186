"""The benchmarks run, at their smallest, and say what they should."""

import json
from pathlib import Path

import pytest

from command_line import run


def measure(tmp_path: Path, *arguments: str) -> tuple[dict, str]:
    """The table that a benchmark keeps, and what it prints."""
    kept = tmp_path / "figures.json"
    said = run("benchmark.py", arguments[0], "--json", kept, *arguments[1:])
    document = json.loads(kept.read_text())
    assert document["device"].endswith("cpu") and document["versions"]["jax"]
    (table,) = document["tables"]
    return table, said


@pytest.mark.slow
def test_a_step_computes_what_torchs_does(tmp_path):
    options = "--with-views --images 1 --rounds 2 --against torch".split()
    table, printed = measure(tmp_path, "step", *options)
    assert table["columns"] == ["ours", "torch"] and len(table["turns"]) == 2
    ratios = sorted(a / b for a, b in table["turns"])
    assert table["summary"]["ratio"]["lowest"] == pytest.approx(ratios[0])
    assert "median" in printed and "ratio" in printed
    ours, theirs = map(float, table["facts"]["loss of the first step, ours and theirs"].split(", "))
    # Five embeddings, their differences divided by 0.07 and exponentiated, from float32 in other orders.
    assert ours == pytest.approx(theirs, rel=2e-3)


@pytest.mark.slow
def test_neighbours_are_torchs(tmp_path):
    sizes = "--queries 64 --references 500 --dim 16 --k 5 --rounds 1 --against torch".split()
    table, _ = measure(tmp_path, "knn", *sizes)
    assert table["facts"]["neighbours in common"] == "100.0000%"


@pytest.mark.slow
def test_a_whole_run(tmp_path):
    small = (
        "-- --config ipcl_smoke --batch-size 29 --views.per-image 2 --model.fc-dim 32 --monitor.no-baseline"
    )
    table, printed = measure(tmp_path, "train", "--steps", "20", *small.split())
    assert table["unit"] == "views/s" and table["summary"]["ours"]["median"] > 1
    assert table["facts"]["memory in the last tenth, MB"] > 100
    assert "programs compiled after it" in printed


def test_opening_a_folder(tmp_path):
    table, printed = measure(tmp_path, "loading", "--files", "3000")
    facts = table["facts"]
    assert facts["files"] == "3,000 in 1,000 folders"
    assert 0 < facts["processor time to open, s"] < 5 and 0 < facts["processor time of the identity, s"] < 5
    assert facts["sent to a worker process, bytes"] < 50_000 and facts["peak memory of the process, MB"] > 50
    assert "sent to a worker process, bytes" in printed


@pytest.mark.slow
def test_loading_and_extraction(tmp_path):
    table, _ = measure(tmp_path, "loading", *"--images 40 --batch-size 8 --rounds 1 --seconds 0.3".split())
    assert table["columns"] == ["loader", "bare decoding", "loader, packed"]
    assert 0 < table["facts"]["processor time of an image, of one pixel from memory, us"] < 1000
    table, printed = measure(tmp_path, "extract", *"--images 6 --rounds 1 --batch-size 4 --side 230".split())
    assert table["columns"] == ["ours"] and "memory of ours" in printed
