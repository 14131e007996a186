"""A run's folder and the checkpoints in it: Orbax saves the whole state, in the background.

A state's own step number says where the images go on, so nothing else is stored.
"""

import json
from pathlib import Path
from typing import Protocol

import jax
import orbax.checkpoint as ocp
from jax import Array

from ipcl_jax import processes
from ipcl_jax.config import ConfigError, LinearProbe, Train, differences, to_json

CONFIG = "config.json"


class State(Protocol):
    """A pytree that says how many batches it has seen."""

    step: Array


def check_folder(config: Train | LinearProbe, default: str | None = None) -> Path:
    """The folder that a run may have; nothing is written.

    Args:
        config: the run; its folder is config.out, or runs/NAME.
        default: the folder if config.out is None, instead of runs/NAME.

    Returns:
        The folder, which may not be there yet.

    Raises:
        ConfigError: if it holds something else: another run (its differences are named), or
            files that are not a run's.
    """
    folder = Path(config.out or default or f"runs/{config.name}").expanduser()
    path = folder / CONFIG
    if path.exists():
        if found := differences(config, json.loads(path.read_text(encoding="utf-8"))):
            listing = "\n  ".join(found)
            raise ConfigError(
                f"{folder} holds a run with another config:\n  {listing}\n"
                "Give the same fields to go on with it, or another --out, or remove the folder."
            )
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is there already and holds no run; give another --out.")
    return folder


def claim_folder(config: Train | LinearProbe, default: str | None = None) -> Path:
    """The folder of a run, made if it is new, with the run's config in it; see `check_folder`.

    Of several processes, which must all see it, the first one makes it.
    """
    folder = check_folder(config, default)
    path = folder / CONFIG
    processes.meet("checked the folder")
    if processes.is_first() and not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(to_json(config) + "\n", encoding="utf-8")
    processes.meet("made the folder")
    if not path.exists():
        raise ConfigError(
            f"The first process made {folder}, which this one can't see; they need one file system."
        )
    return folder


class Checkpoints:
    """The newest checkpoints of a run, in `run_dir/checkpoints`.

    Opening removes what a killed process left half-written.

    Args:
        run_dir: the run's folder.
        keep: how many to keep; an older one goes only after a newer one is complete.
    """

    def __init__(self, run_dir: Path, *, keep: int):
        self._manager = ocp.CheckpointManager(
            (Path(run_dir) / "checkpoints").absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=ocp.checkpoint_managers.LatestN(keep),
                cleanup_tmp_directories=True,
            ),
        )

    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint; None if there is none."""
        return self._manager.latest_step()

    def save(self, state: State) -> None:
        """Saves a state; returns once it is copied, and writes while training goes on."""
        step = int(state.step)
        if step != self.latest_step():
            self._manager.save(step, args=ocp.args.StandardSave(state), force=True)

    def restore(self, shapes: State) -> State:
        """Reads the newest checkpoint.

        Args:
            shapes: shapes, dtypes and shardings of the state, such as `training.Steps.state`.

        Returns:
            The state, bit for bit as it was saved.

        Raises:
            FileNotFoundError: if there is no complete checkpoint.
        """
        step = self.latest_step()
        if step is None:
            raise FileNotFoundError(f"No complete checkpoint in {self._manager.directory}.")
        state = self._manager.restore(step, args=ocp.args.StandardRestore(shapes))
        shardings = jax.tree.map(lambda leaf: leaf.sharding, shapes)
        copy = jax.jit(lambda state: jax.tree.map(jax.numpy.copy, state), out_shardings=shardings)
        return copy(state)  # in buffers of JAX's own, which a step may donate

    def wait(self) -> None:
        """Blocks until what was saved is on disk; raises what went wrong while writing."""
        self._manager.wait_until_finished()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self._manager.close()
