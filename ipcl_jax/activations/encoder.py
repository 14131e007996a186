"""A model ready for use: its variables and what is needed to apply them, as one pytree.

Released models and models trained here are the same thing, an `Encoder`. On disk it is
a safetensors file (one tensor a variable, the description in the header), or a run's folder.
"""

import dataclasses
import functools
import hashlib
import json
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict

from ipcl_jax.activations.description import checked_images, read_description
from ipcl_jax.config import IMAGENET_MEAN, IMAGENET_STD, Model
from ipcl_jax.errors import InputError
from ipcl_jax.models import make_model


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
        for name, array in sorted(flatten(self.variables).items()):
            state.update(f"{name} {array.shape} {array.dtype}\n".encode())
            state.update(np.ascontiguousarray(array).data)
        return state.hexdigest()

    def description(self) -> dict:
        """Everything but the variables, as JSON can hold it; `build_encoder` reads it back.

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


def build_encoder(variables: dict, description: dict) -> Encoder:
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
    problems, found = [], flatten(variables)
    expected = {name: leaf.shape for name, leaf in flatten(expected_variables(fields["model"])).items()}
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


def init_encoder(model: Model, *, seed: int = 0, **fields) -> Encoder:
    """A network with freshly drawn weights.

    Args:
        model: the network.
        seed: of the weights.
        fields: other fields of `Encoder`.
    """
    variables = jax.jit(make_model(model).init)(jax.random.key(seed), jnp.zeros((1, 224, 224, 3)))
    variables = {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
    return Encoder(variables=variables, model=model, **fields)


def flatten(tree: dict) -> dict:
    """Variables by names such as `params/fc7_linear/kernel`."""
    leaves = flatten_dict(tree, sep="/")
    return {
        name: leaf if isinstance(leaf, jax.ShapeDtypeStruct) else np.asarray(leaf)
        for name, leaf in leaves.items()
    }


