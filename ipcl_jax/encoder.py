"""A model ready for use: its variables and what is needed to apply them, as one pytree.

Released models and models trained here are the same thing, an `Encoder`. On disk it is
a safetensors file (one tensor a variable, the description in the header), or a run's folder.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ipcl_jax.checkpoints import damage_of
from ipcl_jax.config import IMAGENET_MEAN, IMAGENET_STD, Model
from ipcl_jax.conversion import conversion
from ipcl_jax.description import checked_images, read_description, read_model
from ipcl_jax.errors import ConfigError, InputError
from ipcl_jax.files import at_home, read_json, whole
from ipcl_jax.models import make_model

SUFFIX = ".safetensors"
_HEADER = "ipcl_jax"  # key of the description in a file's header


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["variables"],
    meta_fields=["model", "mean", "std", "size"],
    drop_fields=["name", "source", "steps"],
)
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Encoder:
    """A trained model.

    A pytree: `jax.tree.map`, `jit`, `grad` and `vmap` go through its variables, and models of
    one kind share a compiled `extract`. What a transformation returns is another model, so name,
    source and steps do not survive one.

    Attributes:
        variables: `params` and `batch_stats`, as the Flax module takes them, float32.
        model: the network.
        mean: of each channel of [0, 1], subtracted from images.
        std: of each channel of [0, 1], divides images after that.
        size: side in pixels of the images it was trained on.
        name: such as `ipcl1`; empty for a model without one.
        source: sha256 of the file it was converted from; empty for one trained here.
        steps: batches it was trained on, as far as known (torch's `num_batches_tracked`).
    """

    variables: dict
    model: Model
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    size: int = 224
    name: str = ""
    source: str = ""
    steps: int = 0

    def __post_init__(self):
        """Checks what is static, since transformations make models of arrays that are none yet.

        Raises:
            InputError: for a model, mean, std or size that can't be one.
        """
        if not isinstance(self.model, Model):
            raise InputError(f"model is a {type(self.model).__name__}, expected an ipcl_jax.config.Model.")
        for name, value in checked_images(self.mean, self.std, self.size, self.model.arch).items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        count = sum(math.prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(self.variables.get("params")))
        embedding = f"{self.model.out_dim} outputs" + (" of unit length" if self.model.l2norm else "")
        kind = f"{self.model.arch}, {embedding}, {count / 1e6:.1f} M parameters"
        return f"<Encoder {self.name or 'unnamed'}: {kind}>"

    @property
    def module(self) -> nn.Module:
        """The Flax module that `variables` belong to."""
        return make_model(self.model)

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Every layer that can be extracted, shallow to deep."""
        return self.module.layer_names

    def digest(self) -> str:
        """sha256 of names, shapes and values of all variables: equal for equal models, however stored."""
        state = hashlib.sha256()
        for name, array in sorted(_flat(self.variables).items()):
            state.update(f"{name} {array.shape} {array.dtype}\n".encode())
            state.update(np.ascontiguousarray(array).data)
        return state.hexdigest()

    def description(self) -> dict:
        """Everything but the variables, as JSON can hold it; `describe` reads it back.

        Returns:
            Every field by its name; `model` is a dict too.

        Raises:
            InputError: if it couldn't be read back, such as a name that is a path.
        """
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del fields["variables"]
        described = json.loads(json.dumps(fields | {"model": dataclasses.asdict(self.model)}))
        read_description(described)
        return described


def describe(variables: dict, description: dict) -> Encoder:
    """The encoder of some variables.

    Args:
        variables: `params` and `batch_stats`, of arrays.
        description: as `Encoder.description` gives it.

    Returns:
        An encoder whose variables are on the default device.

    Raises:
        InputError: if they don't belong together; every variable that is wrong is named.
    """
    fields = read_description(description)
    problems, found = [], _flat(variables)
    expected = {name: leaf.shape for name, leaf in _flat(expected_variables(fields["model"])).items()}
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            problems.append(f"{name} is missing")
        elif name not in expected:
            problems.append(f"{name} is not part of the model")
        elif found[name].shape != expected[name] or found[name].dtype != np.float32:
            there = f"{found[name].dtype} {list(found[name].shape)}"
            problems.append(f"{name} is {there}, expected float32 {list(expected[name])}")
    if problems:
        raise InputError("\n  ".join(["its variables don't fit its description:", *problems]))
    return Encoder(variables=jax.device_put(variables), **fields)


@functools.lru_cache
def expected_variables(model: Model) -> dict:
    """Shapes and dtypes of a network's `params` and `batch_stats`, without computing anything."""
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    shapes = jax.eval_shape(make_model(model).init, jax.random.key(0), images)
    return {"params": shapes["params"], "batch_stats": shapes.get("batch_stats", {})}


def untrained(model: Model, *, seed: int = 0, **fields) -> Encoder:
    """A network with freshly drawn weights.

    Args:
        model: the network.
        seed: of the weights.
        fields: other fields of `Encoder`.
    """
    variables = jax.jit(make_model(model).init)(jax.random.key(seed), jnp.zeros((1, 224, 224, 3)))
    variables = {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
    return Encoder(variables=variables, model=model, **fields)


def save_encoder(encoder: Encoder, path: str | Path, *, header: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file, whole or not at all.

    Args:
        encoder: the model.
        path: the file; one that is there is replaced.
        header: other entries of the file's header.

    Raises:
        InputError: as `Encoder.description`.
    """
    tensors = {name: np.ascontiguousarray(array) for name, array in _flat(encoder.variables).items()}
    with whole(Path(path)) as part:
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
    path = at_home(path)
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
        return describe(variables, description)


def _load_run(folder: Path) -> Encoder:
    config = read_json(folder / "config.json")
    steps = ocp.utils.checkpoint_steps(folder / "checkpoints") if (folder / "checkpoints").is_dir() else []
    if not steps:
        raise ConfigError(f"The run in {folder} has no complete checkpoint yet.")
    newest = folder / "checkpoints" / str(max(steps))
    if reason := damage_of(newest):
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
        return describe(
            _restore(newest / "default", expected_variables(read_model(config["model"]))), description
        )


def _load_orbax(folder: Path) -> Encoder:
    with _named(f"{folder} can't be read as a model"):
        description = read_json(folder / "description" / "metadata")
        shapes = expected_variables(read_model(description.get("model")))
        return describe(_restore(folder / "variables", shapes), description)


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


def _flat(tree: dict) -> dict:
    """Variables by names such as `params/fc7_linear/kernel`."""
    leaves = flatten_dict(tree, sep="/")
    return {
        name: leaf if isinstance(leaf, jax.ShapeDtypeStruct) else np.asarray(leaf)
        for name, leaf in leaves.items()
    }


def _tree(flat: dict[str, np.ndarray]) -> dict:
    return {"params": {}, "batch_stats": {}} | unflatten_dict(flat, sep="/")
