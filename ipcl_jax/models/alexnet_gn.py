"""AlexNet with group normalisation, the paper's network."""

import functools
from collections.abc import Iterable
from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from ipcl_jax.config import SMALLEST_IMAGE
from ipcl_jax.models.checks import check_layers, check_size
from ipcl_jax.models.convolution import convolve, convolve_in_training
from ipcl_jax.models.group_norm import GroupNorm
from ipcl_jax.models.layers import BatchNorm, Linear, adaptive_average_pool, torch_kernel_init

# For each block: features, kernel side, stride, padding, and whether it ends with a max pool.
CONV_BLOCKS = {
    "conv_block_1": (96, 11, 4, 2, True),
    "conv_block_2": (256, 5, 1, 2, True),
    "conv_block_3": (384, 3, 1, 1, False),
    "conv_block_4": (384, 3, 1, 1, False),
    "conv_block_5": (256, 3, 1, 1, True),
}


class AlexNetGN(nn.Module):
    """AlexNet-GN: maps normalised images to embeddings, and returns intermediate layers on request.

    Attributes:
        out_dim: width of the embedding (128 for IPCL, 1000 for supervised models).
        l2norm: whether the embedding is scaled to unit length.
        fc_dim: width of fc6 and fc7.
        dtype: of convolutions and matrix products; None is that of the parameters, bfloat16 is for
            speed. Norms and the unit length are computed in the parameters' dtype either way.

    Source: Konkle & Alvarez 2022, Methods; the reference's `models/alexnet_gn.py`.
    """

    out_dim: int = 128
    l2norm: bool = True
    fc_dim: int = 4096
    dtype: jnp.dtype | None = None
    pooled_layer: ClassVar[str] = "ave_pool"  # the last layer of the convolutional part

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Names of all layers that can be requested, shallow to deep, as in the reference."""
        names = []
        for block, (*_, shrinks) in CONV_BLOCKS.items():
            names += [f"{block}.{i}" for i in range(4 if shrinks else 3)] + [block]
        names += ["ave_pool"]
        for block, parts in (("fc6", 3), ("fc7", 3), ("fc8", 1)):
            names += [f"{block}.{i}" for i in range(parts)] + [block]
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
            images: `[B, H, W, 3]` float32, normalised; 63 pixels a side at least.
            train: normalise fc6 and fc7 by this batch and update their running statistics (apply with
                `mutable=["batch_stats"]`).
            layers: names from `layer_names` whose activations to return.
            pooled: activations of `pooled_layer` to continue from; `images` may then be None, and are ignored.

        Returns:
            The embedding `[B, out_dim]` (of unit length with `l2norm`), and a dict with each
            requested layer: `[B, h, w, C]` up to ave_pool, `[B, D]` after it. Under jit, layers that are not
            requested cost nothing.

        Raises:
            InputError: for an unknown layer, with the names of all; or for images that are too small.
        """
        layers = check_layers(layers, self.layer_names)
        found = {}

        def keep(name: str, value: Array) -> Array:
            found[name] = value
            return value

        if pooled is None:
            assert images is not None, "give either images or pooled"
            check_size(images, SMALLEST_IMAGE["alexnet_gn"], "AlexNet-GN")
            x = images
            for block, (features, side, stride, padding, shrinks) in CONV_BLOCKS.items():
                conv = nn.Conv(
                    features, (side, side), stride, padding, use_bias=False, dtype=self.dtype,
                    kernel_init=torch_kernel_init, name=f"{block}_conv",
                    conv_general_dilated=convolve_in_training if train else convolve,
                )
                norm = functools.partial(GroupNorm(name=f"{block}_norm"), train=train)
                x = keep(f"{block}.0", conv(x))
                if f"{block}.1" in layers:
                    keep(f"{block}.1", norm(x))
                if shrinks and f"{block}.2" in layers:
                    keep(f"{block}.2", norm(x, relu=True))
                x = keep(f"{block}.{3 if shrinks else 2}", norm(x, relu=True, pool=shrinks))
                keep(block, x)
            pooled = keep("ave_pool", adaptive_average_pool(x, 6))
        x = pooled.reshape(len(pooled), -1)  # [B, 6 * 6 * 256], channel-last: conversion permutes fc6
        for block in ("fc6", "fc7"):
            x = keep(f"{block}.0", Linear(self.fc_dim, self.dtype, name=f"{block}_linear")(x))
            x = keep(f"{block}.1", BatchNorm(name=f"{block}_norm")(x, train=train))
            x = keep(f"{block}.2", nn.relu(x))
            keep(block, x)
        x = keep("fc8.0", Linear(self.out_dim, self.dtype, name="fc8_linear")(x))
        keep("fc8", x)
        if self.l2norm:
            x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
            x = keep("l2norm", x / jnp.linalg.norm(x, axis=-1, keepdims=True))
        return x, {name: found[name] for name in layers}
