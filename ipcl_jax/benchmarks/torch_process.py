"""A process that does the benchmarks' work in torch.

In the same process torch's threads, which spin for a while after their work, would take the cores from JAX. torch is
imported in the other process only.
"""

import importlib.util
import multiprocessing
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import jax
import numpy as np

from ipcl_jax.system.files import error_text
from ipcl_jax.system.signals import end_with_parent

TWINS = Path(__file__).parents[2] / "tests"
"""Folder of the network and the views in torch, among the tests; only a clone has it."""

Precision = Literal["float32", "bfloat16"]


class TorchFailed(RuntimeError):
    """The work in torch raised an exception; the message is one line."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How torch works.

    On a GPU it works as its users run it well: convolutions channel-last, products of float32 in TF32, cuDNN's
    algorithms chosen by trial. On a CPU it has two threads.

    Attributes:
        device: `cuda` or `cpu`.
        precision: of convolutions and matrix products; bfloat16 by torch.autocast.
        compiled: the network is compiled by torch.compile.
    """

    device: Literal["cuda", "cpu"] = "cpu"
    precision: Precision = "float32"
    compiled: bool = False

    @property
    def on_gpu(self) -> bool:
        """Whether `device` is a GPU."""
        return self.device == "cuda"


def setting(precision: Precision = "float32", compiled: bool | None = None) -> Setting:
    """Returns the setting for the device that JAX uses.

    Args:
        precision: of convolutions and matrix products.
        compiled: by torch.compile; None for GPUs only.
    """
    on_gpu = jax.default_backend() == "gpu"
    return Setting(
        device="cuda" if on_gpu else "cpu",
        precision=precision,
        compiled=on_gpu if compiled is None else compiled,
    )


def twin(name: str) -> ModuleType:
    """Imports `torch_twin` or `torch_views` from the tests."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, TWINS / f"{name}.py")
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"No module {name} in {TWINS}.", name=name)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # where torch.compile looks for it
    spec.loader.exec_module(module)
    return module


class TorchProcess:
    """A process that does some work in torch each time it is asked to; a context manager.

    It does it once at its start. If torch.compile fails then, as it does without a C compiler, it goes on without it.

    Args:
        setting: how torch works.
        build: called in that process with the setting and `arguments`; returns the work, which takes no arguments and
            returns a tensor. One of the functions of `in_torch`.
        arguments: of `build`; they are pickled.

    Attributes:
        about: version, device and setting of torch, in a line.
        first: the result of the first time.

    Raises:
        TorchFailed: if torch can't do it.
    """

    def __init__(self, setting: Setting, build: Callable, *arguments: Any):
        spawn = multiprocessing.get_context("spawn")
        self._pipe, end = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(end, setting, build, arguments), daemon=True)
        self._process.start()
        end.close()  # only the other process holds it, so that recv fails here if that process dies
        self.about: str
        self.first: np.ndarray
        self.about, self.first = self._answer()

    def run(self, times: int = 1) -> float:
        """Does the work a number of times, then waits until torch's threads stop spinning; returns the seconds it took."""
        self._pipe.send(times)
        seconds = self._answer()
        time.sleep(0.3)
        return seconds

    def _answer(self) -> Any:
        try:
            answer = self._pipe.recv()
        except EOFError:
            self._process.join()
            answer = f"its process ended with exit code {self._process.exitcode}"
        if isinstance(answer, str):
            raise TorchFailed(f"torch: {answer}")
        return answer

    def __enter__(self) -> "TorchProcess":
        return self

    def __exit__(self, *_) -> None:
        self._pipe.close()  # ends it, after the work that it is doing
        self._process.join()


def _serve(pipe, setting: Setting, build: Callable, arguments: tuple) -> None:
    """Runs in the process: answers with `about` and the first result, then with seconds; with a line if it fails."""
    import torch

    end_with_parent()
    try:
        _set_up(setting)
        start, failure = time.perf_counter(), ""
        try:
            work = build(setting, *arguments)
            first = work()
        except Exception as error:
            if not setting.compiled:
                raise
            traceback.print_exc()
            failure = f" (torch.compile failed: {_line(error)})"
            setting = replace(setting, compiled=False)
            work = build(setting, *arguments)
            first = work()
        first = first.detach().cpu().float() if first.is_floating_point() else first.cpu()
        seconds = time.perf_counter() - start
        where = torch.cuda.get_device_name() if setting.on_gpu else f"CPU, {torch.get_num_threads()} threads"
        how = "compiled" if setting.compiled else "eager"
        about = (
            f"{torch.__version__} on {where}, {setting.precision}, {how}{failure}; first time {seconds:.1f} s"
        )
        pipe.send((about, first.numpy()))
        while True:
            times = pipe.recv()
            start = time.perf_counter()
            for _ in range(times):
                work()
            if setting.on_gpu:
                torch.cuda.synchronize()
            pipe.send(time.perf_counter() - start)
    except EOFError:  # nothing is asked any more
        return
    except Exception as error:
        traceback.print_exc()
        pipe.send(_line(error))


def _set_up(setting: Setting) -> None:
    import torch

    if setting.on_gpu:
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    else:
        torch.set_num_threads(2)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error_text(error).splitlines()[0]}"
