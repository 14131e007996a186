"""Checkpoints of a run, which Orbax saves in the background.

A checkpoint holds the training state only. The position in the stream of images follows from the state's step number.
"""

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax import Array

from ipcl_jax.errors import ConfigError
from ipcl_jax.system import distributed
from ipcl_jax.system.files import error_text
from ipcl_jax.system.locks import folder_lock
from ipcl_jax.system.seals import SEAL, find_damage, seal

_SAVE_TIMEOUT = 30 * 86400  # seconds


class SaveFailed(OSError):
    """A checkpoint can't be written; earlier checkpoints are kept."""


class RestoreFailed(OSError):
    """A checkpoint can't be read although its checksums don't show damage; it is not moved."""


class State(Protocol):
    """A dataclass whose fields are pytrees."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    step: Array
    """Number of batches trained on."""

    def replace(self, **fields: Any) -> "State":
        """Returns a copy with some fields replaced."""


Earlier = Mapping[str, tuple[str, Callable[[Array], Array]]]
"""By a field's name: the name under which earlier versions saved it, and a function that converts the old value."""


class Checkpoints:
    """Saves and restores the checkpoints in `run_dir/checkpoints`; a context manager.

    Opening it locks the run's folder against other processes and removes partially written checkpoints of a process
    that was killed. Once a checkpoint is complete, a background thread stores the sha256 of its files beside it.

    Args:
        run_dir: the run's folder.
        keep: how many to keep; an older one is removed only after a newer one is complete.

    Attributes:
        damaged: a message for each damaged checkpoint that `restore` skipped.

    Raises:
        ConfigError: if another process is using the folder.
    """

    def __init__(self, run_dir: Path, *, keep: int):
        self._run_dir = Path(run_dir).absolute()
        self.damaged: list[str] = []
        self._run_dir.mkdir(parents=True, exist_ok=True)
        self._open = contextlib.ExitStack()
        if distributed.is_first():
            try:
                self._open.enter_context(folder_lock(self._run_dir, wait=False))
            except BlockingIOError:
                raise ConfigError(
                    f"Another process is using {self._run_dir}. Wait until it ends, or stop it, or give another "
                    "--out."
                ) from None
        self._sealer = self._open.enter_context(ThreadPoolExecutor(1))
        self._sealing: list[Future] = []
        self._readable: set[int] = set()  # steps that this process wrote or restored
        self._manager = ocp.CheckpointManager(
            self._run_dir / "checkpoints",
            options=ocp.CheckpointManagerOptions(
                preservation_policy=ocp.checkpoint_managers.LatestN(keep),
                cleanup_tmp_directories=True,
                # Orbax compares the time with the system clock, which may be set during a save.
                async_options=ocp.AsyncOptions(timeout_secs=_SAVE_TIMEOUT),
            ),
        )

    def latest_step(self) -> int | None:
        """Returns the step of the newest complete checkpoint; None if there is none."""
        return self._manager.latest_step()

    def save(self, state: State) -> None:
        """Saves a state; returns as soon as it is copied, and writes it to disk in the background.

        Raises:
            SaveFailed: if the disk has no room for it, or the previous checkpoint could not be written.
        """
        step = int(state.step)
        if step == self.latest_step():
            return
        self.wait()  # for the previous checkpoint, which takes room too
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self._run_dir).free
        if free < size:
            raise self._failed(
                f"there is no room: it takes {size / 1e6:,.0f} MB, {free / 1e6:,.0f} are free", step
            )
        try:
            self._manager.save(step, args=ocp.args.StandardSave(state), force=True)
            self._readable.add(step)
        except Exception as error:
            raise self._failed(str(error), step) from error

    def restore(
        self, shapes: State, *, earlier: Earlier = MappingProxyType({})
    ) -> State:
        """Restores the newest undamaged checkpoint; one whose checksums differ is renamed to `damaged-STEP`.

        Args:
            shapes: shapes, dtypes and shardings of the state, such as `training.Steps.state`.
            earlier: see `Earlier`.

        Returns:
            The state, bit-identical to the one that was saved.

        Raises:
            FileNotFoundError: if there is no complete checkpoint.
            ConfigError: if all are damaged, or the newest holds arrays of other shapes or dtypes.
            RestoreFailed: if it can't be read for another reason.
        """
        if self.latest_step() is None:
            raise FileNotFoundError(f"No complete checkpoint in {self._manager.directory}.")
        while (step := self.latest_step()) is not None:
            reason = find_damage(self._folder(step)) if distributed.is_first() else ""
            if not distributed.broadcast(bool(reason)):
                return self._read(step, shapes, earlier)
            self._put_aside(step, reason)
        raise ConfigError(f"No checkpoint of {self._run_dir} can be read. {'; '.join(self.damaged)}.")

    def _read(self, step: int, shapes: State, earlier: Earlier) -> State:
        folder = self._folder(step)
        wanted = {field.name: getattr(shapes, field.name) for field in dataclasses.fields(shapes)}
        try:
            with _reader() as checkpointer:
                stored = checkpointer.metadata(folder).item_metadata["default"].tree
                renamed = {
                    name: earlier[name] for name in wanted.keys() - stored.keys() if name in earlier
                }
                for name, (old, _) in renamed.items():
                    wanted[old] = wanted.pop(name)
                if mismatch := _shape_mismatch(stored, wanted):
                    raise ConfigError(
                        f"The checkpoint of step {step:,} in {self._run_dir} is of another state: {mismatch}. It is "
                        "left as it is."
                    )
                arguments = ocp.args.PyTreeRestore(
                    item=wanted,
                    restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
                    partial_restore=True,
                )
                found = checkpointer.restore(folder, args=ocp.args.Composite(default=arguments))["default"]
        except ConfigError:
            raise
        except Exception as error:  # Orbax has no common class for what can be wrong with files
            raise RestoreFailed(
                f"The checkpoint of step {step:,} in {self._run_dir} can't be read: {error_text(error).splitlines()[0]} "
                f"({type(error).__name__}). It is left as it is; its checksums "
                f"{'hold' if (folder / SEAL).exists() else 'were not written yet'}. If it can't be mended, move {folder} "
                "elsewhere, and the same command goes on from the one before."
            ) from error
        shardings = jax.tree.map(lambda leaf: leaf.sharding, wanted)
        # Copies into buffers that JAX owns, since a step donates them.
        found = jax.jit(lambda tree: jax.tree.map(jax.numpy.copy, tree), out_shardings=shardings)(found)
        for name, (old, convert) in renamed.items():
            found[name] = convert(found.pop(old))
        self._readable.add(step)
        return shapes.replace(**found)

    def field(self, name: str) -> dict[str, Any] | None:
        """Reads one field of the newest checkpoint as NumPy arrays; None if it doesn't hold that field."""
        step = self.latest_step()
        if step is None:
            return None
        folder = self._folder(step)
        with _reader() as checkpointer:
            stored = checkpointer.metadata(folder).item_metadata["default"].tree
            if name not in stored:
                return None
            wanted = {name: stored[name]}
            arguments = ocp.args.PyTreeRestore(
                item=wanted,
                restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted),
                partial_restore=True,
            )
            return checkpointer.restore(folder, args=ocp.args.Composite(default=arguments))["default"][name]

    def _put_aside(self, step: int, reason: str) -> None:
        """Renames a damaged checkpoint to `damaged-STEP`, or `damaged-STEP-2` and so on if that exists."""
        places = (self._run_dir / f"damaged-{step}{suffix}" for suffix in ("", *map("-{}".format, range(2, 10**6))))
        place = next(place for place in places if not place.exists())
        self.damaged.append(f"The checkpoint of step {step:,} is damaged and now {place}: {reason}")
        distributed.barrier(f"found checkpoint {step} damaged")
        if distributed.is_first():
            self._folder(step).rename(place)
        distributed.barrier(f"put checkpoint {step} aside")
        self._manager.reload()

    def _folder(self, step: int) -> Path:
        return self._run_dir / "checkpoints" / str(step)

    def _seal(self) -> None:
        """Writes the checksums of complete checkpoints that have none; runs in the one thread of `_sealer`."""
        for step in ocp.utils.checkpoint_steps(self._run_dir / "checkpoints"):
            if step in self._readable and not (self._folder(step) / SEAL).exists():
                seal(self._folder(step))

    def wait(self) -> None:
        """Blocks until every saved state is on disk.

        Raises:
            SaveFailed: if it could not be written, or the checksums of the previous one could not.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failed(str(error)) from error
        self._seal_later()

    def _seal_later(self) -> None:
        self._check_seals([sealing for sealing in self._sealing if sealing.done()])
        if distributed.is_first():
            self._sealing.append(self._sealer.submit(self._seal))

    def _check_seals(self, finished: list[Future]) -> None:
        self._sealing = [sealing for sealing in self._sealing if sealing not in finished]
        for sealing in finished:
            try:
                sealing.result()
            except Exception as error:
                raise self._failed(f"its checksums can't be written: {error_text(error)}") from error

    def _failed(self, reason: str, step: int | None = None) -> SaveFailed:
        """Returns the error for a checkpoint that can't be written."""
        kept = max(ocp.utils.checkpoint_steps(self._manager.directory), default=None)
        newest = "There is none yet" if kept is None else f"The newest complete one is of step {kept:,}"
        what = "A checkpoint" if step is None else f"The checkpoint of step {step:,}"
        return SaveFailed(
            f"{what} can't be written to {self._run_dir}: {reason}. {newest}. Make room, or check the disk, and "
            "give the same command."
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        with self._open, contextlib.suppress(Exception) if kind else contextlib.nullcontext():  # the first error counts
            self._manager.close()
            self._seal_later()
            self._check_seals(self._sealing)


def _reader() -> ocp.Checkpointer:
    return ocp.Checkpointer(ocp.CompositeCheckpointHandler(default=ocp.PyTreeCheckpointHandler()))


def _shape_mismatch(stored: Mapping, wanted: Mapping) -> str:
    """Describes the first array that a checkpoint lacks or has with another shape or dtype; empty if all fit."""
    there = {
        jax.tree_util.keystr(path, simple=True, separator="."): (tuple(leaf.shape), leaf.dtype)
        for path, leaf in jax.tree_util.tree_leaves_with_path(stored)
    }
    for path, leaf in jax.tree_util.tree_leaves_with_path(wanted):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if name not in there:
            return f"{name} is missing"
        if there[name] != (leaf.shape, leaf.dtype):
            shapes = [f"{dtype} {list(shape)}" for shape, dtype in (there[name], (leaf.shape, leaf.dtype))]
            return "{} is {} there, and {} here".format(name, *shapes)
    return ""
