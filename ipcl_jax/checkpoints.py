"""A run's folder and the checkpoints in it: Orbax saves the whole state, in the background.

A state's own step number says where the images go on, so nothing else is stored.
"""

import contextlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import jax
import orbax.checkpoint as ocp
from jax import Array

from ipcl_jax import processes
from ipcl_jax.cache import sha256
from ipcl_jax.config import LinearProbe, Train, differences, to_json
from ipcl_jax.errors import ConfigError
from ipcl_jax.files import at_home, check_writable, read_json, whole
from ipcl_jax.locks import alone_in

CONFIG = "config.json"
SEAL = "sha256.json"
_PATIENCE = 30 * 86400  # seconds until a save counts as hung


class SaveFailed(OSError):
    """A checkpoint can't be written; those before it are kept."""


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
            files that are not a run's; or if it can't be written to.
    """
    folder = at_home(config.out or default or f"runs/{config.name}")
    path = folder / CONFIG
    if path.exists():
        if found := differences(config, read_json(path)):
            listing = "\n  ".join(found)
            raise ConfigError(
                f"{folder} holds a run with another config:\n  {listing}\n"
                "Give the same fields to go on with it, or another --out, or remove the folder."
            )
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is there already and holds no run; give another --out.")
    check_writable(path)
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
        if processes.is_first():
            try:
                self._open.enter_context(alone_in(self._run_dir, wait=False))
            except BlockingIOError:
                raise ConfigError(
                    f"Another process is at work in {self._run_dir}. Wait until it ends, or stop it, or give another "
                    "--out."
                ) from None
        self._sealer = self._open.enter_context(ThreadPoolExecutor(1))
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
        except Exception as error:
            raise self._failed(str(error), step) from error

    def restore(self, shapes: State) -> State:
        """Reads the newest checkpoint that is sound; what isn't is put aside, as `damaged-STEP` in the run's folder.

        Args:
            shapes: shapes, dtypes and shardings of the state, such as `training.Steps.state`.

        Returns:
            The state, bit for bit as it was saved.

        Raises:
            FileNotFoundError: if there is no complete checkpoint.
            ConfigError: if all are damaged.
        """
        if self.latest_step() is None:
            raise FileNotFoundError(f"No complete checkpoint in {self._manager.directory}.")
        while (step := self.latest_step()) is not None:
            reason = damage_of(self._folder(step)) if processes.is_first() else ""
            if not processes.told_by_first(bool(reason)):
                try:
                    state = self._manager.restore(step, args=ocp.args.StandardRestore(shapes))
                except Exception as error:  # Orbax has no common class for what can be wrong with files
                    if jax.process_count() > 1:
                        raise  # the others may have read it
                    reason = str(error).splitlines()[0]
                else:
                    shardings = jax.tree.map(lambda leaf: leaf.sharding, shapes)
                    copy = jax.jit(lambda state: jax.tree.map(jax.numpy.copy, state), out_shardings=shardings)
                    return copy(state)  # in buffers of JAX's own, which a step may donate
            self._put_aside(step, reason)
        raise ConfigError("\n".join([f"No checkpoint of {self._run_dir} can be read.", *self.damaged]))

    def _put_aside(self, step: int, reason: str) -> None:
        place = self._run_dir / f"damaged-{step}"
        self.damaged.append(f"The checkpoint of step {step:,} is damaged and now {place}: {reason}")
        if processes.is_first():
            shutil.rmtree(place, ignore_errors=True)  # of an earlier time
            self._folder(step).rename(place)
        processes.meet(f"put checkpoint {step} aside")
        self._manager.reload()

    def _folder(self, step: int) -> Path:
        return self._run_dir / "checkpoints" / str(step)

    def _seal(self) -> None:
        """Seals what is complete and isn't sealed; in the sealer's one thread, so each but once."""
        for step in ocp.utils.checkpoint_steps(self._run_dir / "checkpoints"):
            if not (self._folder(step) / SEAL).exists():
                seal(self._folder(step))

    def wait(self) -> None:
        """Blocks until what was saved is on disk.

        Raises:
            SaveFailed: if it could not be written.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failed(str(error)) from error
        self._seal_later()

    def _seal_later(self) -> None:
        if processes.is_first():
            self._sealer.submit(self._seal)

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
        with contextlib.suppress(Exception) if kind else contextlib.nullcontext():  # the first error counts
            self._manager.close()
        self._seal_later()
        self._open.close()


def seal(folder: Path) -> None:
    """Notes the sha256 of each file of a complete checkpoint in it."""
    with contextlib.suppress(FileNotFoundError):  # a newer one has taken its place
        with whole(folder / SEAL, parents=False) as part:
            part.write_text(json.dumps(_digests(folder), indent=1) + "\n", encoding="utf-8")


def damage_of(folder: Path) -> str:
    """What is wrong with a sealed checkpoint; empty if nothing is, or it has no seal."""
    try:
        if not (folder / SEAL).exists():
            return ""
        sealed, found = read_json(folder / SEAL), _digests(folder)
    except (OSError, ConfigError) as error:
        return str(error)
    lost = sorted(sealed.keys() - found.keys())
    changed = sorted(name for name in sealed.keys() & found.keys() if sealed[name] != found[name])
    if not lost and not changed:
        return ""
    return f"{(lost + changed)[0]} is {'missing' if lost else 'not what was written'}"


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and SEAL not in path.name)
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}
