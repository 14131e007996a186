"""The objective against its formula in float64, and against torch's gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp

from ipcl_jax.training.objective import (
    category_loss,
    init_queue,
    ipcl_loss,
    log_normalizer,
    nce_loss,
    prototypes,
    similarities,
    update_queue,
)
from torch_twin import TorchIPCL

B, N_VIEWS, DIM, K, N_IMAGES = 6, 5, 32, 50, 1000
VALUES = dict(n_views=N_VIEWS, n_images=N_IMAGES)
MODES = pytest.mark.parametrize("mode", [lambda f: f, jax.jit], ids=["eager", "jitted"])


def unit(seed: int, *shape: int) -> np.ndarray:
    """Random directions, float64; views of an image share half of theirs."""
    x = np.random.default_rng(seed).normal(size=shape)
    if shape[0] == B * N_VIEWS:
        x += np.repeat(np.random.default_rng(seed + 100).normal(size=(B, *shape[1:])), N_VIEWS, axis=0)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def f32(*arrays: np.ndarray) -> list[jax.Array]:
    return [jnp.asarray(x, jnp.float32) for x in arrays]


def formula(positive: np.ndarray, negative: np.ndarray, Z: float, temperature: float, n_images: int) -> float:
    """The loss as published, in float64."""
    positive, negative = np.asarray(positive, np.float64), np.asarray(negative, np.float64)
    noise, epsilon = negative.shape[1] / n_images, 1e-7
    own, other = np.exp(positive / temperature) / Z, np.exp(negative / temperature) / Z
    right = np.log(own / (own + noise + epsilon)).sum()
    wrong = np.log(noise / (other + noise + epsilon)).sum()
    return -(right + wrong) / len(positive)


# --- the queue ---------------------------------------------------------------------------


def test_first_queue():
    queue = np.asarray(init_queue(jax.random.key(0), 4096, 128))
    assert queue.shape == (4096, 128) and queue.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(queue, axis=1), 1, atol=1e-6)  # float32's rounding
    rng = np.random.default_rng(0)
    expected = rng.uniform(-1, 1, queue.shape)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    # Seeded: uniform before it is scaled, so not a Gaussian's directions (which fail at 1e-20).
    assert stats.ks_2samp(queue.ravel(), expected.ravel()).pvalue > 1e-3
    gaussian = rng.normal(size=queue.shape)
    gaussian /= np.linalg.norm(gaussian, axis=1, keepdims=True)
    assert stats.ks_2samp(queue.ravel(), gaussian.ravel()).pvalue < 1e-10


@MODES
def test_newest_first_and_the_oldest_fall_off(mode):
    update = mode(update_queue)
    rows = jnp.arange(20.0)[:, None] * jnp.ones((1, 3))
    queue = update(rows[:5], rows[5:8])
    np.testing.assert_array_equal(queue[:, 0], [5, 6, 7, 0, 1])
    queue = update(queue, rows[8:10])
    np.testing.assert_array_equal(queue[:, 0], [8, 9, 5, 6, 7])
    np.testing.assert_array_equal(update(queue, rows[10:17])[:, 0], [10, 11, 12, 13, 14])  # more than fit


def test_queue_as_torchs():
    queue, first, second = unit(0, 40, DIM), unit(1, B * N_VIEWS, DIM), unit(2, B * N_VIEWS, DIM)
    twin = TorchIPCL(torch.from_numpy(queue), **VALUES)
    for new in (first, second):
        twin(torch.from_numpy(new))
    ours = update_queue(update_queue(*f32(queue, first)), *f32(second))
    np.testing.assert_array_equal(ours, twin.queue.numpy().astype(np.float32))


# --- its parts ---------------------------------------------------------------------------


@MODES
def test_prototypes(mode):
    x = unit(3, B * N_VIEWS, DIM)
    mean = x.reshape(B, N_VIEWS, DIM).mean(1)
    for normalize in (False, True):
        expected = mean / np.linalg.norm(mean, axis=1, keepdims=True) if normalize else mean
        found = mode(functools.partial(prototypes, n_views=N_VIEWS, normalize=normalize))(*f32(x))
        np.testing.assert_allclose(found, expected, atol=2e-7)  # values below 1 in float32


@MODES
def test_similarities(mode):
    x, own, queue = unit(4, B * N_VIEWS, DIM), unit(5, B, DIM), unit(6, K, DIM)
    positive, negative = mode(similarities)(*f32(x, own, queue))
    # Sums of 32 products of unit vectors in float32.
    np.testing.assert_allclose(positive, (x * np.repeat(own, N_VIEWS, 0)).sum(1), atol=3e-7)
    np.testing.assert_allclose(negative, x @ queue.T, atol=3e-7)


@MODES
def test_normalizer(mode):
    rng = np.random.default_rng(7)
    positive, negative = rng.uniform(-1, 1, 30), rng.uniform(-1, 1, (30, K))
    find = mode(functools.partial(log_normalizer, temperature=0.07, n_images=N_IMAGES))
    expected = np.log(np.exp(np.concatenate([positive, negative.ravel()]) / 0.07).mean() * N_IMAGES)
    # A float32 similarity keeps 14 x 6e-8 of its own error when it is divided by 0.07; log Z is near 20.
    np.testing.assert_allclose(find(*f32(positive, negative)), expected, atol=3e-6)


EXTREMES = {
    "middling": (0.5, 0.3, 1.0),
    "certain: P+ large": (1.0, -0.2, 1e-3),
    "negatives far off: P- tiny": (0.7, -0.999, 1.0),
    "both tiny": (-0.99, -0.99, 1e3),
    "collapsed: all alike": (0.999, 0.998, 1.0),
    "negatives near: P- large": (0.1, 0.99, 1e-3),
}


@MODES
@pytest.mark.parametrize("case", EXTREMES)
def test_loss_at_extremes(mode, case):
    """The paper's sizes: K = 4096 and N = 1.28 million, Z at and far from its usual 1.5e9."""
    positive_mean, negative_mean, scale = EXTREMES[case]
    rng = np.random.default_rng(8)
    positive = (positive_mean + rng.uniform(-1e-3, 1e-3, 20)).clip(-1, 1).astype(np.float32)
    negative = (negative_mean + rng.uniform(-1e-3, 1e-3, (20, 4096))).clip(-1, 1).astype(np.float32)
    log_Z = np.float32(np.log(1.5e9 * scale))
    loss = mode(functools.partial(nce_loss, temperature=0.07, n_images=1_281_167))
    expected = formula(positive, negative, np.exp(np.float64(log_Z)), 0.07, 1_281_167)
    # Similarities are given in float32, so what is measured is the formula's own rounding: exponents of up
    # to 40 are rounded by 2e-6. log(P / (P + ...)) as written would lose all digits of P- tiny.
    np.testing.assert_allclose(loss(positive, negative, log_Z), expected, rtol=2e-6)


