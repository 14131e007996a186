"""The table of published numbers."""

import json
from collections import Counter
from statistics import fmean

import pytest

from ipcl_jax.errors import ConfigError
from ipcl_jax.reproduction.published import DIETS, GROUPS, REGIONS, ROWS, SETS, choose_rows, read_published
from ipcl_jax.zoo import MODELS


def test_there_is_a_row_for_every_number():
    counts = Counter(row.quantity for row in ROWS.values())
    assert counts == {
        "knn": 16, "linear": 8, "ceiling": 6, "explained": 12, "comparisons": 1, "diets": 2, "outlier": 2,
    }  # fmt: skip
    for name, row in ROWS.items():
        assert name == row.id and row.what and row.reason and row.tolerance >= 0
        assert set(row.models) <= set(MODELS) and set(row.needs) <= {"imagenet", *SETS}
    assert ROWS["s1/knn/ipcl9"].published == 12.4 and ROWS["s1/linear/ipcl13"].published == 54.5
    assert ROWS["fig3/inanimate/ipcl/aOTC"].published == 32 and ROWS["fig2/orientation/ceiling/aOTC"].published == 0.89


def test_rows_agree_with_the_means_that_the_paper_prints():
    for readout, mean, low, high in (("knn", 37.3, 35.4, 38.4), ("linear", 37.1, 32.2, 39.7)):
        found = [ROWS[f"s1/{readout}/{name}"].published for name in GROUPS["ipcl"]]
        assert round(fmean(found), 1) == mean and (min(found), max(found)) == (low, high)
    # 60 comparisons, 30 in each set, for which the paper corrects its level.
    assert len(GROUPS["ipcl"]) * len(GROUPS["category"]) * len(REGIONS) * len(SETS) == 60
    assert {MODELS[name].trained_on for name in DIETS}.isdisjoint({"ImageNet", "–"})


def test_rows_are_chosen_by_id_and_pattern():
    rows, named = choose_rows(["fig3/*/ceiling/*", "s1/knn/ipcl1"])
    assert [row.id for row in rows] == ["s1/knn/ipcl1"] + [f"fig3/inanimate/ceiling/{region}" for region in REGIONS]
    assert named == {"s1/knn/ipcl1"}
    assert len(choose_rows(["*"])[0]) == len(ROWS) and choose_rows(["s1/*"])[1] == frozenset()
    with pytest.raises(ConfigError, match="no row 's1/knn/ipcl17'. Did you mean 's1/knn/ipcl"):
        choose_rows(["fig3/*", "s1/knn/ipcl17"])


def test_other_numbers_are_read_from_a_file(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"s1/knn/ipcl1": 40, "s1/knn/ipcl2": {"published": 1.5, "tolerance": 0}}))
    rows = read_published(path)
    assert list(rows) == list(ROWS) and rows["s1/knn/ipcl3"] is ROWS["s1/knn/ipcl3"]
    first, second = rows["s1/knn/ipcl1"], rows["s1/knn/ipcl2"]
    assert (first.published, first.tolerance) == (40, ROWS["s1/knn/ipcl1"].tolerance)
    assert (second.published, second.tolerance, second.reason) == (1.5, 0, "from mine.json")
    for wrong, message in (
        ({"s1/knn/ipcl0": 1}, "no row 's1/knn/ipcl0'"),
        ({"s1/knn/ipcl1": "40"}, "s1/knn/ipcl1 is '40'; give a number"),
        ({"s1/knn/ipcl1": True}, "give a number"),
        ({"s1/knn/ipcl1": {"tolerance": 1}}, "give a number"),
        ({"s1/knn/ipcl1": {"published": 1, "sd": 1}}, "give a number"),
        ({"s1/knn/ipcl1": float("nan")}, "give a number"),
        ({"s1/knn/ipcl1": {"published": 1, "tolerance": -1}}, "must be 0 or more"),
    ):
        path.write_text(json.dumps(wrong))
        with pytest.raises(ConfigError, match=message):
            read_published(path)
