"""ResNet-18 and ResNet-50, with group or batch normalisation.

Modules are named as in PyTorch, with `_` for `.` (no PyTorch name here contains `_`), so that tensors of a state
dict and parameters correspond one to one:

    conv1.weight                    params/conv1/kernel                   [O, I, h, w] -> [h, w, I, O]
    layer1.0.conv1.weight           params/layer1_0_conv1/kernel
    layer1.0.bn1.weight, bias       params/layer1_0_bn1/scale, bias
    layer1.0.bn1.running_mean, var  batch_stats/layer1_0_bn1/mean, var    with batch norm only
    layer2.0.downsample.0.weight    params/layer2_0_downsample_0/kernel
    layer2.0.downsample.1.weight    params/layer2_0_downsample_1/scale
    fc.weight, fc.bias              params/fc/kernel, bias                [O, I] -> [I, O]

PyTorch's `num_batches_tracked` has no counterpart. Group norms are also called bn1, bn2, bn3.
"""

from collections.abc import Iterable
from typing import ClassVar, Literal, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from ipcl_jax.config import SMALLEST_IMAGE
from ipcl_jax.errors import InputError
from ipcl_jax.models.checks import check_layers, check_size
from ipcl_jax.models.convolution import convolve, convolve_in_training
from ipcl_jax.models.group_norm import GroupNorm
from ipcl_jax.models.layers import BatchNorm, Linear

# For each architecture: blocks in each of the four stages, and whether they are bottlenecks.
ARCHITECTURES = {"resnet18": ((2, 2, 2, 2), False), "resnet50": ((3, 4, 6, 3), True)}

# As in torchvision: normal with variance 2 / fan_out, which preserves the gradient's magnitude through a ReLU
# (He et al. 2015).
kernel_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Conv(NamedTuple):
    """A convolution's shape; its padding is side // 2."""

    features: int
    side: int
    stride: int


class Block(NamedTuple):
    """A residual block: its convolutions, and that of its shortcut if the shape changes."""

    name: str
    convs: tuple[Conv, ...]
    downsample: Conv | None


def stages(arch: str) -> dict[str, list[Block]]:
    """Lists the blocks of layer1 to layer4.

    In a bottleneck the 3x3 convolution has the stride, as in torchvision (ResNet v1.5), not the 1x1 before it, as in
    the paper.
    """
    counts, bottleneck = ARCHITECTURES[arch]
    found: dict[str, list[Block]] = {}
    for i, count in enumerate(counts):
        layer, width = f"layer{i + 1}", 64 * 2**i
        found[layer] = []
        for place in range(count):
            stride = 2 if i and not place else 1
            convs: tuple[Conv, ...] = (Conv(width, 3, stride), Conv(width, 3, 1))
            if bottleneck:
                convs = (Conv(width, 1, 1), Conv(width, 3, stride), Conv(4 * width, 1, 1))
            changes = not place and (i or bottleneck)  # resnet18's layer1 already gets 64 channels
            downsample = Conv(convs[-1].features, 1, stride) if changes else None
            found[layer].append(Block(f"{layer}.{place}", convs, downsample))
    return found


