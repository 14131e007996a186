"""Reading the named tensors in a PyTorch file, or in a safetensors file that `save_encoder` didn't write."""

import errno
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from ipcl_jax.activations.serialize import SUFFIX, read_safetensors
from ipcl_jax.errors import MissingPackage

from .download import is_web_page
from .errors import CheckpointError
from .wrappers import KEYS, unwrap

if TYPE_CHECKING:
    import torch

DESCRIPTION = "ipcl_jax"  # key of an encoder's description in the files that `save_torch` writes
_FLOATS = ("float16", "bfloat16", "float64")  # converted to float32


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict, list[str]]:
    """Reads the network's tensors in a file, by PyTorch's names.

    Args:
        path: written by torch.save in either of its formats, a state_dict or a dict that holds one under one of
            `wrappers.KEYS`; or by safetensors. Prefixes of wrappers are removed, and a trainer's other tensors
            left out: see `wrappers.unwrap`. Weights of 16 bits or float64 are converted to float32.

    Returns:
        The tensors; this package's description of the model, if a PyTorch file has one (else an empty dict); and a
        phrase for each change to the tensors.

    Raises:
        CheckpointError: if it is another kind of file, or can't be loaded without running code.
        MissingPackage: for a PyTorch file, without PyTorch.
        OSError: if the file can't be read.
    """
    if is_safetensors(path):
        arrays, remarks = unwrap(read_safetensors(path), origin=str(path))
        description: Mapping = {}
    else:
        arrays, description, remarks = _read_torch(path)
    return _in_float32(arrays, remarks), dict(description), remarks


def is_safetensors(path: Path) -> bool:
    """Returns whether a file has the suffix of safetensors, or begins with the length of a JSON object and a brace."""
    with open(path, "rb") as file:
        start = file.read(9)
    return path.suffix == SUFFIX or (
        start[8:] == b"{" and int.from_bytes(start[:8], "little") + 8 <= path.stat().st_size
    )


def _in_float32(arrays: dict[str, np.ndarray], remarks: list[str]) -> dict[str, np.ndarray]:
    """Converts floats of other widths to float32; adds a remark for each width."""
    for kind in _FLOATS:
        if names := [name for name, array in arrays.items() if array.dtype.name == kind]:
            with np.errstate(over="ignore"):  # from_torch refuses infinities by name
                arrays = arrays | {name: arrays[name].astype(np.float32) for name in names}
            done = "rounded" if kind == "float64" else "widened"
            remarks.append(f"{done} {len(names)} tensors of {kind} to float32")
    return arrays


def _read_torch(path: Path) -> tuple[dict[str, np.ndarray], Mapping, list[str]]:
    content = _unpickle(path)
    tensors = _state_dict(content, path)
    description = content.get(DESCRIPTION, {}) if isinstance(content, Mapping) else {}
    if not isinstance(description, Mapping):
        raise CheckpointError(
            f"{path} has no description of a model under {DESCRIPTION!r}, but a {type(description).__name__}."
        )
    network, remarks = unwrap(tensors, origin=str(path))
    # With strides of 0, a small file can describe a huge tensor.
    if sum(tensor.numel() * tensor.element_size() for tensor in network.values()) > path.stat().st_size:
        raise CheckpointError(f"{path} says that it holds more numbers than fit into its size.")
    import torch

    arrays, problems = {}, []
    for name, tensor in network.items():
        try:
            if tensor.dtype == torch.bfloat16:  # NumPy's comes from ml_dtypes
                arrays[name] = tensor.detach().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
            else:
                arrays[name] = tensor.detach().numpy()
        except (TypeError, RuntimeError):  # NumPy has no sparse or quantised tensors
            problems.append(f"wrong: {name} is {tensor.layout} {tensor.dtype}, expected dense torch.float32")
    if problems:
        raise CheckpointError(f"{path} has tensors of a kind that no model here has:", tuple(problems))
    return arrays, description, remarks


def _state_dict(content: object, path: Path) -> Mapping[str, "torch.Tensor"]:
    """Returns the state_dict in a file's content: the content itself, or under one of the keys of training scripts."""
    found = _state_dicts(content)
    if len(found) > 1:
        raise CheckpointError(
            f"{path} holds {len(found)} state_dicts, under {', '.join(map(repr, found))}; save one of them alone."
        )
    tensors = next(iter(found.values()), content)
    if not found and isinstance(content, Mapping):
        tensors = content.get("state_dict", content)
    if wrong := _not_tensors(tensors):
        raise CheckpointError(
            f"{path} holds no state_dict: {wrong}. Expected is what torch.save(model.state_dict(), file) "
            f"writes, alone or in a dict under one of the keys {', '.join(KEYS)}."
        )
    return tensors  # type: ignore[return-value]


def _state_dicts(content: object, depth: int = 3) -> dict[str, Mapping]:
    """Returns every dict of tensors, by the keys that lead to it."""
    import torch

    if not isinstance(content, Mapping) or not depth:
        return {}
    found = {
        f"{key}.{inner}".rstrip("."): tensors
        for key in KEYS
        for inner, tensors in _state_dicts(content.get(key), depth - 1).items()
    }
    if not found and any(isinstance(value, torch.Tensor) for value in content.values()):
        return {"": content}
    return found


def import_torch(purpose: str) -> ModuleType:
    """Imports and returns PyTorch.

    Args:
        purpose: what needs it, the beginning of a sentence.

    Raises:
        MissingPackage: if it is not installed.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingPackage(
            f"{purpose} needs PyTorch, which is not installed: pip install 'ipcl_jax[convert]'. "
            "Once a released model is converted, the copy in the cache does without."
        ) from None
    return torch


def _unpickle(path: Path) -> object:
    torch = import_torch(f"Reading {path.name}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if wanted := re.search(r"GLOBAL ([\w.]+)|(?:function|class) ([\w.]+\.\w+)", str(error)):
            called = wanted[1] or wanted[2]
            raise CheckpointError(
                f"{path} is refused, and nothing of it was run: to open it, {called} would have to be called, "
                "and a file of weights needs no code. If you trust where it comes from, load it in PyTorch "
                "yourself and write its tensors anew with torch.save({'state_dict': ...}, file)."
            ) from None
        raise CheckpointError(f"{path} is no PyTorch checkpoint; {_what_it_is(path)}.") from None
    except MemoryError:
        raise
    except Exception as error:  # zip and pickle each have their own errors for damaged files
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: wrong offsets in a damaged file
            raise
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
    """Describes why an object is not a state_dict; empty if it is one."""
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
