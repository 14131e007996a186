"""A process that measures, so that a table that hangs, crashes or fills the card's memory takes no other with it."""

import multiprocessing
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from ipcl_jax.benchmarks.compilations import Compilations
from ipcl_jax.benchmarks.turns import Measured
from ipcl_jax.system.compilation import set_up_compiler
from ipcl_jax.system.files import error_text
from ipcl_jax.system.signals import end_with_parent


class TableFailed(Exception):
    """A table could not be measured; the message is one line."""


class Worker:
    """Measures one table after the other in a process of its own; a context manager.

    The process keeps the card and its compiled programs from table to table. After a table that failed, the next one
    gets a new process.

    Args:
        folder: for temporary files; whoever made it removes it, since a process that is killed does not.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._process: multiprocessing.process.BaseProcess | None = None

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_) -> None:
        self._stop()

    def measure(self, function: Callable[..., Measured], options: dict, limit: float) -> Measured:
        """Calls `function(**options)` in the process.

        Args:
            function: of a module, since it is pickled.
            options: its arguments.
            limit: seconds after which the process is killed; its start is not counted.

        Returns:
            What it returned, with what was compiled among the facts.

        Raises:
            TableFailed: if it raised an exception, took longer, or its process ended.
        """
        answer: Measured | str
        try:
            if self._process is None:
                self._start()
            self._pipe.send((function, options))
            if self._pipe.poll(limit):
                answer = self._pipe.recv()
            else:
                answer = f"not finished after {limit:.0f} s, and stopped"
        except (EOFError, ConnectionError):
            assert self._process is not None  # started above
            self._process.join()
            answer = f"its process ended with exit code {self._process.exitcode}"
        if isinstance(answer, str):
            self._stop()
            raise TableFailed(answer)
        return answer

    def _start(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, end = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(end, self._folder))
        self._process.start()
        end.close()  # only the other process holds it, so that recv fails here if that process ends
        self._pipe.recv()  # once it has imported what it needs

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None


def _serve(pipe, folder: Path) -> None:
    end_with_parent()
    set_up_compiler()
    tempfile.tempdir = str(folder)
    pipe.send(None)
    while True:
        try:
            function, options = pipe.recv()
        except EOFError:
            return
        try:
            with Compilations() as compilations:
                answer = function(**options)
            facts = compilations.facts()
            answer.facts |= facts
            print(*(f"{name}: {value}" for name, value in facts.items()), sep="\n", flush=True)
        except Exception as error:  # of whatever kind: the other tables can still be measured
            traceback.print_exc()
            answer = f"{type(error).__name__}: {error_text(error).splitlines()[0]}"
        sys.stdout.flush()
        pipe.send(answer)
