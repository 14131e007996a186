"""Conversion of a PyTorch state_dict to an encoder, and of an encoder to a state_dict."""

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
from .reading import DESCRIPTION, import_torch

if TYPE_CHECKING:
    import torch


def guess_model(tensors: Mapping[str, np.ndarray]) -> Model:
    """Infers the network that tensors belong to from their names and shapes.

    Args:
        tensors: by PyTorch's names.

    Returns:
        The network, with its norm, number of outputs and width of the fully connected layers; the paper's network if
        the names belong to none. Whether embeddings have unit length can't be inferred: it is assumed unless there
        are 1000 outputs, as in the models trained on categories.
    """
    model = Model()
    if "layer1.0.conv1.weight" in tensors:
        model = replace(
            model,
            arch="resnet50" if "layer1.0.conv3.weight" in tensors else "resnet18",
            norm="batch" if "bn1.running_mean" in tensors else "group",
        )
    outputs = {name: tensor.shape[0] for name, tensor in tensors.items() if tensor.ndim == 2}
    model = replace(
        model,
        fc_dim=outputs.get("fc6.0.weight", model.fc_dim),
        out_dim=outputs.get("fc.weight", outputs.get("fc8.0.weight", model.out_dim)),
    )
    return replace(model, l2norm=model.out_dim != 1000)


def from_torch(tensors: Mapping[str, np.ndarray], description: dict, *, origin: str) -> Encoder:
    """Converts PyTorch's tensors to an encoder; they must be exactly those of the network.

    Args:
        tensors: by PyTorch's names.
        description: as from `Encoder.description`; at least `model`, `mean` and `std`.
        origin: the file, for messages.

    Returns:
        The encoder, with the values of the tensors.

    Raises:
        CheckpointError: listing every tensor that is missing, unexpected, of another shape or
            type, or not finite.
        InputError: if the description is invalid.
    """
    model = read_model(description["model"])
    expected, counts = torch_tensors(model), counters(model)
    if not expected.keys() & tensors.keys():
        raise CheckpointError(
            f"{origin} holds another network: {_first_names(tensors)}. "
            f"Expected are the tensors of {model.arch}: {_first_names(expected)}."
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


def _first_names(tensors: Mapping) -> str:
    names = list(tensors)
    return f"{', '.join(names[:3])} and {len(names) - 3} more" if len(names) > 3 else ", ".join(names)


def to_torch_state_dict(encoder: Encoder) -> "dict[str, torch.Tensor]":
    """Returns an encoder's weights as a state_dict of the reference's network.

    Args:
        encoder: the model.

    Returns:
        Tensors on the CPU for `load_state_dict(..., strict=True)` of the reference's network: float32, and
        `num_batches_tracked` int64. Converting them back gives the same arrays.

    Raises:
        MissingPackage: without PyTorch.
    """
    torch = import_torch("Writing a file for PyTorch")

    variables = flatten_dict(encoder.variables)
    tensors = {
        name: torch.from_numpy(tensor.to_torch(np.asarray(variables[tensor.path])).copy())
        for name, tensor in torch_tensors(encoder.model).items()
    }
    return tensors | {name: torch.tensor(encoder.steps) for name in counters(encoder.model)}


def save_torch(encoder: Encoder, path: Path) -> None:
    """Writes a file that the reference can load, atomically.

    Args:
        encoder: the model.
        path: the file: a dict with `state_dict`, and this package's description of the model.

    Raises:
        InputError: as `Encoder.description`.
        MissingPackage: without PyTorch.
    """
    torch = import_torch("Writing a file for PyTorch")

    with atomic(path) as part:
        torch.save({"state_dict": to_torch_state_dict(encoder), DESCRIPTION: encoder.description()}, part)
