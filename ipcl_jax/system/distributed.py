"""Training in several processes: how they connect, and collective operations among them.

All processes compute the same steps in the same order, each on its own images; only the first one writes. A decision
that depends on something local to a process (a signal, its clock) must therefore be shared with the others first.
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

HEARTBEAT_TIMEOUT = 30  # seconds without a heartbeat after which a process counts as dead


def initialize(
    *, coordinator: str | None = None, processes: int | None = None, process: int | None = None, patience: int = 300
) -> None:
    """Connects to the other processes; call it before any device is used.

    Args:
        coordinator: HOST:PORT of the first process; by default $JAX_COORDINATOR_ADDRESS.
        processes: number of processes; by default $JAX_NUM_PROCESSES.
        process: index of this one, from 0; by default $JAX_PROCESS_ID. JAX detects what is given nowhere from Slurm
            or another cluster manager.
        patience: seconds to wait for the others.

    Raises:
        ConfigError: if one of these is unknown, or the others don't connect in time.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # a CPU's default supports one process only
    try:
        coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
        process = _number("JAX_PROCESS_ID") if process is None else process
        if coordinator and process:
            _wait_for_coordinator(coordinator, patience)
        jax.distributed.initialize(
            coordinator,
            _number("JAX_NUM_PROCESSES") if processes is None else processes,
            process,
            initialization_timeout=patience,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
            shutdown_timeout_seconds=HEARTBEAT_TIMEOUT,
        )
    except (ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(
            f"The processes of --distributed can't connect: {error}\n"
            "Start all of them, by Slurm's srun, or each with --hosts.coordinator HOST:PORT (of the first), "
            "--hosts.processes (how many) and --hosts.process (which one, from 0)."
        ) from error


def _wait_for_coordinator(address: str, patience: float) -> None:
    """Waits until the first process listens; JAX itself would end this process at its timeout without a message."""
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
                raise ValueError(f"no process answers at {address} ({error}).") from error
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
    """Returns which shard of each batch this process loads, and the number of shards."""
    return jax.process_index(), jax.process_count()


def barrier(where: str) -> None:
    """Waits until all processes have reached this point."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


def broadcast(number: int) -> int:
    """Returns the first process's number in all processes."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def all_gather(rows: np.ndarray) -> np.ndarray:
    """Concatenates the rows of all processes, in their order."""
    return rows if jax.process_count() == 1 else multihost_utils.process_allgather(rows, tiled=True)


class Agreement:
    """Computes the maximum of a number over all processes, one step late, so that no step waits for it.

    Each call starts a reduction of one number per device, and returns the result of the call before. With one
    process, a call returns its own number at once.

    Args:
        mesh: the devices of the run.
    """

    def __init__(self, mesh: Mesh):
        self._split = NamedSharding(mesh, PartitionSpec("data"))
        self._largest = jax.jit(lambda x: x.max(), out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._pending: jax.Array | None = None

    def __call__(self, number: int) -> int:
        """Contributes a number; all processes must call this at the same step.

        Args:
            number: at least 0; 0 asks for nothing.

        Returns:
            The maximum over all processes at the call before; 0 at the first call.
        """
        if jax.process_count() == 1:
            return number
        numbers = np.full(jax.local_device_count(), number, np.int32)
        maximum = self._largest(jax.make_array_from_process_local_data(self._split, numbers))
        answer = 0 if self._pending is None else int(self._pending)
        # A process repeats its number until it is answered, so the one just contributed is a duplicate.
        self._pending = None if answer else maximum
        return answer


def abandon(reason: str, code: int = 1) -> NoReturn:
    """Prints an error and exits without clean-up, which could wait for the other processes for ever."""
    print(f"error: {reason}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def make_mesh(devices: Iterable[jax.Device] | None = None) -> Mesh:
    """Makes a mesh with one axis, `data`, ordered by process, so that a process's rows of a batch are contiguous.

    Args:
        devices: by default all devices of all processes.
    """
    devices = jax.devices() if devices is None else devices
    devices = sorted(devices, key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: split over the devices by image."""
    return NamedSharding(mesh, PartitionSpec("data"))
