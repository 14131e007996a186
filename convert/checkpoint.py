"""From a PyTorch checkpoint to an encoder, and from an encoder to PyTorch's state_dict."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from ipcl_jax.activations.description import read_model
from ipcl_jax.activations.encoder import Encoder, build_encoder
from ipcl_jax.config import Model
from ipcl_jax.system.files import atomic

from .errors import CheckpointError
from .names import counters, torch_tensors
from .reading import DESCRIPTION, torch_for

if TYPE_CHECKING:
    import torch


def guess_model(tensors: Mapping[str, np.ndarray]) -> Model:
    """The network that tensors belong to, by their shapes.

    Args:
        tensors: by PyTorch's names.

    Returns:
        The network of that name and kind of norm, with as many outputs and as wide fully connected layers
        as the tensors have; the paper's network if they are of none. That embeddings have unit length
        no tensor says: they have, unless there are 1000 outputs, as in the models of categories.
    """
    fields = {}
    if "layer1.0.conv1.weight" in tensors:
        fields["arch"] = "resnet50" if "layer1.0.conv3.weight" in tensors else "resnet18"
        fields["norm"] = "batch" if "bn1.running_mean" in tensors else "group"
    for layer, field in (("fc6.0.weight", "fc_dim"), ("fc8.0.weight", "out_dim"), ("fc.weight", "out_dim")):
        if layer in tensors and tensors[layer].ndim == 2:
            fields[field] = tensors[layer].shape[0]
    model = Model(**fields)
    return replace(model, l2norm=model.out_dim != 1000)


def from_torch(tensors: Mapping[str, np.ndarray], description: dict, *, origin: str) -> Encoder:
    """An encoder of PyTorch's tensors, all of which must be there and nothing else.

    Args:
        tensors: by PyTorch's names.
        description: as of `Encoder.description`; at least `model`, `mean` and `std`.
        origin: the file, for messages.

    Returns:
        The encoder; its values are those of the tensors.

    Raises:
        CheckpointError: listing every tensor that is missing, unexpected, of another shape or
            type, or not finite.
        InputError: if the description is not one.
    """
    model = read_model(description["model"])
    expected, counts = torch_tensors(model), counters(model)
    if not expected.keys() & tensors.keys():
        raise CheckpointError(
            f"{origin} holds another network: {_some(tensors)}. "
            f"Expected are the tensors of {model.arch}: {_some(expected)}."
        )
    problems = []
    for name in [*expected, *(name for name in tensors if name not in expected and name not in counts)]:
        if name not in tensors:
            problems.append(f"missing: {name}, expected float32 {list(expected[name].torch_shape)}")
            continue
        found = f"{tensors[name].dtype} {list(tensors[name].shape)}"
        if name not in expected:
            problems.append(f"unexpected: {name}, {found}")
        elif tensors[name].dtype != np.float32 or tensors[name].shape != expected[name].torch_shape:
            problems.append(f"wrong: {name} is {found}, expected float32 {list(expected[name].torch_shape)}")
        elif bad := np.count_nonzero(~np.isfinite(tensors[name])):
            problems.append(f"not finite: {bad} of the values of {name}")
    for name in counts:
        if name in tensors and (tensors[name].dtype.kind not in "iu" or tensors[name].size != 1):
            found = f"{tensors[name].dtype} {list(tensors[name].shape)}"
            problems.append(f"wrong: {name} is {found}, expected int64 []")
    if problems:
        raise CheckpointError(
            f"{origin} doesn't fit {model.arch} with {model.out_dim} outputs, in {len(problems)} places:",
            tuple(problems),
        )
    variables = {tensor.path: tensor.to_flax(tensors[name]) for name, tensor in expected.items()}
    steps = max((int(tensors[name].max()) for name in counts if name in tensors), default=0)
    variables = {"params": {}, "batch_stats": {}} | unflatten_dict(variables)
    return build_encoder(variables, {"steps": steps} | description)


def _some(tensors: Mapping) -> str:
    names = list(tensors)
    return f"{', '.join(names[:3])} and {len(names) - 3} more" if len(names) > 3 else ", ".join(names)


def to_torch_state_dict(encoder: Encoder) -> "dict[str, torch.Tensor]":
    """An encoder's weights for the reference's network.

    Args:
        encoder: the model.

    Returns:
        What `load_state_dict(..., strict=True)` of the reference's network takes, on the CPU: float32, and
        `num_batches_tracked` int64. Converted back, it gives the same arrays.

    Raises:
        MissingPackage: without PyTorch.
    """
    torch = torch_for("Writing a file for PyTorch")

    variables = flatten_dict(encoder.variables)
    tensors = {
        name: torch.from_numpy(tensor.to_torch(np.asarray(variables[tensor.path])).copy())
        for name, tensor in torch_tensors(encoder.model).items()
    }
    return tensors | {name: torch.tensor(encoder.steps) for name in counters(encoder.model)}


def save_torch(encoder: Encoder, path: Path) -> None:
    """Writes a file that the reference loads, whole or not at all.

    Args:
        encoder: the model.
        path: the file: a dict with `state_dict`, and our description of the model beside it.

    Raises:
        InputError: as `Encoder.description`.
        MissingPackage: without PyTorch.
    """
    torch = torch_for("Writing a file for PyTorch")

    with atomic(path) as part:
        torch.save({"state_dict": to_torch_state_dict(encoder), DESCRIPTION: encoder.description()}, part)
