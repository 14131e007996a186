"""A trained model: its variables and what is needed to apply them, as one pytree.

Released models and models trained by this package are both an `Encoder`. On disk it is a safetensors file (one tensor
per variable, the description in the header), or a run's folder.
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

from ipcl_jax.activations.description import check_image_fields, read_description
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

    An encoder is a pytree whose leaves are its variables: `jax.tree.map`, `jit`, `grad` and `vmap` apply to them, and
    models with the same configuration share a compiled `extract`. A transformation returns a different model, so
    name, source and steps are dropped.

    Attributes:
        variables: `params` and `batch_stats`, as the Flax module takes them, float32.
        model: configuration of the network.
        mean: of each channel, in [0, 1]; subtracted from images.
        std: of each channel, in [0, 1]; images are divided by it after that.
        size: side in pixels of the images it was trained on.
        name: such as `ipcl1`; empty for a model without one.
        source: sha256 of the file it was converted from; empty for one trained here.
        steps: number of batches it was trained on, 0 if unknown (torch's `num_batches_tracked`).
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
        """Checks the static fields; the variables can be tracers in a transformation, so they are not checked.

        Raises:
            InputError: for an invalid model, mean, std or size.
        """
        if not isinstance(self.model, Model):
            raise InputError(f"model is a {type(self.model).__name__}, expected an ipcl_jax.config.Model.")
        for name, value in check_image_fields(self.mean, self.std, self.size, self.model.arch).items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        count = sum(math.prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(self.variables.get("params")))
        embedding = f"{self.model.out_dim} outputs" + (" of unit length" if self.model.l2norm else "")
        kind = f"{self.model.arch}, {embedding}, {count / 1e6:.1f} M parameters"
        return f"<Encoder {self.name or 'unnamed'}: {kind}>"

    @property
    def module(self) -> nn.Module:
        """The Flax module that takes `variables`."""
        return make_model(self.model)

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Names of all layers that can be extracted, shallow to deep."""
        return self.module.layer_names

    def digest(self) -> str:
        """Returns the sha256 of names, shapes and values of all variables; it doesn't depend on the file format."""
        state = hashlib.sha256()
        for name, array in sorted(flatten(self.variables).items()):
            state.update(f"{name} {array.shape} {array.dtype}\n".encode())
            state.update(np.ascontiguousarray(array).data)
        return state.hexdigest()

    def description(self) -> dict:
        """Returns everything except the variables as JSON-compatible values; `build_encoder` reads it.

        Returns:
            Every field by its name; `model` is a dict too.

        Raises:
            InputError: if `build_encoder` couldn't read it, such as a name that is a path.
        """
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del fields["variables"]
        described = json.loads(json.dumps(fields | {"model": dataclasses.asdict(self.model)}))
        read_description(described)
        return described


def build_encoder(variables: dict, description: dict) -> Encoder:
    """Builds an encoder from its variables and its description.

    Args:
        variables: `params` and `batch_stats`, of arrays.
        description: as `Encoder.description` gives it.

    Returns:
        An encoder whose variables are on the default device.

    Raises:
        InputError: if they don't fit together; the message names every variable that is wrong.
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
    """Returns shapes and dtypes of a network's `params` and `batch_stats`, without computing them."""
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    shapes = jax.eval_shape(make_model(model).init, jax.random.key(0), images)
    return {"params": shapes["params"], "batch_stats": shapes.get("batch_stats", {})}


def init_encoder(model: Model, *, seed: int = 0, **fields) -> Encoder:
    """Builds an encoder with newly drawn weights.

    Args:
        model: configuration of the network.
        seed: seed of the weights.
        fields: other fields of `Encoder`.
    """
    variables = jax.jit(make_model(model).init)(jax.random.key(seed), jnp.zeros((1, 224, 224, 3)))
    variables = {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
    return Encoder(variables=variables, model=model, **fields)


def flatten(tree: dict) -> dict:
    """Flattens variables to a dict with keys such as `params/fc7_linear/kernel`."""
    leaves = flatten_dict(tree, sep="/")
    return {
        name: leaf if isinstance(leaf, jax.ShapeDtypeStruct) else np.asarray(leaf)
        for name, leaf in leaves.items()
    }