@MODES
@pytest.mark.parametrize("temperature", [1e-4, 0.005, 0.011, 0.5, 100.0])
def test_a_temperature_of_any_size_gives_the_formulas_loss(mode, temperature):
    """Below 0.0135, exp(1 / temperature) times ImageNet's N is beyond float32; its logarithm is not."""
    x, queue = f32(unit(19, B * N_VIEWS, DIM), unit(20, K, DIM))
    sizes = dict(temperature=temperature, n_images=1_281_167)
    loss = functools.partial(ipcl_loss, n_views=N_VIEWS, **sizes)
    (found, log_Z), gradient = mode(jax.value_and_grad(loss, has_aux=True))(x, queue, jnp.zeros(()))
    positive, negative = (np.asarray(s, np.float64) for s in similarities(x, prototypes(x, N_VIEWS), queue))
    exponents = np.concatenate([positive, negative.ravel()]) / temperature
    expected = logsumexp(exponents) - np.log(exponents.size / 1_281_167)
    own, other, noise = positive / temperature - expected, negative / temperature - expected, K / 1_281_167
    terms = np.logaddexp(np.log(noise + 1e-7) - own, 0).sum()
    terms += np.logaddexp(np.log1p(1e-7 / noise), other - np.log(noise)).sum()
    # A float32 similarity is off by 1e-7; exponents of that over the temperature are what is added up.
    np.testing.assert_allclose(log_Z, expected, rtol=1e-6, atol=3e-7 / temperature)
    np.testing.assert_allclose(found, terms / len(positive), rtol=5e-6)
    assert np.isfinite(gradient).all()
    _, again = loss(x, queue, log_Z)
    np.testing.assert_array_equal(again, log_Z)


# --- the whole ---------------------------------------------------------------------------


