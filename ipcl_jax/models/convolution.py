"""Convolutions as XLA's, with other ways to the same sums where its CPU backend has no fast one."""

import functools
import itertools
import operator

import jax
import jax.numpy as jnp
from jax import Array

_PIXELS = (
    512  # at least so many go into one product: of fewer, adding up products would take most of the time
)


def convolve(x: Array, kernel: Array, strides: tuple, padding: list, **options) -> Array:
    """`lax.conv_general_dilated` for `nn.Conv`, differentiable in either mode and as often as wanted.

    Where the output is smaller than the kernel, a CPU is given matrix products: there a 3x3 kernel on a 2x2 map
    took XLA's CPU backend 120 times as long.

    Args:
        x: `[B, H, W, C]`.
        kernel: `[h, w, C, features]`.
        strides: down and across.
        padding: before and after, down and across.
        options: for lax.conv_general_dilated; neither dilated nor in groups.

    Returns:
        `[B, h', w', features]`.
    """
    across = _extent(x, kernel, strides, padding)

    def plain(x: Array, kernel: Array) -> Array:
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)

    def by_products(x: Array, kernel: Array) -> Array:
        pixels = _by_place(x, kernel.shape, across, strides, padding)
        return functools.reduce(operator.add, (values @ kernel[at] for at, values in pixels.items()))

    if min(across) >= kernel.shape[0]:
        return plain(x, kernel)
    return jax.lax.platform_dependent(x, kernel, cpu=by_products, default=plain)


def convolve_in_training(x: Array, kernel: Array, strides: tuple, padding: list, **options) -> Array:
    """As `convolve`, differentiable once, in reverse mode.

    On a CPU the gradient of a kernel is made of matrix products, which takes half as long.
    """
    if min(_extent(x, kernel, strides, padding)) < kernel.shape[0]:
        return convolve(x, kernel, strides, padding, **options)  # made of products already

    def plain(x: Array, kernel: Array) -> Array:
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)

    def backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
        x, kernel = saved

        def by_convolution(x: Array, gradient: Array) -> Array:
            return jax.linear_transpose(lambda kernel: plain(x, kernel), kernel)(gradient)[0]

        def by_products(x: Array, gradient: Array) -> Array:
            return kernel_gradient(x, gradient, kernel.shape, strides, padding).astype(kernel.dtype)

        to_kernel = jax.lax.platform_dependent(x, gradient, cpu=by_products, default=by_convolution)
        return jax.linear_transpose(lambda x: plain(x, kernel), x)(gradient)[0], to_kernel

    convolution = jax.custom_vjp(plain)
    convolution.defvjp(lambda x, kernel: (plain(x, kernel), (x, kernel)), backward)
    return convolution(x, kernel)


def _extent(x: Array, kernel: Array, strides: tuple, padding: list) -> tuple[int, ...]:
    """Pixels of a convolution's output, down and across."""
    return tuple((x.shape[1 + i] + sum(padding[i]) - kernel.shape[i]) // strides[i] + 1 for i in (0, 1))


def kernel_gradient(x: Array, gradient: Array, shape: tuple, strides: tuple, padding: list) -> Array:
    """The gradient of a convolution's kernel, as matrix products over a few images at a time.

    Args:
        x: `[B, H, W, C]`, the convolution's input.
        gradient: `[B, h', w', features]`, of its output.
        shape: `[h, w, C, features]`, of the kernel.
        strides: down and across.
        padding: before and after, down and across.

    Returns:
        `[h, w, C, features]` float32, or float64 of such.
    """
    dtype = jnp.promote_types(x.dtype, jnp.float32)  # a sum in bfloat16 would stop growing
    height, width, channels, features = shape

    def of(x: Array, gradient: Array) -> Array:
        pixels = _by_place(x, shape, gradient.shape[1:3], strides, padding)
        gradient = gradient.reshape(-1, features)
        rows = []
        for row in range(height):
            patches = jnp.concatenate([pixels[row, column] for column in range(width)], axis=-1)
            patches = patches.reshape(-1, width * channels)
            rows.append(jnp.matmul(patches.T, gradient, preferred_element_type=dtype))
        return jnp.stack(rows)

    few = min(len(x), -(-_PIXELS // (gradient.shape[1] * gradient.shape[2])))
    turns, rest = divmod(len(x), few)
    total = jnp.zeros((height, width * channels, features), dtype)
    if turns:
        by_turn = [value[: turns * few].reshape(turns, few, *value.shape[1:]) for value in (x, gradient)]
        total, _ = jax.lax.scan(lambda total, some: (total + of(*some), None), total, by_turn)
    if rest:
        total += of(x[-rest:], gradient[-rest:])
    return total.reshape(shape)


def _by_place(
    x: Array, shape: tuple, across: tuple, strides: tuple, padding: list
) -> dict[tuple[int, int], Array]:
    """For each place in a kernel, what it meets: `[B, h', w', C]`."""
    x = jnp.pad(x, [(0, 0), *padding, (0, 0)])
    return {
        (row, column): x[
            :,
            row : row + (across[0] - 1) * strides[0] + 1 : strides[0],
            column : column + (across[1] - 1) * strides[1] + 1 : strides[1],
        ]
        for row, column in itertools.product(range(shape[0]), range(shape[1]))
    }
