"""Group norm, with the ReLU and pool after it, against torch: values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ipcl_jax.models.group_norm import GroupNorm
from thinning import first

AFTER = [
    dict(relu=True, pool=True),
    dict(relu=False, pool=False),
    dict(relu=True, pool=False),
    dict(relu=False, pool=True),
]


def ours(x, scale, bias, *, train: bool = False, relu: bool = False, pool: bool = False):
    return GroupNorm().apply({"params": {"scale": scale, "bias": bias}}, x, relu=relu, pool=pool, train=train)


def theirs(
    x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, *, relu=False, pool=False
) -> torch.Tensor:
    y = F.group_norm(x.permute(0, 3, 1, 2), 32, scale, bias)
    y = F.relu(y) if relu else y
    return (F.max_pool2d(y, 3, 2) if pool else y).permute(0, 2, 3, 1)


def drawn(shape: tuple, offset: float = 0.0, deviation: float = 1.0) -> tuple[np.ndarray, ...]:
    """x, scales of either sign, and biases, in float64."""
    rng = np.random.default_rng(shape)
    scale = rng.uniform(0.5, 1.5, shape[-1]) * rng.choice([-1, 1], shape[-1])
    return rng.normal(offset, deviation, shape), scale, rng.normal(size=shape[-1])


def reference(values: tuple[np.ndarray, ...], after: dict) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """torch's result in float64, weights of a scalar made of it, and the gradients of that."""
    inputs = [torch.from_numpy(value).requires_grad_() for value in values]
    y = theirs(*inputs, **after)
    weight = np.random.default_rng(1).normal(size=y.shape)
    (y * torch.from_numpy(weight)).sum().backward()
    return y.detach().numpy(), weight, [value.grad.numpy() for value in inputs]


def gradients(values: tuple, weight: np.ndarray, after: dict) -> tuple:
    weight = jnp.asarray(weight, values[0].dtype)
    return jax.grad(lambda *v: (ours(*v, **after) * weight).sum(), (0, 1, 2))(*values)


@pytest.mark.parametrize("after", first(1, AFTER))
@pytest.mark.parametrize(
    ("shape", "offset"), first(1, [((3, 8, 5, 32), 10.0), ((2, 7, 9, 64), 0.0), ((2, 7, 9, 64), 10.0)])
)
@pytest.mark.parametrize("train", first(1, [True, False]))
def test_values_and_gradients(shape, offset, after, train):
    values = drawn(shape, offset)
    y, weight, expected = reference(values, after)
    after = after | {"train": train}
    with jax.enable_x64(True):
        # Float64 throughout: only rounding is left, so a missing term of the gradient can't hide.
        eager = functools.partial(gradients, after=after)
        for function in (eager, jax.jit(eager)):
            for own, value in zip(function(values, weight), expected, strict=True):
                np.testing.assert_allclose(own, value, atol=1e-11)
        np.testing.assert_allclose(ours(*values, **after), y, atol=1e-12)
    single = tuple(jnp.asarray(v, jnp.float32) for v in values)
    assert ours(*single, **after).dtype == jnp.float32
    # x around `offset` is rounded to about 1e-6 of its deviation.
    np.testing.assert_allclose(ours(*single, **after), y, atol=2e-5)
    for own, value in zip(gradients(single, weight, after), expected, strict=True):
        np.testing.assert_allclose(own, value, atol=1e-5 * np.abs(value).max())


def test_far_from_zero():
    values = tuple(v.astype(np.float32) for v in drawn((2, 55, 55, 96), 10, 0.1))
    exact = theirs(*(torch.from_numpy(v).double() for v in values)).numpy()
    in_torch = theirs(*(torch.from_numpy(v) for v in values)).numpy()
    for function in (ours, jax.jit(ours)):
        found = np.asarray(function(*values))
        # The group's mean, about 10, is rounded to 1e-6, which is 1e-5 of the deviation.
        assert np.abs(found - exact).max() < 5e-5
        assert np.abs(found - exact).max() < np.abs(in_torch - exact).max()


