"""Derivatives of networks outside training, in forward and reverse mode, against finite differences in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipcl_jax.activations.encoder import Encoder, expected_variables
from ipcl_jax.activations.extract import extract
from ipcl_jax.config import Model
from thinning import first

MODELS = {
    "alexnet_gn": (Model(fc_dim=32, out_dim=8), 63, "l2norm"),
    # Deeper blocks are made of the same parts, and take long to compile.
    "resnet18, group": (Model(arch="resnet18", norm="group", out_dim=8), 32, "layer2.0"),
    "resnet18, batch": (Model(arch="resnet18", norm="batch", out_dim=8), 32, "layer2.0"),
}


def drawn(model: Model) -> Encoder:
    """A network of float64 weights around 0; scales and variances around 1."""
    rng = np.random.default_rng(0)

    def weights(path, leaf) -> jnp.ndarray:
        around = 1 if path[-1].key in ("scale", "var") else 0
        return jnp.asarray(rng.uniform(around - 0.2, around + 0.2, leaf.shape), jnp.float64)

    return Encoder(variables=jax.tree.map_with_path(weights, expected_variables(model)), model=model)


@pytest.mark.parametrize("name", first(1, sorted(MODELS, reverse=True)))
def test_forward_and_reverse_mode_equal_finite_differences(name):
    model, side, layer = MODELS[name]
    rng = np.random.default_rng(0)
    image, direction = rng.normal(size=(2, 1, side, side, 3))
    with jax.enable_x64(True):
        encoder = drawn(model)

        @jax.jit
        def derivatives(image):
            def value(image):
                activations = extract(encoder, image, layer)[layer]
                return jnp.vdot(activations, jnp.cos(jnp.arange(activations.size)))

            found, forward = jax.jvp(value, (image,), (direction,))
            return jnp.stack([found, forward, (jax.grad(value)(image) * direction).sum()])

        step = 1e-6
        below, here, above = (np.asarray(derivatives(image + by * direction)) for by in (-step, 0, step))
        np.testing.assert_allclose(here[1:], (above - below)[0] / (2 * step), rtol=1e-6)


@pytest.mark.slow
def test_every_transformation_of_extract():
    image = np.random.default_rng(0).normal(0, 0.3, size=(1, 63, 63, 3))
    with jax.enable_x64(True):
        encoder, one = drawn(Model(fc_dim=32, out_dim=4)), jnp.float64(1)

        def of(strength):
            return (extract(encoder, strength * image, "conv_block_1")["conv_block_1"] ** 2).mean()

        slope, step = jax.jit(jax.jacfwd(of)), 1e-5
        by_difference = (of(1 + step) - of(1 - step)) / (2 * step)
        for found in (slope(one), jax.jvp(of, (one,), (one,))[1], jax.linearize(of, one)[1](one), jax.grad(of)(one)):
            np.testing.assert_allclose(found, by_difference, rtol=1e-6)
        by_difference = (slope(1 + step) - slope(1 - step)) / (2 * step)
        np.testing.assert_allclose(jax.hessian(of)(one), by_difference, rtol=1e-4)
