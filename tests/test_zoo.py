"""The released models' records."""

import re
from pathlib import Path

from ipcl_jax import list_models
from ipcl_jax.zoo import BASE_URL, MODELS

README = Path(__file__).parents[1] / "README.md"


def test_sixteen_models_in_the_papers_order():
    assert list_models() == [f"ipcl{i}" for i in range(1, 17)] == [record.name for record in MODELS.values()]
    files = [record for record in MODELS.values() if record.file]
    assert [record.name for record in MODELS.values() if not record.file] == ["ipcl16"]
    assert len({record.file for record in files}) == len({record.sha256 for record in files}) == 15
    for record in files:
        assert re.fullmatch(r"(ipcl|wusnet)/\w+\.pth\.tar", record.file), record
        assert re.fullmatch(r"[0-9a-f]{10}", record.sha256), record
    assert BASE_URL.startswith("https://") and BASE_URL.endswith("/")


def test_networks_and_preprocessing():
    supervised = {f"ipcl{i}" for i in (12, 13, 14, 15)}
    milder = {f"ipcl{i}" for i in (6, 7, 8, 9, 10, 11, 14, 15)}
    for name, record in MODELS.items():
        assert (record.model.out_dim, record.model.l2norm) == (
            (1000, False) if name in supervised else (128, True)
        )
        mean, std = (
            ((0.5,) * 3, (0.2,) * 3) if name in milder else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        )
        assert (record.mean, record.std) == (mean, std), name


def test_published_facts_of_four_models():
    facts = {name: (r.sha256, r.knn, r.linear) for name, r in MODELS.items()}
    assert facts["ipcl1"] == ("51bcc71556", 38.4, 39.5)
    assert facts["ipcl4"] == ("e8d0736300", 37.5, 32.2)
    assert facts["ipcl9"] == ("23ef0936c4", 12.4, None)
    assert facts["ipcl13"] == ("1ea33cba82", 55.5, 54.5)
    assert MODELS["ipcl13"].file == "wusnet/alexnet_gn_supervised_final.pth.tar"
    assert MODELS["ipcl7"].file == "ipcl/alexnet_gn_u128_openimagesv6_final_weights_only.pth.tar"


def test_the_readmes_table_says_the_same():
    rows = re.findall(r"^\| `(ipcl\d+)` \|(.+)\|$", README.read_text(encoding="utf-8"), re.M)
    assert [name for name, _ in rows] == list(MODELS)
    for name, row in rows:
        record, cells = MODELS[name], [cell.strip() for cell in row.split("|")]
        linear = "–" if record.linear is None else str(record.linear)
        what = record.trained_on + (f": {record.notes}" if record.notes else "")
        assert cells == [what, str(record.out_dim), str(record.knn), linear], name