@pytest.mark.parametrize("train", first(1, [True, False]))
def test_the_first_of_equal_values_takes_the_gradient(train):
    """Flat regions of an image give equal values, of which torch's pool follows the first."""
    x, scale, bias = drawn((2, 9, 8, 32))
    x = np.round(x)  # few different values
    values, after = (x, scale, bias), dict(relu=True, pool=True)
    y, weight, expected = reference(values, after)
    windows = theirs(*map(torch.from_numpy, values), relu=True).unfold(1, 3, 2).unfold(2, 3, 2)
    largest = windows.amax((-1, -2), keepdim=True)
    assert (((windows == largest).sum((-1, -2)) > 1) & (largest[..., 0, 0] > 0)).float().mean() > 0.3
    with jax.enable_x64(True):
        found = gradients(values, weight, after | {"train": train})
        np.testing.assert_allclose(found[0], expected[0], atol=1e-11)
        # Forward mode follows the same pixels.
        _, along = jax.jvp(lambda x: ours(x, scale, bias, **after), (x,), (np.cos(x),))
        np.testing.assert_allclose((along * weight).sum(), (np.cos(x) * expected[0]).sum(), rtol=1e-10)


def test_where_a_relu_meets_0_its_gradient_is_0():
    """As torch's: an input that is constant, and biases of 0."""
    x, scale, bias = np.ones((1, 4, 4, 32)), np.ones(32), np.zeros(32)
    with jax.enable_x64(True):
        for train in (True, False):
            grads = gradients((x, scale, bias), np.ones(x.shape), dict(relu=True, train=train))
            assert not any(np.any(value) for value in grads)
        assert not jax.jvp(lambda bias: ours(x, scale, bias, relu=True), (bias,), (scale,))[1].any()


@pytest.mark.slow
@pytest.mark.parametrize("after", AFTER)
def test_bfloat16_keeps_its_moments_in_float32(after):
    values = drawn((2, 13, 13, 64), 3)
    x, scale, bias = (jnp.asarray(v, jnp.float32) for v in values)
    x = x.astype(jnp.bfloat16)
    found = ours(x, scale, bias, **after)
    expected = ours(x.astype(jnp.float32), scale, bias, **after)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, expected.astype(jnp.bfloat16))  # rounded once, at the end
    weight = np.random.default_rng(1).normal(size=found.shape)
    to_x, to_scale, to_bias = gradients((x, scale, bias), weight, after)
    assert (to_x.dtype, to_scale.dtype, to_bias.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)


def test_a_damaged_value_shows():
    x, scale, bias = drawn((1, 7, 7, 32))
    x[0, 3, 3, 5] = np.nan
    found = np.asarray(ours(x, scale, bias, relu=True, pool=True))
    assert np.isnan(found[..., 5]).all() and np.isfinite(found[..., 6]).all()


def test_little_is_kept_and_little_is_moved():
    """Of norm, ReLU and pool a training step stores no map besides the convolution's output."""
    x = jax.ShapeDtypeStruct((8, 55, 55, 96), jnp.float32)
    channel = jax.ShapeDtypeStruct((96,), jnp.float32)
    window = jax.ShapeDtypeStruct((8, 27, 27, 96), jnp.float32)

    def fused(x, scale, bias, weight):
        y, back = jax.vjp(functools.partial(ours, relu=True, pool=True, train=True), x, scale, bias)
        return y, back(weight)

    compiled = jax.jit(fused).lower(x, channel, channel, window).compile()
    size = 8 * 55 * 55 * 96 * 4
    # The plain composition moves 33 times x, and holds 7 times x besides it.
    assert compiled.cost_analysis()["bytes accessed"] < 15 * size
    assert compiled.memory_analysis().temp_size_in_bytes < size