class ResNet(nn.Module):
    """ResNet: maps normalised images to embeddings, and returns intermediate layers on request.

    Attributes:
        arch: `resnet18` or `resnet50`.
        norm: `group` (32 groups) or `batch`.
        out_dim: width of the embedding (128 for IPCL, 1000 for supervised models).
        l2norm: whether the embedding is scaled to unit length.
        dtype: of convolutions and matrix products; None is that of the parameters, bfloat16 is for
            speed. Norms and the unit length are computed in the parameters' dtype either way.

    Differs: images smaller than the product of the strides, 32 pixels, raise an error; torchvision takes any size.

    Source: He et al. 2016, with torchvision's strides and initialisation; Wu & He 2018 for group norm.
    """

    arch: Literal["resnet18", "resnet50"] = "resnet18"
    norm: Literal["group", "batch"] = "group"
    out_dim: int = 128
    l2norm: bool = True
    dtype: jnp.dtype | None = None
    pooled_layer: ClassVar[str] = "avgpool"  # the last layer of the convolutional part

    def __post_init__(self):
        if self.arch not in ARCHITECTURES:
            raise InputError(f"arch is {self.arch!r}; a ResNet here is one of {', '.join(ARCHITECTURES)}.")
        if self.norm not in ("group", "batch"):
            raise InputError(f"norm is {self.norm!r}; a ResNet here has 'group' or 'batch'.")
        super().__post_init__()

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Names of all layers that can be requested, shallow to deep, as in torchvision.

        PyTorch's blocks call one relu module several times. Here `layer1.0.relu` is the last call: the block's output,
        after the shortcut is added.
        """
        names = ["conv1", "bn1", "relu", "maxpool"]
        for layer, blocks in stages(self.arch).items():
            for block in blocks:
                parts = [f"{part}{i + 1}" for i in range(len(block.convs)) for part in ("conv", "bn")]
                if block.downsample:
                    parts += ["downsample.0", "downsample.1", "downsample"]
                names += [f"{block.name}.{part}" for part in (*parts, "relu")] + [block.name]
            names += [layer]
        names += ["avgpool", "fc"]
        return (*names, "l2norm") if self.l2norm else tuple(names)

    @nn.compact
    def __call__(
        self,
        images: Array | None,
        *,
        train: bool = False,
        layers: Iterable[str] = (),
        pooled: Array | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """Embeds images.

        Args:
            images: `[B, H, W, 3]` float32, normalised; 32 pixels a side at least.
            train: with batch norm, normalise by this batch and update the running statistics (apply with
                `mutable=["batch_stats"]`). Group norm computes the same either way.
            layers: names from `layer_names` whose activations to return.
            pooled: activations of `pooled_layer` to continue from; `images` may then be None, and are ignored.

        Returns:
            The embedding `[B, out_dim]` (of unit length with `l2norm`), and a dict with each
            requested layer: `[B, h, w, C]` up to avgpool (`[B, 1, 1, C]`), `[B, out_dim]` after it.
            Under jit, layers that are not requested cost nothing.

        Raises:
            InputError: for an unknown layer, with the names of all; or for images that are too small.
        """
        layers = check_layers(layers, self.layer_names)
        found = {}

        def keep(name: str, value: Array) -> Array:
            found[name] = value
            return value

        def conv(name: str, x: Array, shape: Conv) -> Array:
            features, side, stride = shape
            module = nn.Conv(
                features, (side, side), stride, side // 2, use_bias=False, dtype=self.dtype,
                conv_general_dilated=convolve_in_training if train else convolve,
                kernel_init=kernel_init, name=name.replace(".", "_"),
            )
            return keep(name, module(x))

        def norm(name: str, x: Array) -> Array:
            module = name.replace(".", "_")
            if self.norm == "batch":
                return keep(name, BatchNorm(name=module)(x, train=train))
            return keep(name, GroupNorm(name=module)(x, train=train))

        if pooled is None:
            assert images is not None, "give either images or pooled"
            check_size(images, SMALLEST_IMAGE[self.arch], self.arch)
            x = norm("bn1", conv("conv1", images, Conv(64, 7, 2)))
            x = keep("relu", nn.relu(x))
            x = keep("maxpool", nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))))
            for layer, blocks in stages(self.arch).items():
                for block, convs, downsample in blocks:
                    shortcut = x
                    for i, shape in enumerate(convs, 1):
                        if i > 1:
                            x = nn.relu(x)
                        x = norm(f"{block}.bn{i}", conv(f"{block}.conv{i}", x, shape))
                    if downsample:
                        shortcut = conv(f"{block}.downsample.0", shortcut, downsample)
                        shortcut = norm(f"{block}.downsample.1", shortcut)
                        keep(f"{block}.downsample", shortcut)
                    x = keep(f"{block}.relu", nn.relu(x + shortcut))
                    keep(block, x)
                keep(layer, x)
            pooled = keep("avgpool", x.mean((1, 2), keepdims=True))
        x = keep("fc", Linear(self.out_dim, self.dtype, name="fc")(pooled[:, 0, 0]))
        if self.l2norm:
            x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
            x = keep("l2norm", x / jnp.linalg.norm(x, axis=-1, keepdims=True))
        return x, {name: found[name] for name in layers}
