"""Tables that are measured at once, or not at all; in a module of its own, which a process imports quickly."""

import os
import time

from ipcl_jax.benchmarks.torch_process import TorchFailed
from ipcl_jax.benchmarks.turns import Measured


def measured(name: str, against: str | None = None) -> Measured:
    """A table as the benchmarks return it; torch fails."""
    if against:
        raise TorchFailed("torch: RuntimeError: no compiler")
    return Measured(name, "views/s", ("ours",), [(1.0,), (3.0,)], {"device": "1 x card"})


def fails(name: str) -> Measured:
    raise ValueError(f"{name} can't be measured\nbecause of this")


def crashes(name: str) -> Measured:
    os._exit(9)


def hangs(name: str) -> Measured:
    time.sleep(1000)
    raise AssertionError("it was not stopped")
