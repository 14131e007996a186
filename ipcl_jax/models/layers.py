"""Layers that compute the same as PyTorch's, where those of Flax differ."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import Array

# PyTorch's default for convolutions and linear layers: kaiming-uniform with a = sqrt(5),
# which is uniform in +-1/sqrt(fan_in).
torch_kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def torch_bias_init(fan_in: int) -> Callable:
    """Makes PyTorch's default initialiser of biases: uniform in +-1/sqrt(fan_in)."""
    bound = fan_in**-0.5

    def init(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Linear(nn.Module):
    """Dense layer with PyTorch's default initialisation, `[B, D] -> [B, features]`."""

    features: int
    dtype: jnp.dtype | None = None  # of the product; None for that of the operands

    @nn.compact
    def __call__(self, x: Array) -> Array:
        fan_in = x.shape[-1]
        kernel = self.param("kernel", torch_kernel_init, (fan_in, self.features))
        bias = self.param("bias", torch_bias_init(fan_in), (self.features,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        if len(x) == 1:  # a CPU sums the products of a single row one by one, with four times the error
            return (jnp.pad(x, [(0, 1), (0, 0)]) @ kernel)[:1] + bias[None]
        return x @ kernel + bias[None]


class BatchNorm(nn.Module):
    """Batch normalisation of `[B, ..., C]` over the global batch, with PyTorch's running statistics.

    A training batch is normalised by its biased variance; the running variance is updated with the unbiased one.
    (Flax's layer uses the biased one for both.) Computes in float32, and returns its input's dtype.

    Source: Ioffe & Szegedy 2015; torch.nn.BatchNorm1d and BatchNorm2d.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        features = x.shape[-1]
        others = tuple(range(x.ndim - 1))  # all axes but that of the channels
        scale = self.param("scale", nn.initializers.ones, (features,))
        bias = self.param("bias", nn.initializers.zeros, (features,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (features,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (features,))

        dtype, x = x.dtype, x.astype(jnp.promote_types(x.dtype, scale.dtype))
        channel = (None,) * len(others)  # [C] -> [1, ..., C]
        if train:
            mean = x.mean(others)
            # The variance's derivative by the mean is 0; XLA would compute it as a sum of rounding errors.
            var = jnp.square(x - jax.lax.stop_gradient(mean)[channel]).mean(others)
            if not self.is_initializing():
                keep, count = 1 - self.momentum, x.size // features
                unbiased = var * (count / (count - 1))
                running_mean.value = keep * running_mean.value + self.momentum * mean
                running_var.value = keep * running_var.value + self.momentum * unbiased
        else:
            mean, var = running_mean.value, running_var.value
        scale_over_std = jax.lax.rsqrt(var + self.epsilon) * scale
        return ((x - mean[channel]) * scale_over_std[channel] + bias[channel]).astype(dtype)


def adaptive_average_pool(x: Array, side: int) -> Array:
    """Averages `[B, H, W, C]` over PyTorch's bins, `-> [B, side, side, C]`.

    Bin i covers floor(i * H / side) up to ceil((i + 1) * H / side), so bins may overlap, and repeat pixels if
    H < side. The identity if H = W = side.

    Source: torch.nn.AdaptiveAvgPool2d.
    """
    _, height, width, _ = x.shape
    if (height, width) == (side, side):
        return x
    rows, columns = (jnp.asarray(_bins(extent, side), x.dtype) for extent in (height, width))
    return jnp.einsum("ih,jw,bhwc->bijc", rows, columns, x, precision="highest")


def _bins(extent: int, side: int) -> np.ndarray:
    """Computes the weights of each bin's average, `[side, extent]`."""
    starts = np.arange(side) * extent // side
    ends = -(-(np.arange(side) + 1) * extent // side)
    pixel = np.arange(extent)
    inside = (starts[:, None] <= pixel) & (pixel < ends[:, None])
    return inside / (ends - starts)[:, None]
