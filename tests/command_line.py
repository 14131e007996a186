"""Commands as a user runs them: each in a process of its own, with one device, forked from one that has imported JAX.

Python and JAX take seconds to start; a process that has imported both, and used no device yet, is forked in
milliseconds.
"""

import atexit
import contextlib
import functools
import importlib.util
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from multiprocessing import reduction
from pathlib import Path
from types import MappingProxyType, ModuleType

SCRIPTS = Path(__file__).parents[1] / "experiments"

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["ipcl_jax.commands.opening", "ipcl_jax.commands.recipes", "ipcl_jax.report.run_page", "ipcl_jax.report.gallery"]
)


def environment(cache: Path | None = None, columns: int = 200) -> dict[str, str]:
    """Environment variables of a command: one device, as a user has."""
    changed = os.environ | {"COLUMNS": str(columns), "JAX_PLATFORMS": "cpu"}
    changed |= {"IPCL_JAX_CACHE": str(cache)} if cache else {}
    flags = (flag for flag in changed.get("XLA_FLAGS", "").split() if "device_count" not in flag)
    return changed | {"XLA_FLAGS": " ".join(flags)}


class _Inherited:
    """A file descriptor that arrives in a forked process."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor

    def __reduce__(self):
        return _detach, (reduction.DupFd(self.descriptor),)


def _detach(duplicate) -> int:
    return duplicate.detach()


def _work(commands: list[list[str]], surroundings: dict[str, str], cwd: str, out: int, err: int) -> None:
    """In the forked process: runs commands, one after the other, and ends with the last one's exit code."""
    os.dup2(out, 1)
    os.dup2(err, 2)
    sys.stdout = open(1, "w", closefd=False)
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    os.environ.clear()
    os.environ.update(surroundings)
    os.chdir(cwd)
    sys.path.insert(0, str(SCRIPTS))  # as Python does for a script
    code: object = 0
    try:
        for command in commands:
            sys.argv = command
            try:
                runpy.run_path(command[0], run_name="__main__")
            except SystemExit as end:
                code = end.code
            if len(commands) > 1:
                print("exit code", code, file=sys.stderr)
    finally:
        sys.stdout.flush()
        threading._shutdown()
        atexit._run_exitfuncs()  # a forked process would leave them out
    sys.exit(code)


class Command:
    """Commands that run, one after the other, in a forked process; used as `subprocess.Popen` is."""

    def __init__(
        self, *commands: tuple, cache: Path | None = None, cwd: Path | None = None, columns: int = 200,
        variables: Mapping[str, str] = MappingProxyType({}),
    ):
        texts = [[str(SCRIPTS / script), *map(str, arguments)] for script, *arguments in commands]
        (out, to_out), (err, to_err) = os.pipe(), os.pipe()
        self.stdout, self.stderr = os.fdopen(out, errors="replace"), os.fdopen(err, errors="replace")
        self._process = _FORKS.Process(
            target=_work,
            args=(
                texts, environment(cache, columns) | dict(variables), str(cwd or cache or os.getcwd()),
                _Inherited(to_out), _Inherited(to_err),
            ),
        )  # fmt: skip
        self._process.start()
        os.close(to_out)
        os.close(to_err)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("a command", timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """What the command printed from now on, once it has ended."""
        texts: dict[str, str] = {}

        def read(name: str) -> None:
            texts[name] = getattr(self, name).read()

        readers = [threading.Thread(target=read, args=(name,)) for name in ("stdout", "stderr")]
        for reader in readers:
            reader.start()
        try:
            self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        finally:
            for reader in readers:
                reader.join(10)  # a process that the command left behind may keep the pipe
        return texts.get("stdout", ""), texts.get("stderr", "")


@functools.cache
def script(name: str) -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(f"script_{Path(name).stem}", SCRIPTS / name)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start(script: str, *arguments, **surroundings) -> Command:
    """Starts a command, in `cwd` or the folder of its cache."""
    return Command((script, *arguments), **surroundings)


def run(script: str, *arguments, code: int = 0, **surroundings) -> str:
    """What a command says until it ends with an exit code."""
    process = start(script, *arguments, **surroundings)
    text = "".join(process.communicate())
    assert process.returncode == code, text
    assert "Traceback" not in text
    return text


def refused(cache: Path, *commands: tuple) -> list[str]:
    """The line that each command says which can't do what was asked; none of them leaves a file behind."""
    before = kept(cache)
    several = commands if len(commands) > 1 else commands * 2  # of one alone no exit code is printed
    _, said = Command(*several, cache=cache).communicate()
    lines = said.splitlines()
    assert lines[1::2] == ["exit code 2"] * len(several) and len(lines) == 2 * len(several), said
    assert all(line.startswith("error: ") for line in lines[::2])
    assert kept(cache) == before
    return lines[: 2 * len(commands) : 2]


def kept(cache: Path) -> set[Path]:
    return {path for path in cache.rglob("*") if path.is_file() and "compiled" not in path.parts}
