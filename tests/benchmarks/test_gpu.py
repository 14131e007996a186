"""`benchmark.py gpu` keeps what it measured, whatever happens to one of its tables or to itself."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ipcl_jax.benchmarks import figure, gpu
from ipcl_jax.benchmarks.gpu import Planned, plan, run_tables
from ipcl_jax.errors import MissingPackage
from made_up_tables import crashes, fails, hangs, measured


def table(name: str, seconds: float = 1.0, measure=measured, **options) -> Planned:
    return Planned(name=name, seconds=seconds, measure=measure, options={"name": name} | options)


def names(document: dict) -> list[str]:
    return [table["name"] for table in document["tables"]]


def test_tables_that_fail_crash_or_hang_leave_the_others(tmp_path, capfd):
    out = tmp_path / "gpu.json"
    tables = [
        table("first"), table("failing", measure=fails), table("crashing", measure=crashes),
        table("hanging", measure=hangs), table("last", 30.0),
    ]  # fmt: skip
    assert run_tables(tables, out, 2.0, tmp_path) == 1
    document = json.loads(out.read_text())
    assert names(document) == ["first", "last"] and document["device"] == "1 x card"
    assert document["failed"] == {
        "failing": "ValueError: failing can't be measured",
        "crashing": "its process ended with exit code 9",
        "hanging": document["failed"]["hanging"],
    }
    assert re.fullmatch(r"not finished after \d s, and stopped", document["failed"]["hanging"])
    assert document["left_out"] == {} and document["unfinished"] is None
    assert document["tables"][1]["summary"]["ours"] == {"median": 2.0, "lowest": 1.0, "highest": 3.0}
    assert {"compilation, s", "compiled"} <= document["tables"][0]["facts"].keys()
    assert (tmp_path / "gpu.png").is_file()
    printed, said = capfd.readouterr()
    assert "FAILED: failing: ValueError: failing can't be measured\n" in said
    assert "failed: failing, crashing, hanging" in printed


def test_a_table_that_does_not_fit_into_the_time_is_left_out(tmp_path, capfd):
    out = tmp_path / "gpu.json"
    assert (
        run_tables([table("long", 100.0), table("short", 5.0), table("none", 60.0)], out, 1.0, tmp_path) == 0
    )
    document = json.loads(out.read_text())
    assert names(document) == ["short"] and document["failed"] == {}
    assert document["left_out"]["long"] == "expected to take 100 s, of 60 s left"
    assert list(document["left_out"]) == ["long", "none"]
    assert "left out: long, none" in capfd.readouterr().out


def test_without_torchs_side_ours_is_measured(tmp_path):
    out = tmp_path / "gpu.json"
    assert run_tables([table("both", against="torch")], out, 1.0, tmp_path) == 1
    document = json.loads(out.read_text())
    assert names(document) == ["both"]
    assert document["failed"] == {"both": "TorchFailed: torch: RuntimeError: no compiler"}


def test_no_figure_without_matplotlib(tmp_path, monkeypatch, capfd):
    def missing():
        raise MissingPackage("Drawing needs matplotlib")

    monkeypatch.setattr(figure, "load_matplotlib", missing)
    assert run_tables([table("first")], tmp_path / "gpu.json", 1.0, tmp_path) == 0
    assert names(json.loads((tmp_path / "gpu.json").read_text())) == ["first"]
    assert "No figure: Drawing needs matplotlib\n" in capfd.readouterr().err


PROGRAM = """
import sys
from pathlib import Path
from ipcl_jax.benchmarks import gpu
from made_up_tables import hangs, measured

def table(name, seconds, measure):
    return gpu.Planned(name=name, seconds=seconds, measure=measure, options={"name": name})

if __name__ == "__main__":
    tables = [table("first", 1.0, measured), table("second", 50.0, hangs)]
    gpu.plan = lambda *_: tables
    sys.exit(gpu.gpu(Path(sys.argv[1]), minutes=5.0))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_benchmark_leaves_what_it_measured(number, tmp_path):
    program, out = tmp_path / "program.py", tmp_path / "gpu.json"
    program.write_text(PROGRAM)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    path = os.pathsep.join(
        [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", str(Path(gpu.__file__).parents[2]))]
    )
    process = subprocess.Popen(
        [sys.executable, program, out], env=os.environ | {"PYTHONPATH": path, "TMPDIR": str(temporary)}
    )
    try:
        until = time.monotonic() + 60
        while not (out.is_file() and json.loads(out.read_text())["unfinished"] == "second"):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.1)
        workers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        code = process.wait(20)
    finally:
        process.kill()
    document = json.loads(out.read_text())
    assert names(document) == ["first"] and document["unfinished"] == "second"
    assert workers and not psutil.wait_procs(workers, timeout=20)[1]
    assert code == (143 if number == signal.SIGTERM else -9)
    assert number == signal.SIGKILL or not list(temporary.glob("tmp*"))


def test_the_most_valuable_tables_come_first(tmp_path):
    order = [table.name for table in plan(tmp_path, 128)]
    assert order[:4] == [
        "step with views, bfloat16",
        "train, bfloat16",
        "step, bfloat16",
        "step with views, float32",
    ]
    assert order[4:8] == ["train, float32", "step, float32", "extract", "knn"]
    assert sum(table.seconds for table in plan(tmp_path, 128)) <= 8 * 60
    assert [table.name for table in plan(tmp_path, 128, "torch")] == order
