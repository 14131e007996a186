"""From a PyTorch checkpoint to an encoder, and from an encoder to PyTorch's state_dict."""

import pickle
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from convert.fetch import is_web_page
from convert.names import counters, torch_tensors
from ipcl_jax.config import Model
from ipcl_jax.description import read_model
from ipcl_jax.encoder import Encoder, describe
from ipcl_jax.files import whole

if TYPE_CHECKING:
    import torch

DESCRIPTION = "ipcl_jax"  # key of an encoder's description in the files that `save_torch` writes
_TRAINER = "base_encoder."  # where the reference's trainer keeps the network


class CheckpointError(ValueError):
    """A file is no checkpoint of a network that we know, or not a safe one.

    Attributes:
        problems: a line for each tensor that is missing, unexpected or wrong.
    """

    def __init__(self, message: str, problems: tuple[str, ...] = ()):
        super().__init__("\n  ".join([message, *problems]))
        self.problems = problems


def read_torch(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """The network's tensors in a PyTorch file, by the reference's names.

    Args:
        path: written by torch.save in either of its formats: a state_dict, or a dict that holds one under
            `state_dict`; names may begin with `module.`; of a training checkpoint whose
            network sits under `base_encoder.` only that is read.

    Returns:
        The tensors, and the description of our own, if the file has one (else an empty dict).

    Raises:
        CheckpointError: if it is something else, or needs code to be run.
    """
    content = _unpickle(path)
    held = content if isinstance(content, Mapping) else {}
    tensors, description = held.get("state_dict", content), held.get(DESCRIPTION, {})
    if wrong := _not_tensors(tensors):
        raise CheckpointError(
            f"{path} holds no state_dict: {wrong}. Expected is what torch.save(model.state_dict(), file) "
            "writes, alone or in a dict under the key 'state_dict'."
        )
    if not isinstance(description, Mapping):
        raise CheckpointError(
            f"{path} has no description of a model under {DESCRIPTION!r}, but a {type(description).__name__}."
        )
    arrays, problems = {}, []
    network = _network(tensors)
    # A tensor may repeat one value without end.
    if sum(tensor.numel() * tensor.element_size() for tensor in network.values()) > path.stat().st_size:
        raise CheckpointError(f"{path} says that it holds more numbers than fit into its size.")
    for name, tensor in network.items():
        try:
            arrays[name] = tensor.detach().numpy()
        except (TypeError, RuntimeError):  # NumPy has no bfloat16, and no sparse or quantised tensors
            problems.append(f"wrong: {name} is {tensor.layout} {tensor.dtype}, expected dense torch.float32")
    if problems:
        raise CheckpointError(f"{path} has tensors of a kind that no model here has:", tuple(problems))
    return arrays, dict(description)


def _unpickle(path: Path) -> object:
    try:
        import torch
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"Reading {path.name} needs PyTorch, which is not installed: pip install 'ipcl_jax[convert]'. "
            "Once a released model is converted, the copy in the cache does without."
        ) from None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if wanted := re.search(r"GLOBAL ([\w.]+)|(?:function|class) ([\w.]+\.\w+)", str(error)):
            raise CheckpointError(
                f"{path} is refused, and nothing of it was run: to open it, {wanted[1] or wanted[2]} would have to be called, "
                "and a file of weights needs no code. If you trust where it comes from, load it in PyTorch "
                "yourself and write its tensors anew with torch.save({'state_dict': ...}, file)."
            ) from None
        raise CheckpointError(f"{path} is no PyTorch checkpoint; {_what_it_is(path)}.") from None
    except Exception as error:  # zip and pickle each have their own errors for damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} is damaged or no PyTorch checkpoint; {_what_it_is(path)} ({reason})."
        ) from None


def _what_it_is(path: Path) -> str:
    if is_web_page(path):
        return "it looks like a web page, such as a server's error message"
    with open(path, "rb") as file:
        start = file.read(8)
    return f"it begins with {start!r}" if start else "it is empty"


def _not_tensors(tensors: object) -> str:
    """What is wrong with a supposed state_dict; empty if nothing is."""
    import torch

    if not isinstance(tensors, Mapping):
        return f"it is of type {type(tensors).__name__}"
    if not tensors:
        return "it is an empty dict"
    others = [str(name) for name, value in tensors.items() if not isinstance(value, torch.Tensor)]
    return (
        f"{', '.join(others[:5])} {'is no tensor' if len(others) == 1 else 'are no tensors'}"
        if others
        else ""
    )


def _network(tensors: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    """The tensors without `module.`, and without what a trainer keeps beside the network."""

    def strip(found: Mapping) -> dict:
        return {str(name).removeprefix("module."): tensor for name, tensor in found.items()}

    tensors = strip(tensors)
    if any(name.startswith(_TRAINER) for name in tensors):
        inner = {name.removeprefix(_TRAINER): t for name, t in tensors.items() if name.startswith(_TRAINER)}
        tensors = strip(inner)
    return tensors


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
        ValueError: if the description is not one.
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
    if problems:
        raise CheckpointError(
            f"{origin} doesn't fit {model.arch} with {model.out_dim} outputs, in {len(problems)} places:",
            tuple(problems),
        )
    variables = {tensor.path: tensor.to_flax(tensors[name]) for name, tensor in expected.items()}
    steps = max((int(tensors[name].max()) for name in counts if name in tensors), default=0)
    variables = {"params": {}, "batch_stats": {}} | unflatten_dict(variables)
    return describe(variables, {"steps": steps} | description)


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
        ModuleNotFoundError: without PyTorch.
    """
    import torch

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
        ValueError: as `Encoder.description`.
    """
    import torch

    with whole(path) as part:
        torch.save({"state_dict": to_torch_state_dict(encoder), DESCRIPTION: encoder.description()}, part)
