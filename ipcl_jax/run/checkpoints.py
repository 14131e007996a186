"""The checkpoints of a run: Orbax saves the whole state, in the background.

A state's own step number says where the images go on, so nothing else is stored.
"""

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import jax
import orbax.checkpoint as ocp
from jax import Array

from ipcl_jax.errors import ConfigError
from ipcl_jax.system import distributed
from ipcl_jax.system.files import error_text
from ipcl_jax.system.locks import folder_lock
from ipcl_jax.system.seals import SEAL, find_damage, seal

_PATIENCE = 30 * 86400  # seconds until a save counts as hung


class SaveFailed(OSError):
    """A checkpoint can't be written; those before it are kept."""


class RestoreFailed(OSError):
    """A checkpoint can't be read, and it isn't known to be damaged; it is left in its place."""


class State(Protocol):
    """A dataclass of pytrees that says how many batches it has seen."""

    step: Array

    def replace(self, **fields: Any) -> "State":
        """The state with other values of some fields."""


Earlier = Mapping[str, tuple[str, Callable[[Array], Array]]]
"""Fields that earlier versions saved under another name, and how they become today's."""


class Checkpoints:
    """The newest checkpoints of a run, in `run_dir/checkpoints`; use it in a `with` statement.

    Opening removes what a killed process left half-written, and keeps every other process out of
    the folder. A complete checkpoint is sealed by the sha256 of its files, in the background.

    Args:
        run_dir: the run's folder.
        keep: how many to keep; an older one goes only after a newer one is complete.

    Attributes:
        damaged: what was found wrong with newer checkpoints than the one that was restored.

    Raises:
        ConfigError: while another process is at work in the folder.
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
                    f"Another process is at work in {self._run_dir}. Wait until it ends, or stop it, or give another "
                    "--out."
                ) from None
        self._sealer = self._open.enter_context(ThreadPoolExecutor(1))
        self._sealing: list[Future] = []
        self._sound: set[int] = set()  # steps that were written here or could be read
        self._manager = ocp.CheckpointManager(
            self._run_dir / "checkpoints",
            options=ocp.CheckpointManagerOptions(
                preservation_policy=ocp.checkpoint_managers.LatestN(keep),
                cleanup_tmp_directories=True,
                # Orbax looks at the clock of the wall, which may be set by a day in the middle of a save.
                async_options=ocp.AsyncOptions(timeout_secs=_PATIENCE),
            ),
        )

    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint; None if there is none."""
        return self._manager.latest_step()

    def save(self, state: State) -> None:
        """Saves a state; returns once it is copied, and writes while training goes on.

        Raises:
            SaveFailed: if the disk has no room for it, or the one before could not be written.
        """
        step = int(state.step)
        if step == self.latest_step():
            return
        self.wait()  # for the one before, which takes room too
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self._run_dir).free
        if free < size:
            raise self._failed(
                f"there is no room: it takes {size / 1e6:,.0f} MB, {free / 1e6:,.0f} are free", step
            )
        try:
            self._manager.save(step, args=ocp.args.StandardSave(state), force=True)
            self._sound.add(step)
        except Exception as error:
            raise self._failed(str(error), step) from error

    def restore(
        self, shapes: State, *, fresh: Mapping[str, Any] = MappingProxyType({}), earlier: Earlier = MappingProxyType({})
    ) -> State:
        """Reads the newest checkpoint whose checksums hold; one whose don't is put aside, as `damaged-STEP`.

        Args:
            shapes: shapes, dtypes and shardings of the state, such as `training.Steps.state`.
            fresh: fields whose values are these, and are not read.
            earlier: see `Earlier`.

        Returns:
            The state, bit for bit as it was saved.

        Raises:
            FileNotFoundError: if there is no complete checkpoint.
            ConfigError: if all are damaged, or the newest is of a state with other shapes.
            RestoreFailed: if it can't be read for another reason.
        """
        if self.latest_step() is None:
            raise FileNotFoundError(f"No complete checkpoint in {self._manager.directory}.")
        while (step := self.latest_step()) is not None:
            reason = find_damage(self._folder(step)) if distributed.is_first() else ""
            if not distributed.broadcast(bool(reason)):
                return self._read(step, shapes, fresh, earlier)
            self._put_aside(step, reason)
        raise ConfigError(f"No checkpoint of {self._run_dir} can be read. {'; '.join(self.damaged)}.")

    def _read(self, step: int, shapes: State, fresh: Mapping[str, Any], earlier: Earlier) -> State:
        folder = self._folder(step)
        names = [field.name for field in dataclasses.fields(shapes) if field.name not in fresh]
        wanted = {name: getattr(shapes, name) for name in names}
        try:
            handler = ocp.CompositeCheckpointHandler(default=ocp.PyTreeCheckpointHandler())
            with ocp.Checkpointer(handler) as checkpointer:
                stored = checkpointer.metadata(folder).item_metadata["default"].tree
                renamed = {
                    name: earlier[name] for name in wanted.keys() - stored.keys() if name in earlier
                }
                for name, (old, _) in renamed.items():
                    wanted[old] = wanted.pop(name)
                if unlike := _other_shapes(stored, wanted):
                    raise ConfigError(
                        f"The checkpoint of step {step:,} in {self._run_dir} is of another state: {unlike}. It is left "
                        "as it is."
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
        # In buffers of JAX's own, which a step may donate.
        found = jax.jit(lambda tree: jax.tree.map(jax.numpy.copy, tree), out_shardings=shardings)(found)
        for name, (old, convert) in renamed.items():
            found[name] = convert(found.pop(old))
        self._sound.add(step)
        return shapes.replace(**fresh, **found)

    def _put_aside(self, step: int, reason: str) -> None:
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
        """Seals what is complete and isn't sealed; in the sealer's one thread, so each but once."""
        for step in ocp.utils.checkpoint_steps(self._run_dir / "checkpoints"):
            if step in self._sound and not (self._folder(step) / SEAL).exists():
                seal(self._folder(step))

    def wait(self) -> None:
        """Blocks until what was saved is on disk.

        Raises:
            SaveFailed: if it could not be written, or the one before could not be sealed.
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
        for error in filter(None, [sealing.exception() for sealing in finished]):
            raise self._failed(f"its checksums can't be written: {error_text(error)}") from error

    def _failed(self, reason: str, step: int | None = None) -> SaveFailed:
        """What to say when a checkpoint can't be written."""
        kept = max(ocp.utils.checkpoint_steps(self._manager.directory), default=None)
        newest = "There is none yet" if kept is None else f"The newest one that is whole is of step {kept:,}"
        what = "A checkpoint" if step is None else f"The checkpoint of step {step:,}"
        return SaveFailed(
            f"{what} can't be written to {self._run_dir}: {reason}. {newest}. Make room, or see to the disk, and "
            "give the same command."
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        with self._open, contextlib.suppress(Exception) if kind else contextlib.nullcontext():  # the first error counts
            self._manager.close()
            self._seal_later()
            self._check_seals(self._sealing)


def _other_shapes(stored: Mapping, wanted: Mapping) -> str:
    """The first array that a checkpoint has with another shape or dtype, or has not; empty if it has all."""
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
