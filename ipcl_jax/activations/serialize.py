"""Encoders on disk: a safetensors file (one tensor a variable, the description in the header), a run's folder, or an
Orbax checkpoint.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ipcl_jax.activations.description import read_model
from ipcl_jax.activations.encoder import Encoder, build_encoder, expected_variables, flatten
from ipcl_jax.conversion import conversion
from ipcl_jax.errors import ConfigError, InputError
from ipcl_jax.system.files import atomic, expand_home, read_json
from ipcl_jax.system.seals import find_damage

SUFFIX = ".safetensors"


_HEADER = "ipcl_jax"  # key of the description in a file's header


def save_encoder(encoder: Encoder, path: str | Path, *, header: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file, whole or not at all.

    Args:
        encoder: the model.
        path: the file; one that is there is replaced.
        header: other entries of the file's header.

    Raises:
        InputError: as `Encoder.description`.
    """
    tensors = {name: np.ascontiguousarray(array) for name, array in flatten(encoder.variables).items()}
    with atomic(Path(path)) as part:
        save_file(tensors, part, metadata={**(header or {}), _HEADER: json.dumps(encoder.description())})


def load_encoder(path: str | Path) -> Encoder:
    """Reads a model that this package wrote, or any safetensors file of a network that it knows.

    Args:
        path: the folder of a run (its newest checkpoint is taken), a safetensors file by
            `save_encoder`, or a folder by `experiments/convert.py --to orbax`. Any other safetensors file is
            read as `convert_torch_checkpoint` reads it.

    Returns:
        The encoder; its values are those on disk, bit for bit.

    Raises:
        ConfigError: if there is no such model, or it is incomplete or damaged.
        OSError: if the disk can't be read.
    """
    path = expand_home(path)
    if path.is_file():
        return _load_safetensors(path)
    if (path / "config.json").is_file():
        return _load_run(path)
    if (path / "description").is_dir() and (path / "variables").is_dir():
        return _load_orbax(path)
    found = "is a folder of something else" if path.is_dir() else "does not exist"
    raise ConfigError(f"No model at {path}, which {found}; give a run's folder or a {SUFFIX} file.")


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Arrays of a safetensors file by their names.

    Raises:
        ConfigError: if it is none, or damaged.
        OSError: if the disk can't be read.
    """
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def is_encoder(path: Path, **entries: str) -> bool:
    """Whether a safetensors file says in its header that `save_encoder` wrote it, with these other entries.

    Raises:
        ConfigError, OSError: as `read_safetensors`.
    """
    with _opened(path) as file:
        header = file.metadata() or {}
    return _HEADER in header and entries.items() <= header.items()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[safe_open]:
    try:
        with safe_open(path, "numpy") as file:
            yield file
    except (
        SafetensorError,
        ValueError,
        TypeError,
        AttributeError,
    ) as error:  # the last two: no dtype of NumPy's
        hint = "" if path.suffix == SUFFIX else "; `convert_torch_checkpoint` reads files of PyTorch"
        raise ConfigError(f"{path} can't be read as a model: {error}{hint}") from error


def _load_safetensors(path: Path) -> Encoder:
    if not is_encoder(path):
        return conversion().convert_torch_checkpoint(path)
    with _opened(path) as file:
        header = file.metadata()
    with _named(f"{path} can't be read as a model"):
        try:
            description = json.loads(header[_HEADER])
            variables = _tree(read_safetensors(path))
        except (ValueError, TypeError, RecursionError) as error:  # not JSON; names that begin with another's
            raise InputError(str(error)) from error
        return build_encoder(variables, description)


def _load_run(folder: Path) -> Encoder:
    config = read_json(folder / "config.json")
    steps = ocp.utils.checkpoint_steps(folder / "checkpoints") if (folder / "checkpoints").is_dir() else []
    if not steps:
        raise ConfigError(f"The run in {folder} has no complete checkpoint yet.")
    newest = folder / "checkpoints" / str(max(steps))
    if reason := find_damage(newest):
        raise ConfigError(
            f"Checkpoint {newest.name} of the run in {folder} is damaged: {reason}. The command that trained it takes "
            "the one before and goes on from there."
        )
    with _named(f"Checkpoint {newest.name} of the run in {folder} can't be read"):
        try:
            description = {
                "model": config["model"], "mean": config["views"]["mean"], "std": config["views"]["std"],
                "size": config["views"]["size"], "name": Path(config["name"]).name, "steps": max(steps),
            }  # fmt: skip
        except (KeyError, TypeError) as error:
            raise InputError(f"its config.json lacks what says which model it is ({error})") from error
        return build_encoder(
            _restore(newest / "default", expected_variables(read_model(config["model"]))), description
        )


def _load_orbax(folder: Path) -> Encoder:
    with _named(f"{folder} can't be read as a model"):
        description = read_json(folder / "description" / "metadata")
        shapes = expected_variables(read_model(description.get("model")))
        return build_encoder(_restore(folder / "variables", shapes), description)


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    """Says of an InputError what it is about."""
    try:
        yield
    except InputError as error:
        raise ConfigError(f"{what}: {error}") from error


def _restore(folder: Path, shapes: dict) -> dict:
    """The subtree of an Orbax checkpoint that has these names; nothing else is read.

    Raises:
        InputError: if Orbax can't make these arrays of the files that are there.
        OSError, MemoryError: if they can't be read for a reason that is not theirs.
    """
    arguments = ocp.args.PyTreeRestore(
        item=shapes,
        restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes),
        partial_restore=True,
    )
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            return checkpointer.restore(folder.absolute(), args=arguments)
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # Orbax has no common class for what can be wrong with files
        lacks = isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError)
        if isinstance(error, OSError) and not lacks:
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(reason) from error


def export_orbax(encoder: Encoder, folder: str | Path) -> None:
    """Writes an Orbax checkpoint with two items, `variables` and `description`.

    Args:
        encoder: the model.
        folder: to write; it must not be there yet.

    Raises:
        InputError: as `Encoder.description`.
    """
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(
            Path(folder).absolute(),
            args=ocp.args.Composite(
                variables=ocp.args.StandardSave(encoder.variables),
                description=ocp.args.JsonSave(encoder.description()),
            ),
        )


def _tree(flat: dict[str, np.ndarray]) -> dict:
    return {"params": {}, "batch_stats": {}} | unflatten_dict(flat, sep="/")
