"""Benchmarks of the smallest size: that every figure is there, and what must be equal is."""

import json

from ipcl_jax.benchmarks.inputs import loading
from ipcl_jax.benchmarks.readouts import knn


def test_loading(tmp_path, capsys):
    table = loading(
        images=60, batch_size=4, canvas=(64, 128), rounds=2, seconds=0.05, threads=1, json=tmp_path / "table.json"
    )
    assert table.columns == ("loader", "bare decoding", "loader, packed") and len(table.turns) == 2
    assert all(speed > 0 for turn in table.turns for speed in turn)
    costs = [value for name, value in table.facts.items() if name.startswith("processor time of an image")]
    assert len(costs) == 4 and all(cost > 0 for cost in costs)
    (written,) = json.loads((tmp_path / "table.json").read_text())["tables"]
    assert written["facts"] == table.facts and written["turns"] == [list(turn) for turn in table.turns]
    assert "median" in capsys.readouterr().out


def test_neighbours():
    table = knn(queries=16, references=200, dim=8, k=3, rounds=2)
    assert table.unit == "queries/s" and len(table.turns) == 2 and table.turns[0][0] > 0
