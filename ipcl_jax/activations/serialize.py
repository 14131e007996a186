"""Reading and writing of encoders: safetensors files (one tensor per variable, the description in the header), run
folders and Orbax checkpoints.
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
from ipcl_jax.errors import ConfigError, InputError
from ipcl_jax.system.files import atomic, expand_home, read_json
from ipcl_jax.system.seals import find_damage

SUFFIX = ".safetensors"

_HEADER = "ipcl_jax"  # key of the description in a file's header


def save_encoder(encoder: Encoder, path: str | Path, *, header: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file by an atomic write.

    Args:
        encoder: the model.
        path: the file; an existing one is replaced.
        header: more entries of the file's header.

    Raises:
        InputError: as `Encoder.description`.
    """
    tensors = {name: np.ascontiguousarray(array) for name, array in flatten(encoder.variables).items()}
    with atomic(Path(path)) as part:
        save_file(tensors, part, metadata={**(header or {}), _HEADER: json.dumps(encoder.description())})


def read_encoder(path: str | Path) -> Encoder:
    """Reads a model that this package wrote.

    Args:
        path: the folder of a run (its newest checkpoint is read), a safetensors file written by `save_encoder`, or a
            folder written by `experiments/convert.py --to orbax`.

    Returns:
        The encoder; its variables are bitwise those on disk.

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
    """Reads the arrays of a safetensors file, by name.

    Raises:
        ConfigError: if it is no safetensors file, or damaged.
        OSError: if the disk can't be read.
    """
    with _open_safetensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def is_encoder(path: Path, **entries: str) -> bool:
    """Whether a safetensors file was written by `save_encoder`, with these entries in its header.

    Raises:
        ConfigError, OSError: as `read_safetensors`.
    """
    with _open_safetensors(path) as file:
        header = file.metadata() or {}
    return _HEADER in header and entries.items() <= header.items()


@contextlib.contextmanager
def _open_safetensors(path: Path) -> Iterator[safe_open]:
    try:
        with safe_open(path, "numpy") as file:
            yield file
    except (
        SafetensorError,
        ValueError,
        TypeError,
        AttributeError,
    ) as error:  # the last two: a dtype that NumPy lacks
        hint = "" if path.suffix == SUFFIX else "; `convert_torch_checkpoint` reads files of PyTorch"
        raise ConfigError(f"{path} can't be read as a model: {error}{hint}") from error


def _load_safetensors(path: Path) -> Encoder:
    with _open_safetensors(path) as file:
        header = file.metadata() or {}
    if _HEADER not in header:
        raise ConfigError(f"{path} was not written by `save_encoder`; `convert_torch_checkpoint` reads it.")
    with _prefix_errors(f"{path} can't be read as a model"):
        try:
            description = json.loads(header[_HEADER])
            variables = _unflatten(read_safetensors(path))
        except (ValueError, TypeError, RecursionError) as error:  # not JSON, or names that conflict
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
            f"Checkpoint {newest.name} of the run in {folder} is damaged: {reason}. The command that trained it "
            "resumes from the checkpoint before it."
        )
    with _prefix_errors(f"Checkpoint {newest.name} of the run in {folder} can't be read"):
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
    with _prefix_errors(f"{folder} can't be read as a model"):
        description = read_json(folder / "description" / "metadata")
        shapes = expected_variables(read_model(description.get("model")))
        return build_encoder(_restore(folder / "variables", shapes), description)


@contextlib.contextmanager
def _prefix_errors(what: str) -> Iterator[None]:
    """Raises an InputError as a ConfigError whose message begins with `what`."""
    try:
        yield
    except InputError as error:
        raise ConfigError(f"{what}: {error}") from error


def _restore(folder: Path, shapes: dict) -> dict:
    """Restores the subtree of an Orbax checkpoint that has these names; other arrays are not read.

    Raises:
        InputError: if the files are missing, damaged or of other arrays.
        OSError, MemoryError: if reading fails for a reason that isn't the files' content.
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
    except Exception as error:  # Orbax has no common class of errors for damaged files
        is_missing = isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError)
        if isinstance(error, OSError) and not is_missing:
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(reason) from error


def export_orbax(encoder: Encoder, folder: str | Path) -> None:
    """Writes an Orbax checkpoint with two items, `variables` and `description`.

    Args:
        encoder: the model.
        folder: the folder to write; it must not exist yet.

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


def _unflatten(flat: dict[str, np.ndarray]) -> dict:
    return {"params": {}, "batch_stats": {}} | unflatten_dict(flat, sep="/")