@MODES
@pytest.mark.parametrize("norm_prototype", [False, True])
def test_loss_and_gradient_as_torchs(mode, norm_prototype):
    x, queue = unit(9, B * N_VIEWS, DIM), unit(10, K, DIM)
    for given in (None, 3000.0):  # Z: fixed by this step, or by an earlier one
        twin = TorchIPCL(torch.from_numpy(queue), norm_prototype=norm_prototype, **VALUES)
        twin.Z = None if given is None else torch.tensor(given, dtype=torch.float64)
        input = torch.from_numpy(x).requires_grad_()
        expected = twin(input)
        expected.backward()

        loss = functools.partial(ipcl_loss, norm_prototype=norm_prototype, **VALUES)
        gradient = mode(jax.value_and_grad(loss, has_aux=True))
        start = 0.0 if given is None else np.log(given)
        (found, log_Z), grad = gradient(*f32(x, queue), jnp.asarray(start, jnp.float32))
        # Float32 similarities through exp(. / 0.07): 14 x 6e-8, times a few.
        np.testing.assert_allclose(found, expected.item(), rtol=2e-6)
        np.testing.assert_allclose(log_Z, np.log(twin.Z.item()), rtol=2e-6)
        theirs = input.grad.numpy()
        np.testing.assert_allclose(grad, theirs, atol=5e-6 * np.abs(theirs).max())
        with jax.enable_x64(True):
            (found, log_Z), grad = gradient(jnp.asarray(x), jnp.asarray(queue), jnp.asarray(start))
            # Float64: rounding alone, so no term of the gradient is missing or too many.
            np.testing.assert_allclose(found, expected.item(), rtol=1e-13)
            np.testing.assert_allclose(log_Z, np.log(twin.Z.item()), rtol=1e-13)
            np.testing.assert_allclose(grad, theirs, atol=1e-12 * np.abs(theirs).max())


@MODES
def test_z_is_fixed_by_the_first_step(mode):
    loss = mode(functools.partial(ipcl_loss, **VALUES))
    queue = f32(unit(11, K, DIM))[0]
    first, second = f32(unit(12, B * N_VIEWS, DIM), unit(13, B * N_VIEWS, DIM))
    _, log_Z = loss(first, queue, jnp.zeros(()))
    own = prototypes(first, N_VIEWS)
    expected = log_normalizer(*similarities(first, own, queue), temperature=0.07, n_images=N_IMAGES)
    np.testing.assert_allclose(log_Z, expected, rtol=2e-6)  # jitted and eager exp differ by a few ulp
    value, again = loss(second, queue, log_Z)
    np.testing.assert_array_equal(again, log_Z)
    parts = similarities(second, prototypes(second, N_VIEWS), queue)
    np.testing.assert_allclose(value, formula(*parts, np.exp(float(log_Z)), 0.07, N_IMAGES), rtol=2e-6)
    fresh, other = loss(second, queue, jnp.zeros(()))
    assert abs(other - log_Z) > 1e-3 and abs(fresh / value - 1) > 1e-4  # it matters which step fixes it


def test_no_gradient_through_z_prototypes_or_queue():
    x, queue = f32(unit(14, B * N_VIEWS, DIM), unit(15, K, DIM))

    def through_z(x):
        return ipcl_loss(x, queue, jnp.zeros(()), **VALUES)[1]

    def through_prototypes(x):
        return prototypes(x, N_VIEWS).sum()

    def through_queue(x):
        return update_queue(queue, x).sum()

    for function in (through_z, through_prototypes, through_queue):
        np.testing.assert_array_equal(jax.grad(function)(x), jnp.zeros_like(x))


def test_evaluating_leaves_the_queue_alone():
    x, queue = f32(unit(16, B * N_VIEWS, DIM), unit(17, K, DIM))
    before = np.array(queue)
    loss = jax.jit(functools.partial(ipcl_loss, **VALUES))
    first = loss(x, queue, jnp.zeros(()))
    assert [r.shape for r in first] == [(), ()]  # a loss and log Z; no queue comes back
    np.testing.assert_array_equal(queue, before)
    twin = TorchIPCL(torch.from_numpy(before), **VALUES)
    twin.training = False
    twin(torch.from_numpy(np.array(x)))
    np.testing.assert_array_equal(twin.queue.numpy(), before)


@MODES
def test_category_loss_is_torchs(mode):
    rng = np.random.default_rng(18)
    logits, labels = rng.normal(size=(B * N_VIEWS, DIM)) * 20, rng.integers(0, DIM, B)
    with jax.enable_x64(True):
        loss = functools.partial(category_loss, n_views=N_VIEWS)
        found, grad = mode(jax.value_and_grad(loss))(jnp.asarray(logits), jnp.asarray(labels))
    tensor = torch.from_numpy(logits).requires_grad_()
    classes = torch.from_numpy(labels).repeat_interleave(N_VIEWS)
    expected = torch.nn.functional.cross_entropy(tensor, classes)
    expected.backward()
    np.testing.assert_allclose(found, expected.item(), rtol=1e-12)  # float64
    np.testing.assert_allclose(grad, tensor.grad, atol=1e-14)
