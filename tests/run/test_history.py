"""The metrics of a run, read as columns and bit by bit."""

import io
import json
import math
import tracemalloc
from time import process_time

import numpy as np
import pytest
from rich.console import Console

from ipcl_jax.config import Train
from ipcl_jax.report.run_page import write_report
from ipcl_jax.run.history import METRICS, History, read_metrics
from ipcl_jax.run.metrics import MOST_LINES, Record
from ipcl_jax.stored_config import differences

LINE = {"loss": 2.0, "lr": 1e-3, "momentum": 0.9, "grad_norm": 0.5, "wait_input": 0.25, "wait_device": 1.0, "views": 40}


def record(folder, total=12, per_epoch=6, **options) -> Record:
    return Record(folder, total_steps=total, steps_per_epoch=per_epoch, console=Console(file=io.StringIO()), **options)


def write(run: Record, first: int, last: int) -> None:
    for step in range(first, last + 1):
        run.step(step, LINE | {"loss": float(step), "lr": step / 100})


def test_a_line_summarises_several_steps(tmp_path):
    with record(tmp_path, every=4) as run:
        write(run, 1, 6)
        run.epoch(1, 6, {"retrieval": 0.5})
        write(run, 7, 11)
    steps, (epoch,) = read_metrics(tmp_path)
    # A line ends at each fourth step, at the end of an epoch and of the run.
    assert [(line["step"], line["epoch"], line.get("steps", 1)) for line in steps] == [
        (4, 1, 4), (6, 1, 2), (8, 2, 2), (11, 2, 3)
    ]  # fmt: skip
    assert [line["loss"] for line in steps] == [2.5, 5.5, 7.5, 10.0]  # means
    assert [line["lr"] for line in steps] == [0.04, 0.06, 0.08, 0.11]  # of the last step
    assert [line["wait_input"] for line in steps] == [1.0, 0.5, 0.5, 0.75]  # sums
    assert epoch["loss"] == 3.5 and epoch["lr"] == 0.06  # of the steps, not of the lines
    assert epoch["input_share"] == pytest.approx(0.2)


def test_what_is_flushed_before_a_checkpoint_is_gone_on_with(tmp_path):
    with record(tmp_path, every=4) as run:
        write(run, 1, 2)
        run.flush()
        assert [line["step"] for line in read_metrics(tmp_path)[0]] == [2]
        write(run, 3, 3)  # lost with the process, which is killed
        run._unwritten = []
    with record(tmp_path, every=4, start_step=2) as run:
        write(run, 3, 6)
        run.epoch(1, 6, {})
    steps, (epoch,) = read_metrics(tmp_path)
    assert [(line["step"], line.get("steps", 1)) for line in steps] == [(2, 2), (4, 2), (6, 2)]
    assert epoch["loss"] == 3.5


def test_a_value_that_is_no_number_shows_in_the_line_of_its_group(tmp_path):
    with record(tmp_path, every=4) as run:
        for step, loss in enumerate((1.0, math.inf, -math.inf, 1.0), 1):
            run.step(step, LINE | {"loss": loss})
    assert read_metrics(tmp_path)[0][0]["loss"] is None
    assert np.isinf(History(tmp_path).read().steps["loss"]).all()


def test_by_default_the_file_stays_small(tmp_path):
    assert record(tmp_path, total=MOST_LINES)._every == 1
    assert record(tmp_path, total=1_000_900)._every == 11  # the paper's recipe
    # How often a line is written doesn't make another run.
    config = Train(name="x")
    assert not differences(config, {"name": "x", "log_every": 7})


def test_columns_are_those_of_the_lines(tmp_path):
    with record(tmp_path) as run:
        write(run, 1, 6)
        run.epoch(1, 6, {"knn_top1": 0.25})
        run.step(7, {"loss": math.nan})
    history, (steps, epochs) = History(tmp_path).read(), read_metrics(tmp_path)
    assert history.epochs == epochs
    assert history.steps["step"].tolist() == [line["step"] for line in steps]
    assert history.steps["steps"].tolist() == [1] * 7
    np.testing.assert_array_equal(history.steps["loss"], [1, 2, 3, 4, 5, 6, np.inf])
    np.testing.assert_array_equal(history.steps["lr"], [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, np.nan])


def test_only_new_lines_are_read(tmp_path):
    history = History(tmp_path).read()
    assert len(history.steps["step"]) == 0 and history.epochs == []
    path = tmp_path / METRICS
    with open(path, "w") as file:
        for step in (1, 2):
            file.write(json.dumps({"kind": "step", "step": step, "epoch": 1, "loss": step}) + "\n")
        file.write('{"kind": "step", "step": 3, "ep')
        file.flush()
        assert history.read().steps["loss"].tolist() == [1, 2]
        path_bytes = path.read_bytes()
        file.write('och": 1, "loss": 9}\nno line\n{"kind": "epoch", "step": 3, "epoch": 1}\n')
    with open(path, "r+b") as file:
        file.write(b"#" * len(path_bytes.splitlines()[0]))  # what has been read is not read again
    assert history.read().steps["loss"].tolist() == [1, 2, 9]
    assert [line["epoch"] for line in history.epochs] == [1]


def test_a_file_that_was_replaced_is_read_anew(tmp_path):
    """As a resumed run does, which drops what came after its checkpoint."""
    with record(tmp_path) as run:
        write(run, 1, 9)
    history = History(tmp_path).read()
    with record(tmp_path, start_step=4) as run:
        run.step(5, LINE | {"loss": 50.0})
    assert history.read().steps["loss"].tolist() == [1, 2, 3, 4, 50]


def test_the_last_line_of_a_step_counts(tmp_path):
    lines = [(1, 1), (2, 2), (3, 3), (2, 20), (4, 4)]
    text = "".join(json.dumps({"kind": "step", "step": s, "epoch": 1, "loss": v}) + "\n" for s, v in lines)
    (tmp_path / METRICS).write_text(text)
    assert History(tmp_path).read().steps["loss"].tolist() == [1, 20, 3, 4]
    assert [line["loss"] for line in read_metrics(tmp_path)[0]] == [1, 20, 3, 4]


@pytest.mark.slow
def test_a_report_of_a_million_batches(tmp_path):
    """As the paper's recipe writes them: in lines of eleven batches, and 101 read-outs."""
    total, per_epoch, every = 1_000_900, 10_009, 11
    with open(tmp_path / METRICS, "w") as file:
        for step in range(every, total + 1, every):
            line = LINE | {"kind": "step", "step": step, "epoch": (step - 1) // per_epoch + 1, "steps": every}
            file.write(json.dumps(line | {"loss": 1e6 / step, "views_per_second": 21_987.123}) + "\n")
        for epoch in range(101):
            line = {"kind": "epoch", "step": epoch * per_epoch, "epoch": epoch, "knn_top1": epoch / 200, "loss": 2.0}
            file.write(json.dumps(line) + "\n")
    assert (tmp_path / METRICS).stat().st_size < 50e6
    tracemalloc.start(1)
    history = History(tmp_path).read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6 and history.steps["step"][-1] == 1_000_900 - 1_000_900 % 11
    write_report(tmp_path, config=Train(name="x"), environment={}, resume="", history=history)  # imports matplotlib
    start = process_time()
    page = write_report(tmp_path, config=Train(name="x"), environment={}, resume="", history=history)
    assert process_time() - start < 5  # about one
    assert "1,000,890 steps" in page.read_text()
    assert page.stat().st_size < 3e6
