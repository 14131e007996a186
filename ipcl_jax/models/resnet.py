"""ResNet-18 and ResNet-50, with group or batch normalisation.

Modules are called as in PyTorch, with `_` for `.` (no name there has a `_` of its own), so that each
tensor of a state dict has one place here, and the other way round:

    conv1.weight                    params/conv1/kernel                   [O, I, h, w] -> [h, w, I, O]
    layer1.0.conv1.weight           params/layer1_0_conv1/kernel
    layer1.0.bn1.weight, bias       params/layer1_0_bn1/scale, bias
    layer1.0.bn1.running_mean, var  batch_stats/layer1_0_bn1/mean, var    with batch norm only
    layer2.0.downsample.0.weight    params/layer2_0_downsample_0/kernel
    layer2.0.downsample.1.weight    params/layer2_0_downsample_1/scale
    fc.weight, fc.bias              params/fc/kernel, bias                [O, I] -> [I, O]

PyTorch's `num_batches_tracked` has no counterpart. Norms are called bn1, bn2, bn3 whichever they are.
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

# One row an architecture: blocks in each of the four stages, and whether they are bottlenecks.
ARCHITECTURES = {"resnet18": ((2, 2, 2, 2), False), "resnet50": ((3, 4, 6, 3), True)}

# Torchvision's choice for its ResNets: normal with variance 2 / fan_out, which keeps the gradient's size
# through a ReLU (He et al. 2015).
kernel_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Conv(NamedTuple):
    """A convolution's shape; it pads by half its side."""

    features: int
    side: int
    stride: int


class Block(NamedTuple):
    """A residual block: its convolutions, and that of its shortcut where the shape changes."""

    name: str
    convs: tuple[Conv, ...]
    downsample: Conv | None


def stages(arch: str) -> dict[str, list[Block]]:
    """The blocks of layer1 to layer4.

    A bottleneck has its stride in the 3x3 convolution, as in torchvision (called v1.5), not in the
    1x1 before it, as in the paper.
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
            changes = not place and (i or bottleneck)  # of resnet18, layer1 finds its 64 channels
            downsample = Conv(convs[-1].features, 1, stride) if changes else None
            found[layer].append(Block(f"{layer}.{place}", convs, downsample))
    return found


class ResNet(nn.Module):
    """ResNet: normalised images to embeddings, and any layer on the way.

    Attributes:
        arch: `resnet18` or `resnet50`.
        norm: `group` (32 groups) or `batch`.
        out_dim: width of the embedding (128 for IPCL, 1000 for supervised models).
        l2norm: whether the embedding is scaled to unit length.
        dtype: of convolutions and matrix products; None is that of the parameters, bfloat16 is for
            speed. Norms and the unit length are computed in the parameters' dtype either way.

    Differs: images shorter than the strides together, 32 pixels, are refused; torchvision takes any size.

    Source: He et al. 2016, with torchvision's strides and initialisation; Wu & He 2018 for group norm.
    """

    arch: Literal["resnet18", "resnet50"] = "resnet18"
    norm: Literal["group", "batch"] = "group"
    out_dim: int = 128
    l2norm: bool = True
    dtype: jnp.dtype | None = None
    pooled_layer: ClassVar[str] = "avgpool"  # where the convolutions end

    def __post_init__(self):
        if self.arch not in ARCHITECTURES:
            raise InputError(f"arch is {self.arch!r}; a ResNet here is one of {', '.join(ARCHITECTURES)}.")
        if self.norm not in ("group", "batch"):
            raise InputError(f"norm is {self.norm!r}; a ResNet here has 'group' or 'batch'.")
        super().__post_init__()

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Every layer that can be asked for, shallow to deep, spelled as in torchvision.

        PyTorch's blocks call one relu module several times. Here, as for a hook there that keeps the
        last call, `layer1.0.relu` is the block's output, after the shortcut is added.
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
            train: with batch norm, normalise by this batch, and move the running statistics (apply
                with `mutable=["batch_stats"]`). Group norm does not change.
            layers: names from `layer_names` whose activations to return.
            pooled: activations of `pooled_layer` to go on from; images aren't looked at then.

        Returns:
            The embedding `[B, out_dim]` (of unit length with `l2norm`), and a dict with each
            requested layer: `[B, h, w, C]` up to avgpool (`[B, 1, 1, C]`), `[B, out_dim]` after it.
            Under jit, layers that nobody asked for cost nothing.

        Raises:
            InputError: for a name that this model does not have, with the names it has; or for
                images too small.
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
