"""The benchmark of encoding, small: both sides predict what was planted."""

import json

import pytest

from ipcl_jax.benchmarks.encoding import encoding


@pytest.mark.parametrize("against", [None, "himalaya"])
def test_both_sides_predict_alike(tmp_path, against, capsys):
    out = tmp_path / "encoding.json"
    encoding(images=150, tested=60, features=40, voxels=30, rounds=1, against=against, json=out)
    (table,) = json.loads(out.read_text())["tables"]
    facts, sides = table["facts"], ["ours", "himalaya"] if against else ["ours"]
    assert table["columns"] == sides and len(table["turns"][0]) == len(sides)
    for side in sides:
        assert facts[f"mean r of {side}"] > 0.2
        assert 50 < facts[f"peak memory of {side}, MB, the data among it"] < 2000
    if against:
        # Penalties are chosen in different ways.
        assert abs(facts["r, ours less theirs, mean"]) < 0.02
    assert "voxels/s" in capsys.readouterr().out
