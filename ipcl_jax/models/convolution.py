"""Convolutions, computed in other ways where the plain one is slow: by matrix products on a CPU, in blocks on a GPU."""

import functools
import itertools
import math
import operator

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.layout import Layout, with_layout_constraint

_PIXELS = 512  # least number of pixels in one product; with fewer, summing the products would take most of the time
_FEW = 4  # channels; GPUs multiply eight at least


def convolve(x: Array, kernel: Array, strides: tuple, padding: list, **options) -> Array:
    """Replaces `lax.conv_general_dilated` in `nn.Conv`; differentiable in either mode, any number of times.

    On a CPU, outputs smaller than the kernel are computed by matrix products: XLA's CPU backend takes 120 times as
    long for a 3x3 kernel on a 2x2 map.

    On other platforms a convolution of few channels with a stride is computed in blocks, see `_in_blocks`.

    Args:
        x: `[B, H, W, C]`.
        kernel: `[h, w, C, features]`.
        strides: down and across.
        padding: before and after, down and across.
        options: for lax.conv_general_dilated; dilation and feature groups are not supported.

    Returns:
        `[B, h', w', features]`.
    """
    out_size = _output_size(x, kernel, strides, padding)

    def plain(x: Array, kernel: Array) -> Array:
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)

    def by_products(x: Array, kernel: Array) -> Array:
        inputs = _kernel_inputs(x, kernel.shape, out_size, strides, padding)
        return functools.reduce(operator.add, (values @ kernel[tap] for tap, values in inputs.items()))

    on_cpu = plain if min(out_size) >= kernel.shape[0] else by_products
    elsewhere = plain
    if strides[0] == strides[1] > 1 and x.shape[-1] <= _FEW:
        elsewhere = functools.partial(
            _in_blocks, stride=strides[0], out_size=out_size, padding=padding, **options
        )
    if on_cpu is elsewhere:
        return plain(x, kernel)
    return jax.lax.platform_dependent(x, kernel, cpu=on_cpu, default=elsewhere)


def convolve_in_training(x: Array, kernel: Array, strides: tuple, padding: list, **options) -> Array:
    """Convolves as `convolve`, but is differentiable only once, in reverse mode.

    On a CPU the gradient of the kernel is computed by matrix products, which takes half as long.
    """

    def forward(x: Array, kernel: Array) -> Array:
        return convolve(x, kernel, strides, padding, **options)

    if min(_output_size(x, kernel, strides, padding)) < kernel.shape[0]:
        return forward(x, kernel)  # already computed by products

    def backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
        x, kernel = saved

        def by_convolution(x: Array, gradient: Array) -> Array:
            found = jax.linear_transpose(lambda kernel: forward(x, kernel), kernel)(gradient)[0]
            return with_layout_constraint(found, Layout(tuple(range(found.ndim))))

        def by_products(x: Array, gradient: Array) -> Array:
            return kernel_gradient(x, gradient, kernel.shape, strides, padding).astype(kernel.dtype)

        to_kernel = jax.lax.platform_dependent(x, gradient, cpu=by_products, default=by_convolution)
        return jax.linear_transpose(lambda x: forward(x, kernel), x)(gradient)[0], to_kernel

    convolution = jax.custom_vjp(forward)
    convolution.defvjp(lambda x, kernel: (forward(x, kernel), (x, kernel)), backward)
    return convolution(x, kernel)


def _in_blocks(
    x: Array, kernel: Array, *, stride: int, out_size: tuple[int, ...], padding: list, **options
) -> Array:
    """Convolves with a stride as one without, in which a block of stride x stride pixels counts as one.

    GPUs pad few channels to eight, and multiply zeros in most of them; a block of 4 x 4 pixels of three channels has 48.
    The kernel is enlarged by zeros to whole blocks. The products summed are the same.
    """
    taps = [-(-extent // stride) for extent in kernel.shape[:2]]
    blocks = [size - 1 + n for size, n in zip(out_size, taps, strict=True)]
    around = [
        (before, stride * n - x.shape[1 + i] - before, 0)
        for i, ((before, _), n) in enumerate(zip(padding, blocks, strict=True))
    ]
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *around, (0, 0, 0)])
    kernel = jnp.pad(kernel, [(0, stride * n - kernel.shape[i]) for i, n in enumerate(taps)] + [(0, 0)] * 2)
    # One axis at a time, as JAX wants it where arrays are sharded explicitly.
    x = x.reshape(*x.shape[:2], blocks[1], stride, x.shape[3])
    x = x.reshape(len(x), blocks[0], stride, *x.shape[2:]).transpose(0, 1, 3, 2, 4, 5)
    kernel = kernel.reshape(taps[0], stride, taps[1], stride, *kernel.shape[2:]).transpose(0, 2, 1, 3, 4, 5)
    x = x.reshape(*x.shape[:3], math.prod(x.shape[3:]))
    kernel = kernel.reshape(*taps, x.shape[3], kernel.shape[-1])
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", **options)


def _output_size(x: Array, kernel: Array, strides: tuple, padding: list) -> tuple[int, ...]:
    """Computes the height and width of a convolution's output."""
    return tuple((x.shape[1 + i] + sum(padding[i]) - kernel.shape[i]) // strides[i] + 1 for i in (0, 1))


def kernel_gradient(x: Array, gradient: Array, shape: tuple, strides: tuple, padding: list) -> Array:
    """Computes the gradient of a convolution's kernel, by matrix products over a few images at a time.

    Args:
        x: `[B, H, W, C]`, the convolution's input.
        gradient: `[B, h', w', features]`, of its output.
        shape: `[h, w, C, features]`, of the kernel.
        strides: down and across.
        padding: before and after, down and across.

    Returns:
        `[h, w, C, features]` float32, or float64 if x is.
    """
    dtype = jnp.promote_types(x.dtype, jnp.float32)  # a long sum in bfloat16 would lose its small terms
    height, width, channels, features = shape

    def of_images(x: Array, gradient: Array) -> Array:
        inputs = _kernel_inputs(x, shape, gradient.shape[1:3], strides, padding)
        gradient = gradient.reshape(-1, features)
        rows = []
        for row in range(height):
            patches = jnp.concatenate([inputs[row, column] for column in range(width)], axis=-1)
            patches = patches.reshape(-1, width * channels)
            rows.append(jnp.matmul(patches.T, gradient, preferred_element_type=dtype))
        return jnp.stack(rows)

    size = min(len(x), -(-_PIXELS // (gradient.shape[1] * gradient.shape[2])))  # images in a chunk
    n_chunks, rest = divmod(len(x), size)
    total = jnp.zeros((height, width * channels, features), dtype)
    if n_chunks:
        chunks = [value[: n_chunks * size].reshape(n_chunks, size, *value.shape[1:]) for value in (x, gradient)]
        total, _ = jax.lax.scan(lambda total, chunk: (total + of_images(*chunk), None), total, chunks)
    if rest:
        total += of_images(x[-rest:], gradient[-rest:])
    return total.reshape(shape)


def _kernel_inputs(
    x: Array, shape: tuple, out_size: tuple, strides: tuple, padding: list
) -> dict[tuple[int, int], Array]:
    """For each (row, column) of a kernel, slices the inputs that it is multiplied with, `[B, h', w', C]`."""
    x = jnp.pad(x, [(0, 0), *padding, (0, 0)])
    return {
        (row, column): x[
            :,
            row : row + (out_size[0] - 1) * strides[0] + 1 : strides[0],
            column : column + (out_size[1] - 1) * strides[1] + 1 : strides[1],
        ]
        for row, column in itertools.product(range(shape[0]), range(shape[1]))
    }
