"""Commands as a user runs them: each in a process of its own, with one device, forked from one that has imported JAX.

Python and JAX take seconds to start; a process that has imported both, and used no device yet, is forked in
milliseconds.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

SCRIPTS = Path(__file__).parents[1] / "experiments"

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["ipcl_jax.commands.opening", "ipcl_jax.commands.recipes", "ipcl_jax.report.run_page"])


def environment(cache: Path | None = None, columns: int = 200) -> dict[str, str]:
    changed = os.environ | {"COLUMNS": str(columns), "JAX_PLATFORMS": "cpu"}
    changed |= {"IPCL_JAX_CACHE": str(cache)} if cache else {}
    # One device, as a user has.
    flags = (flag for flag in changed.get("XLA_FLAGS", "").split() if "device_count" not in flag)
    return changed | {"XLA_FLAGS": " ".join(flags)}


def start(
    script: str, *arguments, cache: Path | None = None, cwd: Path | None = None, columns: int = 200
) -> subprocess.Popen:
    """Starts a command in a Python of its own, in `cwd` or the folder of its cache."""
    return subprocess.Popen(
        [sys.executable, str(SCRIPTS / script), *map(str, arguments)], text=True, cwd=cwd or cache,
        env=environment(cache, columns), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def _work(commands: list[list[str]], surroundings: dict[str, str], cwd: str | None, out: str, err: str) -> None:
    """In the forked process: runs commands, one after the other, and ends with the last one's exit code."""
    for path, stream in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.environ.clear()
    os.environ.update(surroundings)
    os.chdir(cwd or os.getcwd())
    sys.path.insert(0, str(SCRIPTS))
    code = None
    for command in commands:
        sys.argv = command
        try:
            runpy.run_path(command[0], run_name="__main__")
        except SystemExit as end:
            code = end.code
        if len(commands) > 1:
            print("exit code", code, file=sys.stderr)
    sys.exit(code)


def run_forked(
    *commands: tuple, cache: Path | None = None, cwd: Path | None = None, columns: int = 200
) -> subprocess.CompletedProcess:
    """Runs commands, one after the other, in one process."""
    texts = [[str(SCRIPTS / script), *map(str, arguments)] for script, *arguments in commands]
    folder = cwd or cache
    with tempfile.TemporaryDirectory() as streams:
        out, err = os.path.join(streams, "out"), os.path.join(streams, "err")
        surroundings = environment(cache, columns)
        process = _FORKS.Process(
            target=_work, args=(texts, surroundings, folder and str(folder), out, err)
        )
        process.start()
        process.join(300)
        if process.exitcode is None:
            process.kill()
            process.join()
        texts = [Path(path).read_text(errors="replace") if os.path.exists(path) else "" for path in (out, err)]
        return subprocess.CompletedProcess(commands, process.exitcode, *texts)


def run(script: str, *arguments, code: int = 0, **surroundings) -> str:
    """What a command says until it ends with an exit code."""
    done = run_forked((script, *arguments), **surroundings)
    text = done.stdout + done.stderr
    assert done.returncode == code, text
    assert "Traceback" not in text
    return text


# Runs several commands in one process, which starts JAX once.
IN_TURN = """
import json, runpy, sys
commands, sys.path[0] = json.loads(sys.argv[1]), sys.argv[2]
for command in commands:
    sys.argv = command
    try:
        runpy.run_path(command[0], run_name="__main__")
    except SystemExit as end:
        print("exit code", end.code, file=sys.stderr)
"""


def refused(cache: Path, *commands: tuple) -> list[str]:
    """The line that each command says which can't do what was asked; none of them leaves a file behind."""
    before = kept(cache)
    done = run_forked(*commands, *commands[:1] * (len(commands) == 1), cache=cache)
    lines = done.stderr.splitlines()
    assert lines[1::2] == ["exit code 2"] * (len(lines) // 2) and len(lines) >= 2 * len(commands), done.stderr
    assert all(line.startswith("error: ") for line in lines[::2])
    assert kept(cache) == before
    return lines[: 2 * len(commands) : 2]


def kept(cache: Path) -> set[Path]:
    return {path for path in cache.rglob("*") if path.is_file() and "compiled" not in path.parts}
