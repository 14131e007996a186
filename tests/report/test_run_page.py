import io
import re

import numpy as np
import pytest
from rich.console import Console

from ipcl_jax.config import Data, Optim, Train
from ipcl_jax.report.curves import curves
from ipcl_jax.report.html import Neighbours
from ipcl_jax.report.run_page import ContactSheet, write_report
from ipcl_jax.run.history import History, as_columns
from ipcl_jax.run.metrics import Record
from pages import Page, stands_alone

CLASSES = ["<b>&", "cup"]


def record(folder, *, epochs=3, labels=True, baseline=True, per_epoch=5, **spread):
    spread = {"mean_cosine": 0.4, "effective_rank": 20.0} | spread
    console = Console(file=io.StringIO())
    with Record(folder, total_steps=20, steps_per_epoch=per_epoch, console=console) as run:
        for epoch in range(0 if baseline else 1, epochs + 1):
            for step in range((epoch - 1) * per_epoch + 1, epoch * per_epoch + 1) if epoch else ():
                optimizer = {"lr": 1e-3 * step, "momentum": 0.9, "grad_norm": 1 / step}
                run.step(step, optimizer | {"loss": 9 - step / 5, "views": 40})
            knn = {"knn_top1": 0.2 + epoch / 10, "knn_top5": 0.6 + epoch / 20} if labels else {}
            run.epoch(epoch, epoch * per_epoch, {"retrieval": 0.06 + epoch / 50} | spread | knn)


def pictures(labels=True, rows=3, side=300):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (rows, 5, side, side, 3), dtype=np.uint8)
    sheet = ContactSheet([image[0, : side // 2] for image in noise], noise)
    found = Neighbours(
        queries=[image[0] for image in noise],
        neighbours=[list(image) for image in noise],
        cosines=np.linspace(0.9, 0.1, rows * 5).reshape(rows, 5),
        query_labels=[CLASSES[0]] * rows if labels else None,
        neighbour_labels=[[CLASSES[i % 2] for i in range(5)]] * rows if labels else None,
    )
    return dict(contact_sheet=sheet, neighbours=found)


def write(folder, **options):
    config = Train(
        name="tiny <i>&run", epochs=4, data=Data(source="folder:/a&b<c>"), optim=Optim(lr=0.125)
    )
    defaults = dict(config=config, environment={"jax": "0.<9>"}, resume="python train.py --out 'a & b'")
    path = write_report(folder, **defaults | options)
    assert path == folder / "report.html"
    assert not list(folder.glob("*.partial"))
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    record(folder)
    return write(folder, classes=10, **pictures())


def test_page_stands_alone(full):
    stands_alone(*full)


def test_headline_compares_with_untrained_and_chance(full):
    _, page = full
    for said in ("50.0 %", "untrained 20.0 %", "chance 10.0 %", "12.0 %", "untrained 6.0 %"):
        assert said in page.text
    assert "3 of 4" in page.text and "15 steps" in page.text
    assert "collapsed" not in page.text


def test_text_from_outside_is_escaped(full):
    text, page = full
    for outside in ("<i>", "<b>", "0.<9>", "<c>"):
        assert outside not in text
        assert outside in page.text
    assert "--out 'a & b'" in page.text
    assert any("<b>&" in alt for alt in page.attributes("alt"))


def test_every_picture_and_plot_says_what_it_is(full):
    _, page = full
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(images) == 3 * 6 + 3 * 6
    assert all(attrs["alt"] for attrs in images)
    plots = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len(plots) == 7 + 1  # the first is there for wide and for narrow screens
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in plots)


def test_frames_tell_right_from_wrong(full):
    _, page = full
    classes = page.attributes("class")
    assert (classes.count("framed right"), classes.count("framed wrong")) == (9, 6)


def test_changed_options_stand_out(full):
    text, _ = full
    assert re.search(r"lr</th><td class=set>0\.125<", text)
    assert re.search(r"weight_decay</th><td>0\.0005<", text)


def test_without_labels_there_is_no_knn(tmp_path):
    record(tmp_path, labels=False)
    _, page = write(tmp_path, **pictures(labels=False))
    assert "kNN" not in page.text and "chance" not in page.text
    assert "Nearest neighbours" in page.text
    assert not any(name.startswith("framed") for name in page.attributes("class"))


def test_equal_runs_give_equal_pages(tmp_path, monkeypatch):
    monkeypatch.setattr("ipcl_jax.run.metrics.monotonic", lambda: 0.0)
    pages = []
    for name in "ab":
        record(tmp_path / name)
        pages.append(write(tmp_path / name, classes=10)[0])
    assert pages[0] == pages[1]


def test_before_anything_was_measured(tmp_path):
    _, page = write(tmp_path)
    assert "Nothing has been measured yet" in page.text
    assert "not started" in page.text and "svg" not in {tag for tag, _ in page.tags}


@pytest.mark.parametrize("epochs, baseline", [(0, True), (1, True), (1, False)])
def test_tiny_runs(tmp_path, epochs, baseline):
    record(tmp_path, epochs=epochs, baseline=baseline, per_epoch=1)
    _, page = write(tmp_path, classes=10)
    assert f"{epochs} of 4" in page.text
    assert ("untrained 20.0 %" in page.text) == baseline


def test_lost_numbers_are_told_and_drawn_around(tmp_path):
    with Record(tmp_path, total_steps=4, steps_per_epoch=4, console=Console(file=io.StringIO())) as run:
        for step, loss in enumerate([1.0, float("nan"), float("inf"), 2.0], 1):
            run.step(step, {"loss": loss, "grad_norm": 0.0})
        run.epoch(1, 4, {"retrieval": float("nan"), "unreadable": 1})
    _, page = write(tmp_path)
    assert "not a number" not in page.text and "nan" not in page.text.lower().split()
    assert "stopped being a finite number at step 2" in page.text
    assert "1 image could not be read" in page.text


def test_collapse_is_told_in_words(tmp_path):
    record(tmp_path, mean_cosine=0.99, effective_rank=1.3)
    text, page = write(tmp_path)
    assert "nearly collapsed" in page.text and "tile card flagged" in text


def test_top_five_of_few_classes_is_no_news(tmp_path):
    epochs = [{"epoch": e, "step": e, "knn_top1": 0.4, "knn_top5": 1.0} for e in (0, 1)]
    assert "top-5" not in curves(History(tmp_path).steps, epochs, 1 / 3)
    assert "top-5" in curves(History(tmp_path).steps, epochs, 0.1)


def test_page_stays_light(tmp_path):
    # Noise compresses worst, and the curves are those of a long run.
    steps = [
        {"kind": "step", "step": s, "epoch": 1 + s // 1001, "loss": 1 + s % 7, "lr": s, "grad_norm": 1.0}
        for s in range(1, 20_001)
    ]
    assert len(curves(as_columns(steps), [], None)) < 300_000
    record(tmp_path)
    text, _ = write(tmp_path, classes=10, **pictures(rows=8))
    assert len(text) < 3_000_000
