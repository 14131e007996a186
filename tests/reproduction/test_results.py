"""Values of the figures' rows from tables, verdicts, and what is kept."""

import itertools
import json
from dataclasses import replace

import pytest

from ipcl_jax.comparison.table import BestScore, ModelDifference, Tables
from ipcl_jax.errors import ConfigError, InputError
from ipcl_jax.reproduction.brain import ALPHA, brain_value, explained_share
from ipcl_jax.reproduction.published import DIETS, GROUPS, REGIONS, ROWS
from ipcl_jax.reproduction.results import GrowingFolder, Kept, Result, to_json


def best(model, region, score, ceiling=0.8):
    return BestScore(model, "konkle2022", region, "a+b", score, None, None, ceiling, "", {}, "")


def difference(model, other, region, by, p):
    return ModelDifference(model, other, "konkle2022", region, "a+b", by, None, None, 0.0, 9, p, "splits")


def tables(rows=(), differences=()):
    return Tables([], [], list(rows), list(differences))


def test_explained_share_is_the_squared_ratio_or_the_ratio():
    assert explained_share(0.4, 0.8, "variance") == pytest.approx(25)
    assert explained_share(0.4, 0.8, "correlation") == pytest.approx(50)
    assert explained_share(-0.4, 0.8, "variance") == pytest.approx(-25)
    with pytest.raises(InputError, match="noise ceiling is 0"):
        explained_share(0.4, 0.0, "variance")
    found = tables(best(f"ipcl{i}", "EarlyV", 0.1 * i) for i in range(1, 6))
    value = brain_value(ROWS["fig3/inanimate/ipcl/EarlyV"], {"inanimate": found})
    assert value.value == pytest.approx(sum((0.1 * i / 0.8) ** 2 for i in range(1, 6)) / 5 * 100)
    assert value.details["r"] == {f"ipcl{i}": pytest.approx(0.1 * i) for i in range(1, 6)}
    assert brain_value(ROWS["fig3/inanimate/ceiling/EarlyV"], {"inanimate": found}).value == 0.8
    for name, data in (("fig3/inanimate/ipcl/pOTC", found), ("fig3/inanimate/ceiling/pOTC", found)):
        with pytest.raises(InputError, match="in pOTC of the inanimate set"):
            brain_value(ROWS[name], {"inanimate": data})
    with pytest.raises(InputError, match="no score of ipcl12"):
        one = tables([best("ipcl12", "EarlyV", None)])
        brain_value(ROWS["fig3/inanimate/category/EarlyV"], {"inanimate": one})


def test_comparisons_count_those_that_are_not_worse():
    def one_set(worse):
        pairs = itertools.product(GROUPS["ipcl"], GROUPS["category"], REGIONS)
        rows = []
        for place, (model, other, region) in enumerate(pairs):
            # Worse and significant; worse but not significant; better and significant.
            by, p = [(-0.1, ALPHA / 2), (-0.1, ALPHA * 1.01), (0.1, 0.0)][0 if place < worse else 1 + place % 2]
            rows.append(difference(model, other, region, by, p))
        return tables(differences=rows)

    row = ROWS["fig2-3/comparisons"]
    value = brain_value(row, {"orientation": one_set(3), "inanimate": one_set(1)})
    assert value.value == 56 and value.details["comparisons"] == 60 and len(value.details["IPCL worse"]) == 4
    short = tables(differences=one_set(0).differences[:-1])
    with pytest.raises(InputError, match="ipcl5 and ipcl13 can't be compared in aOTC of the inanimate set"):
        brain_value(row, {"orientation": one_set(3), "inanimate": short})


