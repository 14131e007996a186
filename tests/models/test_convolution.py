"""Convolutions and their gradients against torch, on every course that they take."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from ipcl_jax.models.convolution import convolve, convolve_in_training, kernel_gradient

NUMBERS = ("NHWC", "HWIO", "NHWC")
# Images, side of x, channels, side of the kernel, features, stride, padding.
SHAPES = {
    "AlexNet-GN's first, smaller": (5, 27, 3, 5, 8, 4, 2),
    "its second": (3, 9, 4, 5, 6, 1, 2),
    "several images a product, some left over": (600, 3, 2, 3, 4, 1, 1),
    "a residual network's": (2, 12, 4, 3, 4, 2, 1),
    "smaller than its kernel": (4, 2, 3, 3, 5, 1, 1),
    "no more than a product": (2, 5, 3, 1, 4, 2, 0),
    "a residual network's first, smaller": (3, 14, 3, 7, 4, 2, 3),
    "with gaps between its windows": (2, 9, 1, 3, 4, 4, 0),
}


@pytest.fixture(params=["as on a CPU", "as on a GPU"])
def platform(request, monkeypatch):
    """Has a CPU compute what another platform would."""
    if request.param == "as on a GPU":
        monkeypatch.setattr(jax.lax, "platform_dependent", lambda *given, default, **_: default(*given))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("function", [convolve, convolve_in_training])
def test_values_and_gradients(shape, function, platform):
    images, side, channels, kernel_side, features, stride, padding = shape
    rng = np.random.default_rng(shape)
    x = rng.normal(size=(images, side, side + 2, channels))  # not square
    kernel = rng.normal(size=(kernel_side, kernel_side, channels, features))
    given = [torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(kernel).permute(3, 2, 0, 1)]
    given = [value.clone().requires_grad_() for value in given]
    y = torch.nn.functional.conv2d(*given, stride=stride, padding=padding)
    weight = torch.from_numpy(rng.normal(size=y.shape))
    (y * weight).sum().backward()
    expected = y.permute(0, 2, 3, 1), given[0].grad.permute(0, 2, 3, 1), given[1].grad.permute(2, 3, 1, 0)
    weight = weight.permute(0, 2, 3, 1).numpy()

    how = ((stride, stride), [(padding, padding)] * 2)

    def forward_and_back(x, kernel):
        y, back = jax.vjp(lambda x, kernel: function(x, kernel, *how, dimension_numbers=NUMBERS), x, kernel)
        return y, *back(jnp.asarray(weight, y.dtype))

    with jax.enable_x64(True):
        for run in (forward_and_back, jax.jit(forward_and_back)):
            for found, value in zip(run(x, kernel), expected, strict=True):
                np.testing.assert_allclose(
                    found, value.detach(), rtol=0, atol=1e-10
                )  # float64: rounding only
    single = jax.jit(forward_and_back)(x.astype(np.float32), kernel.astype(np.float32))
    for found, value in zip(single, expected, strict=True):
        assert found.dtype == jnp.float32
        value = value.detach().numpy()
        np.testing.assert_allclose(
            found, value, rtol=0, atol=2e-6 * np.abs(value).max()
        )  # sums of up to 5,400


def test_accelerators_are_given_no_strided_convolution_of_colours():
    """They would multiply eight channels, five of them zeros."""
    x, kernel = jnp.ones((1, 64, 64, 3)), jnp.ones((11, 11, 3, 4))

    def loss(kernel):
        how = ((4, 4), [(2, 2)] * 2)
        return (convolve_in_training(x, kernel, *how, dimension_numbers=NUMBERS) ** 2).sum()

    traced = jax.jit(jax.value_and_grad(loss)).trace(kernel)
    texts = {name: traced.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "cuda")}
    assert "stride = [4, 4]" in texts["cpu"]
    assert texts["cuda"].count("stablehlo.convolution") == 2 and "stride = [4, 4]" not in texts["cuda"]
    assert "x48x" in texts["cuda"]


def test_sums_of_bfloat16_are_float32():
    """A kernel's gradient sums over all pixels of all images; bfloat16 has 8 bits."""
    ones = jnp.ones((400, 3, 3, 1), jnp.bfloat16)
    found = kernel_gradient(ones, ones, (1, 1, 1, 1), (1, 1), [(0, 0)] * 2)
    assert found.dtype == jnp.float32 and float(found.squeeze()) == 3600


def test_accelerators_are_given_a_convolution():
    """Only a CPU's program has the products: to other platforms a gradient remains a convolution."""
    x, kernel = jnp.ones((2, 12, 12, 4)), jnp.ones((3, 3, 4, 4))

    def loss(kernel):
        return convolve_in_training(x, kernel, (1, 1), [(1, 1)] * 2, dimension_numbers=NUMBERS).sum()

    traced = jax.jit(jax.grad(loss)).trace(kernel)
    texts = {name: traced.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "cuda")}
    assert "while" in texts["cpu"] and "dot_general" in texts["cpu"]
    assert "while" not in texts["cuda"] and "dot_general" not in texts["cuda"]


@pytest.mark.parametrize("function", [convolve, convolve_in_training])
def test_accelerators_are_given_a_convolution_of_a_small_map_too(function):
    """The products that stand in for a kernel larger than the output are a CPU's alone, forward and back."""
    x, kernel = jnp.ones((2, 2, 2, 4)), jnp.ones((3, 3, 4, 4))

    def forward(x, kernel):
        return function(x, kernel, (1, 1), [(1, 1)] * 2, dimension_numbers=NUMBERS)

    def loss(x, kernel):
        return (forward(x, kernel) ** 2).sum()

    for traced in (jax.jit(forward).trace(x, kernel), jax.jit(jax.grad(loss, (0, 1))).trace(x, kernel)):
        texts = {name: traced.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "cuda")}
        assert "dot_general" in texts["cpu"] and "stablehlo.convolution" not in texts["cpu"]
        assert "dot_general" not in texts["cuda"] and "stablehlo.convolution" in texts["cuda"]


@pytest.mark.parametrize("side", [2, 6], ids=["by products on a CPU", "by XLA's convolution"])
def test_forward_mode(side):
    """A convolution is linear in either argument, so that its derivative along one is itself."""
    rng = np.random.default_rng(0)
    x, to_x = rng.normal(size=(2, 2, side, side, 3))
    kernel, to_kernel = rng.normal(size=(2, 3, 3, 3, 4))
    with jax.enable_x64(True):

        def of(x, kernel):
            return convolve(x, kernel, (1, 1), [(1, 1)] * 2, dimension_numbers=NUMBERS)

        for run in (of, jax.jit(of)):
            _, along = jax.jvp(run, (x, kernel), (to_x, to_kernel))
            np.testing.assert_allclose(along, of(to_x, kernel) + of(x, to_kernel), atol=1e-12)
