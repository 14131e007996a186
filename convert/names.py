"""PyTorch's parameter names and ours, side by side: the only place that spells them."""

import re
from dataclasses import dataclass

import numpy as np
from flax.traverse_util import flatten_dict

from ipcl_jax.config import Model
from ipcl_jax.encoder import expected_variables

# Our module names end in what they are; the reference's are places in a torch.nn.Sequential.
_PLACE = {"conv": "0", "linear": "0", "norm": "1"}
_LEAF = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


@dataclass(frozen=True)
class Tensor:
    """How one tensor is laid out in PyTorch and here.

    Attributes:
        path: such as ("params", "fc7_linear", "kernel").
        torch_shape: of PyTorch's tensor.
        unfolded: the same values with the axes that `axes` moves.
        axes: of `unfolded`, in our order.
        shape: of our array.
    """

    path: tuple[str, ...]
    torch_shape: tuple[int, ...]
    unfolded: tuple[int, ...]
    axes: tuple[int, ...]
    shape: tuple[int, ...]

    def to_flax(self, array: np.ndarray) -> np.ndarray:
        """From PyTorch's layout to ours; the values stay what they are."""
        return np.ascontiguousarray(array.reshape(self.unfolded).transpose(self.axes).reshape(self.shape))

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """From our layout to PyTorch's; undoes `to_flax`."""
        moved = array.reshape([self.unfolded[axis] for axis in self.axes])
        return np.ascontiguousarray(moved.transpose(np.argsort(self.axes)).reshape(self.torch_shape))


def torch_tensors(model: Model) -> dict[str, Tensor]:
    """Every tensor of a network, by PyTorch's name.

    Convolutions go from [O, I, h, w] to [h, w, I, O] and linear layers from [O, I] to [I, O]. fc6 reads
    a feature map flattened channel-first in PyTorch and channel-last here, so its inputs
    are permuted too.

    Source: the reference's models/alexnet_gn.py.
    """
    tensors = {}
    for path, leaf in flatten_dict(expected_variables(model)).items():
        tensors[_torch_name(path)] = _layout(path, leaf.shape)
    return tensors


def counters(model: Model) -> list[str]:
    """Names of PyTorch's batch counters, one a batch norm: integers that no result depends on."""
    paths = flatten_dict(expected_variables(model)["batch_stats"])
    return sorted({_torch_name(path).rsplit(".", 1)[0] + ".num_batches_tracked" for path in paths})


def _torch_name(path: tuple[str, ...]) -> str:
    block, kind = re.fullmatch(r"(\w+)_(conv|linear|norm)", path[-2]).groups()
    return f"{block}.{_PLACE[kind]}.{_LEAF[path[-1]]}"


def _layout(path: tuple[str, ...], shape: tuple[int, ...]) -> Tensor:
    if len(shape) == 4:
        axes = (2, 3, 1, 0)
    elif path[-2:] == ("fc6_linear", "kernel"):
        inputs, outputs = shape
        return Tensor(path, (outputs, inputs), (outputs, inputs // 36, 6, 6), (2, 3, 1, 0), shape)
    else:
        axes = (1, 0) if len(shape) == 2 else (0,)
    torch_shape = tuple(shape[place] for place in np.argsort(axes))
    return Tensor(path, torch_shape, torch_shape, axes, shape)