def test_diets_are_compared_with_imagenet_by_the_mean_over_regions():
    by = {"ipcl6": 0.0, "ipcl7": 0.01, "ipcl8": -0.02, "ipcl9": -0.1, "ipcl10": 0.03, "ipcl11": 0.04}
    found = {"inanimate": tables(best(m, r, 0.5 + d) for (m, d), r in itertools.product(by.items(), REGIONS))}
    diets, outlier = ROWS["fig4/inanimate/diets"], ROWS["fig4/inanimate/outlier"]
    assert brain_value(diets, found).value == pytest.approx(0.2 / 5)
    assert brain_value(diets, found, leave_out=("ipcl9",)).value == pytest.approx(0.1 / 4)
    assert brain_value(outlier, found).value == 1
    by["ipcl11"] = 0.2
    found = {"inanimate": tables(best(m, r, 0.5 + d) for (m, d), r in itertools.product(by.items(), REGIONS))}
    assert brain_value(outlier, found).value == 2
    assert set(brain_value(diets, found).details["differences"]) == set(DIETS)


@pytest.mark.parametrize(
    ("name", "value", "verdict"),
    [
        ("s1/knn/ipcl1", 38.9, "ok"), ("s1/knn/ipcl1", 37.9, "ok"), ("s1/knn/ipcl1", 38.91, "off"),
        ("s1/knn/ipcl1", 37.89, "off"), ("s1/knn/ipcl1", None, "not run"), ("fig4/inanimate/diets", 0.0, "ok"),
        ("fig4/inanimate/diets", 0.0441, "off"), ("fig2-3/comparisons", 58.0, "ok"), ("fig2-3/comparisons", 53.0, "off"),
        ("s1/knn/ipcl1", float("nan"), "off"),
    ],
)  # fmt: skip
def test_verdicts(name, value, verdict):
    assert Result(ROWS[name], value).verdict == verdict


def test_results_as_text():
    result = Result(ROWS["s1/knn/ipcl1"], 38.0, {"k": 200})
    assert result.cells() == ("s1/knn/ipcl1", "38.0 %", "38.4 %", "-0.4 (0.5)", "ok")
    bound = Result(ROWS["fig4/inanimate/diets"], 0.05).cells()
    assert bound[1:] == ("0.050", "below 0.044", "+0.006 (0)", "off")
    missing = Result(ROWS["s1/knn/ipcl1"], None, missing=("--imagenet",))
    assert missing.cells()[1:] == ("–", "38.4 %", "– (0.5)", "not run")
    found = json.loads(to_json([result, missing], {"share": "variance"}))
    assert found["settings"] == {"share": "variance"}
    assert [row["verdict"] for row in found["rows"]] == ["ok", "not run"]
    assert found["rows"][0]["details"] == {"k": 200} and found["rows"][1]["missing"] == ["--imagenet"]


def test_values_are_kept_with_what_made_them(tmp_path):
    kept, row = Kept(tmp_path / "rows"), ROWS["s1/knn/ipcl1"]
    key = {"k": 200, "images": ("a", "b")}
    assert kept.read(row, key) is None
    kept.write(row, key, 38.25, {"queries": 9})
    assert kept.read(row, key) == (38.25, {"queries": 9})
    assert kept.read(row, key | {"k": 100}) is None and kept.read(replace(row, id="other"), key) is None
    (tmp_path / "rows" / "s1_knn_ipcl1.json").write_text("{")
    with pytest.raises(ConfigError, match="can't be read as JSON"):
        kept.read(row, key)


def test_models_can_be_added_to_a_folder_but_not_changed(tmp_path):
    folder = GrowingFolder(tmp_path)
    about = {"data": "x", "models": {"a": {"weights_sha256": "1"}}}
    folder.bind(about)
    folder.bind({"data": "x", "models": {"b": {"weights_sha256": "2"}}})
    folder.bind({"data": "x", "models": about["models"] | {"b": {"weights_sha256": "2"}}})
    with pytest.raises(ConfigError, match="data: x there, y here"):
        folder.bind(about | {"data": "y"})
    with pytest.raises(ConfigError, match="weights_sha256: 1 there, 3 here"):
        folder.bind({"data": "x", "models": {"a": {"weights_sha256": "3"}}})
