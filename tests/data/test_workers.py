"""Threads or processes."""

import itertools
import signal
import subprocess
import sys
import time

import pytest

from ipcl_jax.data import workers
from ipcl_jax.data.sources import open_source
from ipcl_jax.data.workers import choose_workers


@pytest.fixture
def trials(monkeypatch):
    """Loaders of given speeds in place of the real ones; returns what was asked of them."""
    asked = []

    class Batches:
        def __init__(self, source, *, workers, **_):
            asked.append(workers)
            self._images = 10 if workers == asked_for_speed["fast"] else 1

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def __next__(self):
            return {"index": [0] * self._images}

    asked_for_speed = {"fast": 0}
    monkeypatch.setattr(workers, "TrainBatches", Batches)
    ticks = itertools.count()  # a clock that no other program can hold up
    monkeypatch.setattr(workers, "perf_counter", lambda: next(ticks) / 100)
    return asked, asked_for_speed


def choose(cores: int, images: int = 10**6) -> tuple[int, str]:
    return choose_workers(None, batch_size=4, canvas=(8, 8), threads=2, images=images, cores=cores)


def test_few_cores_and_short_runs_are_not_tried(trials):
    assert choose(4) == choose(16, images=1000) == (0, "") and trials[0] == []


@pytest.mark.parametrize("fast", [0, 8])
def test_the_faster_one_is_taken(trials, fast):
    asked, speed = trials
    speed["fast"] = fast
    number, why = choose(16)
    assert asked == [0, 8] and number == fast
    assert "images/s with 2 threads" in why and why.startswith(f"Decoding with {8 if fast else 2}")


@pytest.mark.slow
def test_a_real_trial(monkeypatch):
    monkeypatch.setattr(workers, "TRIAL", 0.2)
    number, why = choose_workers(
        open_source("sample", "train"), batch_size=8, canvas=(64, 64), threads=2, images=10**6, cores=8
    )
    assert number in (0, 4) and "images/s" in why


KILLED = """
import multiprocessing, sys, time
from ipcl_jax.data.loader import TrainBatches
from ipcl_jax.data.sources import open_source

if __name__ == "__main__":
    images = open_source("sample", "train")
    with TrainBatches(images, batch_size=8, canvas=(64, 64), seed=0, threads=1, workers=2) as batches:
        while len(children := multiprocessing.active_children()) < 2:  # one may be ready before the other has begun
            next(batches)
        print(*(child.pid for child in children), flush=True)
        time.sleep(600)
"""


def test_processes_end_with_the_one_that_started_them(tmp_path):
    (tmp_path / "killed.py").write_text(KILLED)
    killed = subprocess.Popen(
        [sys.executable, str(tmp_path / "killed.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    children = [int(pid) for pid in killed.stdout.readline().split()]
    assert len(children) == 2 and all(alive(pid) for pid in children)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    deadline = time.monotonic() + 60
    while any(alive(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(alive(pid) for pid in children)


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
