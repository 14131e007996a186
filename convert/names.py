"""Names and layouts of parameters in PyTorch and in Flax; no other module spells PyTorch's names."""

from dataclasses import dataclass

import numpy as np
from flax.traverse_util import flatten_dict

from ipcl_jax.activations.encoder import expected_variables
from ipcl_jax.config import Model

# The names of AlexNet-GN's modules end in their kind; the reference's end in an index of a torch.nn.Sequential.
_PLACE = {"conv": "0", "linear": "0", "norm": "1"}
_LEAF = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


@dataclass(frozen=True)
class Tensor:
    """The layouts of one tensor in PyTorch and in Flax.

    Attributes:
        path: in Flax, such as ("params", "fc7_linear", "kernel").
        torch_shape: shape of PyTorch's tensor.
        unfolded: shape that PyTorch's tensor is given before its axes are permuted.
        axes: the permutation from PyTorch's order to Flax's.
        shape: shape of the Flax array.
    """

    path: tuple[str, ...]
    torch_shape: tuple[int, ...]
    unfolded: tuple[int, ...]
    axes: tuple[int, ...]
    shape: tuple[int, ...]

    def to_flax(self, array: np.ndarray) -> np.ndarray:
        """Converts PyTorch's layout to Flax's, without changing values."""
        return np.ascontiguousarray(array.reshape(self.unfolded).transpose(self.axes).reshape(self.shape))

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """Converts Flax's layout to PyTorch's; the inverse of `to_flax`."""
        moved = array.reshape([self.unfolded[axis] for axis in self.axes])
        return np.ascontiguousarray(moved.transpose(np.argsort(self.axes)).reshape(self.torch_shape))


def torch_tensors(model: Model) -> dict[str, Tensor]:
    """Returns every tensor of a network, by PyTorch's name.

    Convolutions are permuted from [O, I, h, w] to [h, w, I, O] and linear layers from [O, I] to [I, O]. The input of
    fc6 is a feature map that is flattened channel-first in PyTorch and channel-last in Flax, so its inputs
    are permuted too.

    Source: the reference's models/alexnet_gn.py; for ResNets, torchvision's models/resnet.py.
    """
    variables = flatten_dict(expected_variables(model))
    return {
        f"{_module(path, model)}.{_LEAF[path[-1]]}": _layout(path, leaf.shape)
        for path, leaf in variables.items()
    }


def counters(model: Model) -> list[str]:
    """Returns the names of PyTorch's batch counters, one for each batch norm: integers that results don't depend on."""
    paths = flatten_dict(expected_variables(model)["batch_stats"])
    return sorted({f"{_module(path, model)}.num_batches_tracked" for path in paths})


def _module(path: tuple[str, ...], model: Model) -> str:
    """Returns PyTorch's name of the module that a variable belongs to."""
    if model.arch == "alexnet_gn":
        block, kind = path[-2].rsplit("_", 1)
        return f"{block}.{_PLACE[kind]}"
    return path[-2].replace("_", ".")  # a ResNet's modules have PyTorch's names


def _layout(path: tuple[str, ...], shape: tuple[int, ...]) -> Tensor:
    axes: tuple[int, ...] = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[len(shape)]
    if path[-2:] == ("fc6_linear", "kernel"):
        inputs, outputs = shape
        return Tensor(path, (outputs, inputs), (outputs, inputs // 36, 6, 6), (2, 3, 1, 0), shape)
    torch_shape = tuple(shape[place] for place in np.argsort(axes))
    return Tensor(path, torch_shape, torch_shape, axes, shape)
