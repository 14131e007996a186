"""Several processes that train one model: how they meet, and what they must agree on.

All compute the same steps in the same order, each on its own images; the first one writes. What a process
alone knows (a signal, its clock) may therefore decide nothing until the others know it too.
"""

import os
import socket
import sys
import time
from collections.abc import Iterable
from typing import NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ipcl_jax.errors import ConfigError

SILENCE = 30  # seconds after which a process that says nothing counts as dead


def initialize(
    *, coordinator: str | None = None, processes: int | None = None, process: int | None = None, patience: int = 300
) -> None:
    """Connects to the other processes; to be called before any device is used.

    Args:
        coordinator: HOST:PORT of the first process, or else $JAX_COORDINATOR_ADDRESS.
        processes: how many there are, or else $JAX_NUM_PROCESSES.
        process: which one this is, from 0, or else $JAX_PROCESS_ID. What is given nowhere is found out from Slurm and
            its like.
        patience: seconds to wait for the others.

    Raises:
        ConfigError: if it can't be found out, or the others don't come.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # a CPU's default knows one process
    try:
        coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
        process = _number("JAX_PROCESS_ID") if process is None else process
        if coordinator and process:
            _reach(coordinator, patience)
        jax.distributed.initialize(
            coordinator,
            _number("JAX_NUM_PROCESSES") if processes is None else processes,
            process,
            initialization_timeout=patience,
            heartbeat_timeout_seconds=SILENCE,
            shutdown_timeout_seconds=SILENCE,
        )
    except (ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(
            f"The processes of --distributed can't meet: {error}\n"
            "Start all of them, by Slurm's srun, or each with --hosts.coordinator HOST:PORT (of the first), "
            "--hosts.processes (how many) and --hosts.process (which one, from 0)."
        ) from error


def _reach(address: str, patience: float) -> None:
    """Waits until the first process listens, since JAX would end a process that waits in vain without a word."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"{address!r} is not HOST:PORT.")
    deadline = time.monotonic() + patience
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise ValueError(f"nobody answers at {address} ({error}).") from error
            time.sleep(0.5)


def _number(variable: str) -> int | None:
    text = os.environ.get(variable)
    if text is None:
        return None
    if not text.isdecimal():
        raise ValueError(f"${variable} is {text!r}, not a number.")
    return int(text)


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def shard() -> tuple[int, int]:
    """Which part of each batch is this process's, and of how many."""
    return jax.process_index(), jax.process_count()


def barrier(where: str) -> None:
    """Waits until all processes have come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


def broadcast(number: int) -> int:
    """The number of the first process, in all of them."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def all_gather(rows: np.ndarray) -> np.ndarray:
    """The rows of all processes, one after the other."""
    return rows if jax.process_count() == 1 else multihost_utils.process_allgather(rows, tiled=True)


def replicate(tree, mesh: Mesh):
    """Arrays that lie in parts on the devices of several processes, whole in each; others as they are."""
    if jax.process_count() == 1:
        return tree
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(np.asarray, jax.jit(lambda tree: tree, out_shardings=everywhere)(tree))


class Agreement:
    """The largest of what the processes wish, from step to step.

    Asking costs a sum over the devices of a number each, and waits for none: the answer is
    that to the question before. A process alone has its wish at once.

    Args:
        mesh: over which the run is spread.
    """

    def __init__(self, mesh: Mesh):
        self._split = NamedSharding(mesh, PartitionSpec("data"))
        self._largest = jax.jit(lambda x: x.max(), out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._asked = None

    def __call__(self, wish: int) -> int:
        """Asks all processes; every one must, at the same step.

        Args:
            wish: a number from 0.

        Returns:
            The largest wish of all at the call before (0 at the first).
        """
        if jax.process_count() == 1:
            return wish
        wishes = np.full(jax.local_device_count(), wish, np.int32)
        asked = self._largest(jax.make_array_from_process_local_data(self._split, wishes))
        answer = 0 if self._asked is None else int(self._asked)
        # A wish that is fulfilled now was uttered once more meanwhile.
        self._asked = None if answer else asked
        return answer


def abandon(reason: str, code: int = 1) -> NoReturn:
    """Ends this process at once: what would wait for the others on the way out might wait for ever."""
    print(f"error: {reason}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def make_mesh(devices: Iterable[jax.Device] | None = None) -> Mesh:
    """Devices along one axis, `data`, process by process, so that each has its rows of a batch side by side.

    Args:
        devices: which; by default all, of all processes.
    """
    devices = sorted(jax.devices() if devices is None else devices, key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Batches are split over the devices by image."""
    return NamedSharding(mesh, PartitionSpec("data"))
