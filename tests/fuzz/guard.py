"""Watches over a reader: how long it takes, how much memory, and whether it does what no reader should."""

import contextlib
import faulthandler
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType

from ipcl_jax.system import probe

SECONDS = 10
MEGABYTES = 2048
RUNS = frozenset(
    "os.system os.exec os.posix_spawn os.spawn os.fork os.forkpty subprocess.Popen socket.connect exec".split()
)
CHANGES = frozenset("open os.remove os.rename os.rmdir os.mkdir shutil.rmtree".split())

_watched: dict = {"folder": None, "seen": []}


def _watch(event: str, details: tuple) -> None:
    if _watched["folder"] is None or event not in RUNS | CHANGES or (event == "exec" and _imports(*details)):
        return
    if event == "subprocess.Popen" and probe.__file__ in details[1]:
        return
    if event in RUNS or (_writes(event, details) and not str(details[0]).startswith(_watched["folder"])):
        _watched["seen"].append(f"{event} {str(details)[:200]}")


def _imports(code: CodeType) -> bool:
    """Whether it is a module of Python's own or an installed one, imported only now."""
    return Path(code.co_filename).is_relative_to(sys.base_prefix) or "site-packages" in code.co_filename


def _writes(event: str, details: tuple) -> bool:
    if event != "open":
        return True
    _, mode, flags = details
    return bool(mode and set(str(mode)) & set("wax+")) or bool((flags or 0) & (os.O_WRONLY | os.O_RDWR))


sys.addaudithook(_watch)
probe._SECONDS = SECONDS / 2  # of a file of a few kilobytes


@contextlib.contextmanager
def guarded(folder: Path) -> Iterator[list[str]]:
    """Ends the process if what is done inside takes more than `SECONDS`.

    Yields:
        A list that fills with what is done and shouldn't be: code run, a program started, a connection opened, a
        file changed outside of the folder.
    """
    _watched["seen"] = seen = []
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    _watched["folder"] = str(folder)
    try:
        yield seen
    finally:
        _watched["folder"] = None
        faulthandler.cancel_dump_traceback_later()


@contextlib.contextmanager
def little_memory(megabytes: int = MEGABYTES) -> Iterator[None]:
    """Lets this process take so much memory more; beyond, it gets a MemoryError."""
    usual = resource.getrlimit(resource.RLIMIT_DATA)
    lines = Path("/proc/self/status").read_text().splitlines()
    taken = int(next(line.split()[1] for line in lines if line.startswith("VmData"))) << 10
    resource.setrlimit(resource.RLIMIT_DATA, (taken + (megabytes << 20), usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, usual)
