import io
import json
import re
import struct
import subprocess
import sys

import jax.numpy as jnp
import pytest
from rich.console import Console
from tensorboardX.proto.event_pb2 import Event

from ipcl_jax.run import metrics
from ipcl_jax.run.history import read_metrics
from ipcl_jax.run.metrics import NoRecord, Record
from ipcl_jax.system.console import make_console

METRICS = {"loss": 2.0, "lr": 1e-3, "momentum": 0.9, "grad_norm": 0.5, "views": 40}


class Clock:
    """Time that moves only when told to."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(metrics, "monotonic", clock)
    return clock


def plain():
    return Console(file=io.StringIO(), width=80)


def train(folder, first, last, *, console=None, total=12, per_epoch=4, loss=float):
    """Records steps first..last, and each epoch that ends among them."""
    console = console or plain()
    with Record(
        folder, total_steps=total, steps_per_epoch=per_epoch, start_step=first - 1, console=console
    ) as run:
        for step in range(first, last + 1):
            run.step(step, METRICS | {"loss": loss(step)})
            if step % per_epoch == 0:
                run.epoch(step // per_epoch, step, {"retrieval": 0.25})
    return console.file.getvalue()


def events(folder):
    """What TensorBoard would read, without its files' checksums."""
    found = []
    for path in sorted(folder.glob("tensorboard/events.out.tfevents.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack_from("<Q", data, at)
            found.append(Event.FromString(data[at + 12 : at + 12 + size]))
            at += 16 + size
    return found


def scalars(folder, tag):
    return {e.step: v.simple_value for e in events(folder) for v in e.summary.value if v.tag == tag}


def test_steps_and_epochs_come_back(tmp_path):
    with Record(tmp_path, total_steps=8, steps_per_epoch=4, console=plain()) as run:
        run.epoch(0, 0, {"retrieval": 0.1})
        for step in range(1, 5):
            run.step(step, METRICS | {"loss": jnp.float32(step), "lr": step})
        run.epoch(1, 4, {"retrieval": 0.25, "grad_norm": 7})
    steps, (untrained, first) = read_metrics(tmp_path)
    assert [(s["step"], s["epoch"], s["loss"]) for s in steps] == [(i, 1, float(i)) for i in range(1, 5)]
    assert "views" not in steps[0]
    assert untrained == {"kind": "epoch", "step": 0, "epoch": 0, "retrieval": 0.1}
    # Means and last values are filled in, but what was given stays.
    assert (first["loss"], first["lr"], first["grad_norm"]) == (2.5, 4.0, 7.0)


def test_speed_leaves_out_compilation_and_pauses(tmp_path, clock):
    with Record(tmp_path, total_steps=8, steps_per_epoch=4, console=plain()) as run:
        clock.now = 100.0  # the first step compiles
        for step in range(1, 9):
            run.step(step, METRICS)
            clock.now += 0.5
            if step == 4:
                run.epoch(1, 4, {})
                clock.now += 1000.0
    steps, _ = read_metrics(tmp_path)
    assert [s.get("views_per_second") for s in steps] == [None, 80, 80, 80, None, 80, 80, 80]


def test_resuming_drops_what_came_after_the_checkpoint(tmp_path):
    train(tmp_path, 1, 10)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"kind": "step", "step": 11, "lo')
    assert [line["step"] for line in read_metrics(tmp_path)[0]] == list(range(1, 11))

    train(tmp_path, 7, 12, loss=lambda step: -step)
    steps, epochs = read_metrics(tmp_path)
    assert [line["loss"] for line in steps] == [*range(1, 7), *range(-7, -13, -1)]
    assert [line["step"] for line in epochs] == [4, 8, 12]
    assert epochs[1]["loss"] == (5 + 6 - 7 - 8) / 4  # the mean reaches back before the resume
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len([json.loads(line) for line in lines]) == 12 + 3
    assert {e.step for e in events(tmp_path) if e.session_log.status} == {1, 7}


def test_resuming_keeps_an_epoch_that_ends_at_the_checkpoint(tmp_path):
    train(tmp_path, 1, 8)
    train(tmp_path, 9, 9)
    assert [line["step"] for line in read_metrics(tmp_path)[1]] == [4, 8]


def test_what_comes_after_the_start_is_computed_again_and_nothing_else_is_lost(tmp_path):
    train(tmp_path, 1, 6)
    (tmp_path / "notes.md").write_text("mine")
    train(tmp_path, 1, 2, loss=lambda step: 10 * step)
    assert [line["loss"] for line in read_metrics(tmp_path)[0]] == [10, 20]
    shown = scalars(tmp_path, "step/loss")  # of which TensorBoard hides those of the first attempt
    assert (shown[1], shown[2]) == (10.0, 20.0)
    assert (tmp_path / "notes.md").exists() and (tmp_path / "log.txt").read_text()


def test_the_untrained_networks_measures_stay(tmp_path):
    """They are of step 0, and cost an epoch."""
    with Record(tmp_path, total_steps=8, steps_per_epoch=4) as record:
        record.epoch(0, 0, {"retrieval": 0.25})
        record.say("measured")
    for _ in range(2):
        with Record(tmp_path, total_steps=8, steps_per_epoch=4):
            pass
    assert [line["retrieval"] for line in read_metrics(tmp_path)[1]] == [0.25]
    assert (tmp_path / "log.txt").read_text().count("measured") == 1


def test_a_silent_process_has_what_a_record_has_and_no_more():
    """A misspelt call fails in every process, not just in the one that prints."""
    named = {name for name in vars(Record) if not name.startswith("_")}
    assert {name for name in vars(NoRecord) if not name.startswith("_")} == named
    with pytest.raises(AttributeError):
        NoRecord().sya("")


def test_numbers_json_lacks_become_null(tmp_path, capsys):
    text = train(tmp_path, 1, 4, loss=lambda step: [float("nan"), float("inf"), -float("inf"), 3.0][step - 1])
    raw = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in raw and "Infinity" not in raw
    steps, epochs = read_metrics(tmp_path)
    assert [line["loss"] for line in steps] == [None, None, None, 3.0]
    assert epochs[0]["loss"] == 3.0
    assert "loss nan" in text
    assert capsys.readouterr().out == ""


def test_lines_reach_the_file_at_once(tmp_path):
    with Record(tmp_path, total_steps=8, steps_per_epoch=4, console=plain()) as run:
        run.step(1, METRICS)
        run.say("hello")
        assert len(read_metrics(tmp_path)[0]) == 1
        assert "hello" in (tmp_path / "log.txt").read_text()


def test_a_folder_without_metrics(tmp_path):
    assert read_metrics(tmp_path) == ([], [])


def test_a_log_is_not_flooded(tmp_path, clock):
    console = plain()
    with Record(tmp_path, total_steps=200, steps_per_epoch=100, console=console) as run:
        for step in range(1, 201):
            run.step(step, METRICS)
            clock.now += 0.3
    shown = [int(n) for n in re.findall(r"step (\d+)/200", console.file.getvalue())]
    assert {1, 100, 101, 200} <= set(shown)
    assert 6 + 4 >= len(shown) >= 6  # a minute in all
    assert all(line.count("epoch") == 1 for line in console.file.getvalue().splitlines())
    assert "133 views/s" in console.file.getvalue() and "left" in console.file.getvalue()


def test_a_terminal_shows_one_line(tmp_path, clock):
    for width in (60, 160):
        console = Console(force_terminal=True, file=io.StringIO(), width=width, color_system=None)
        with Record(tmp_path, total_steps=12, steps_per_epoch=4, console=console) as run:
            for step in range(1, 7):
                run.step(step, METRICS)
                clock.now += 60.0
            run.warn("3 images [could] not be read")
        text = console.file.getvalue()
        assert "warning: 3 images [could] not be read" in text
        last = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", text).rstrip().splitlines()[-1]
        assert "epoch 2/3  step 6/12" in last
        assert len(last) <= width
    assert "loss 2.000  lr 0.00100  1 views/s  6 min left" in last


def test_what_was_said_is_logged_with_the_time(tmp_path):
    console = plain()
    with pytest.raises(KeyboardInterrupt), Record(
        tmp_path, total_steps=8, steps_per_epoch=4, console=console
    ) as run:
        run.say("a [bold] claim")
        run.step(1, METRICS)
        raise KeyboardInterrupt
    log = (tmp_path / "log.txt").read_text().splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S* a \[bold\] claim", log[0])
    assert "stopped after step 1: KeyboardInterrupt" in log[-1]
    assert console.file.getvalue().startswith("a [bold] claim\n")


def test_tensorboard_has_every_scalar(tmp_path):
    train(tmp_path, 1, 8)
    assert scalars(tmp_path, "step/loss") == {step: float(step) for step in range(1, 9)}
    assert scalars(tmp_path, "epoch/retrieval") == {4: 0.25, 8: 0.25}


def test_no_torch_comes_in_by_the_back_door(tmp_path):
    code = f"""
import sys
from pathlib import Path
from ipcl_jax.run.metrics import Record
with Record(Path({str(tmp_path)!r}), total_steps=2, steps_per_epoch=2) as run:
    run.step(1, {{"loss": 1.0}})
assert not {{"torch", "tensorflow"}} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_that_lacks_letters_gets_question_marks(encoding, monkeypatch):
    memory = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(memory, encoding=encoding, write_through=True))
    make_console().print("[red]ä –☃[/x]", 3)
    assert memory.getvalue().decode(encoding) == "[red]ä –☃[/x] 3\n".encode(encoding, "replace").decode(encoding)


def test_names_that_are_not_utf8_are_kept_with_backslashes(tmp_path):
    with Record(tmp_path, total_steps=8, steps_per_epoch=4, console=plain()) as run:
        run.say("images from folder:/caf\udce9")
    assert "images from folder:/caf\\udce9" in (tmp_path / "log.txt").read_text(encoding="utf-8")
