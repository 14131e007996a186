"""`extract`: layers by name, compiled once, differentiable; projections and pooling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipcl_jax import extract
from ipcl_jax.activations.encoder import Encoder, init_encoder
from ipcl_jax.activations.extract import compute, plan, reduced
from ipcl_jax.activations.projection import make_projection, project
from ipcl_jax.config import Model

F32 = jnp.dtype("float32")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return init_encoder(Model(fc_dim=64), std=(0.2, 0.25, 0.3), mean=(0.5, 0.4, 0.3))


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.kron(rng.integers(0, 256, (3, 8, 8, 3)), np.ones((1, 9, 9, 1))).astype(
        np.uint8
    )  # [3, 72, 72, 3]


@pytest.fixture(scope="module")
def images(encoder, pixels) -> np.ndarray:
    return ((pixels / 255 - np.array(encoder.mean)) / np.array(encoder.std)).astype(np.float32)


def test_layers_in_the_order_asked_for(encoder, images):
    found = extract(encoder, images, ["l2norm", "conv_block_1.0", "fc7"])
    assert list(found) == ["l2norm", "conv_block_1.0", "fc7"]
    assert {name: value.shape for name, value in found.items()} == {
        "l2norm": (3, 128), "conv_block_1.0": (3, 17, 17, 96), "fc7": (3, 64),
    }  # fmt: skip
    assert all(value.dtype == jnp.float32 for value in found.values())
    np.testing.assert_array_equal(extract(encoder, images, "fc7")["fc7"], found["fc7"])


def test_pixels_are_normalised_as_the_model_wants(encoder, pixels, images):
    with_pixels, with_floats = extract(encoder, pixels, "fc8")["fc8"], extract(encoder, images, "fc8")["fc8"]
    # The images differ by one rounding.
    np.testing.assert_allclose(with_pixels, with_floats, atol=2e-6 * np.abs(with_floats).max())


def test_compiled_once_for_models_of_one_kind(encoder, images):
    compute.clear_cache()
    other = init_encoder(encoder.model, seed=1, mean=encoder.mean, std=encoder.std, name="other")
    for model in (encoder, other, jax.tree.map(lambda x: x * 0.9, encoder)):
        extract(model, images, ("fc7", "fc8"))
    assert compute._cache_size() == 1
    extract(encoder, images[:2], ("fc7", "fc8"))
    assert compute._cache_size() == 2


def test_deeper_layers_cost_nothing(encoder):
    x = jax.ShapeDtypeStruct((3, 72, 72, 3), F32)

    def flops(layer: str) -> float:
        return compute.lower(encoder, x, (layer,), F32).compile().cost_analysis()["flops"]

    first, second, last = flops("conv_block_1.0"), flops("conv_block_2.0"), flops("l2norm")
    convolution = 2 * 3 * 17 * 17 * 96 * 11 * 11 * 3
    assert first < 1.05 * convolution  # nothing but that one convolution
    assert 3 * first < second < 0.7 * last


@pytest.mark.slow
def test_differentiable_and_vmappable(encoder, images):
    def energy(model, x):
        return jnp.square(extract(model, x, "fc7")["fc7"]).sum()

    by_model, by_image = jax.grad(energy, argnums=(0, 1))(encoder, images)
    assert isinstance(by_model, Encoder) and by_image.shape == images.shape
    step = 1e-2 * by_image / jnp.linalg.norm(by_image)
    change = energy(encoder, images + step) - energy(encoder, images - step)
    slope = 2 * jnp.sum(by_image * step)
    np.testing.assert_allclose(change, slope, rtol=2e-2)  # a secant, across some kinks

    one_by_one = jax.vmap(lambda x: extract(encoder, x[None], "fc8")["fc8"][0])(images)
    expected = extract(encoder, images, "fc8")["fc8"]
    np.testing.assert_allclose(
        one_by_one, expected, atol=2e-6 * np.abs(expected).max()
    )  # another order of sums
    models = jax.tree.map(lambda *leaves: jnp.stack(leaves), encoder, init_encoder(encoder.model, seed=1,
                          mean=encoder.mean, std=encoder.std))  # fmt: skip
    both = jax.vmap(lambda model: extract(model, images, "fc8")["fc8"])(models)
    np.testing.assert_allclose(both[0], expected, atol=2e-6 * np.abs(expected).max())


@pytest.mark.slow
def test_bfloat16_errs_by_what_its_docstring_says(encoder, images):
    exact = extract(encoder, images, encoder.layer_names)
    rough = extract(encoder, images, encoder.layer_names, dtype=jnp.bfloat16)
    errors = {
        name: float(jnp.abs(rough[name] - exact[name]).max() / jnp.abs(exact[name]).max()) for name in exact
    }
    assert all(value.dtype == jnp.float32 for value in rough.values())
    # bfloat16 rounds each operand by up to 2^-9; that adds up to a few thousandths a layer.
    assert 1e-3 < max(errors.values()) < 2e-2, errors


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x: x[0], r"For one image: imgs\[None\]"),
        (lambda x: x.transpose(0, 3, 1, 2), "Channels come last"),
        (lambda x: x[..., :2], r"expected \[B, H, W, 3\]"),
        (lambda x: (x - x.min()) * 100, "look like 0-255 floats"),
        (lambda x: x * 3, "not normalised as this model wants"),
        (lambda x: np.where(x == x.max(), np.nan, x), "not finite"),
        (lambda x: x[:, :40], "needs 63x63 at least"),
    ],
    ids=["one", "channel-first", "two-channels", "255", "wide", "nan", "small"],
)
def test_images_that_are_not_right(change, message, encoder, images):
    with pytest.raises(ValueError, match=message):
        extract(encoder, change(images).astype(np.float32), "fc7")


def test_other_mistakes(encoder, images):
    with pytest.raises(ValueError, match="did you mean 'fc7'.* It has: conv_block_1.0, "):
        extract(encoder, images, ["fc77"])
    with pytest.raises(ValueError, match="No layers are asked for"):
        extract(encoder, images, [])
    with pytest.raises(TypeError, match="expected uint8 in 0-255"):
        extract(encoder, (images * 10).astype(int), "fc7")
    with pytest.raises(TypeError, match="params is a dict, expected an Encoder"):
        extract(encoder.variables, images, "fc7")
    with pytest.warns(UserWarning, match="as if it were not normalised"):
        extract(encoder, np.abs(images) / 4, "fc7")
    supervised = init_encoder(Model(fc_dim=64, out_dim=10, l2norm=False), mean=encoder.mean, std=encoder.std)
    with pytest.raises(ValueError, match="No layer 'l2norm' in this model: it does not scale"):
        extract(supervised, images, "l2norm")


# --- reductions ----------------------------------------------------------------------------


def test_a_projection_equals_its_matrix_and_keeps_lengths():
    features = np.random.default_rng(0).normal(size=(5, 3000)).astype(np.float32) * np.arange(1, 6)[:, None]
    projection = make_projection(3, 3000, 700)
    matrix = np.zeros((700, 3000))
    np.add.at(
        matrix,
        (np.arange(700)[:, None], np.asarray(projection.columns)),
        np.asarray(projection.values, float),
    )
    found = project(jnp.asarray(features), projection)
    expected = features @ matrix.T
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())  # float32 sums of 55
    np.testing.assert_allclose(
        jax.jit(project)(features, projection), found, atol=1e-6 * np.abs(expected).max()
    )
    # The squared length has a relative deviation of about sqrt(2 / 700) = 0.053.
    ratio = np.square(expected).sum(1) / np.square(features).sum(1)
    assert np.abs(ratio - 1).max() < 4 * 0.053 and np.abs(ratio - 1).max() > 1e-4
    again = make_projection(3, 3000, 700)
    np.testing.assert_array_equal(again.columns, projection.columns)
    assert not np.array_equal(make_projection(4, 3000, 700).columns, projection.columns)


def test_reductions_happen_in_order(encoder, pixels):
    layers = dict.fromkeys(["conv_block_1", "fc7"])
    whole = reduced(encoder, pixels, layers, pool=None, dtype=F32, stored=F32)
    np.testing.assert_array_equal(whole["fc7"], extract(encoder, pixels, "fc7")["fc7"])
    for pool, function in (("mean", np.mean), ("max", np.max)):
        found = reduced(encoder, pixels, layers, pool=pool, dtype=F32, stored=F32)
        expected = function(np.asarray(whole["conv_block_1"]), axis=(1, 2))
        np.testing.assert_allclose(found["conv_block_1"], expected, rtol=1e-5, atol=1e-6)  # order of the sum
        np.testing.assert_array_equal(found["fc7"], whole["fc7"])
    projection = make_projection(0, 96, 20)
    found = reduced(
        encoder, pixels, {"conv_block_1": projection}, pool="max", dtype=F32, stored=jnp.dtype("float16")
    )
    pooled = np.asarray(whole["conv_block_1"]).max((1, 2))
    assert found["conv_block_1"].dtype == jnp.float16
    np.testing.assert_allclose(
        found["conv_block_1"], project(pooled, projection), rtol=1e-3, atol=1e-3
    )  # float16


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["alexnet_gn", "resnet18"])
def test_convolutions_a_few_images_at_a_time(arch):
    """Layers before and after the convolutions' end, pooled and projected, equal those of the whole batch."""
    model = init_encoder(Model(arch=arch, fc_dim=64))
    middle, last = {"alexnet_gn": ("conv_block_3.2", "fc6.1"), "resnet18": ("layer2.0.bn1", "fc")}[arch]
    side = 65 if arch == "alexnet_gn" else 33
    batch = np.random.default_rng(2).integers(0, 256, (5, side, side, 3), np.uint8)
    end = model.module.pooled_layer
    shape = extract(model, batch, end)[end].shape[1:]
    everything = {middle: None, end: make_projection(0, shape[-1], 20), last: None, "l2norm": None}
    for pool, projections in (("mean", everything), (None, {middle: None}), (None, {last: None})):
        kinds = dict(pool=pool, dtype=F32, stored=F32)
        whole = reduced(model, batch, projections, **kinds)
        found = reduced(model, batch, projections, chunk=2, **kinds)  # the fifth image is left over
        assert set(found) == set(whole)
        for name, value in whole.items():
            assert found[name].shape == value.shape, name
            # Another batch size may sum in another order.
            np.testing.assert_allclose(found[name], value, atol=3e-6 * np.abs(value).max(), rtol=0)


def test_the_plan_says_what_comes(encoder):
    planned = plan(encoder, ["conv_block_1", "fc8"], size=72, pool=None, n_components=128)
    assert planned == {
        "conv_block_1": ((8, 8, 96), True),
        "fc8": ((128,), False),
    }  # fc8 has no more than that
    assert plan(encoder, ["conv_block_1"], size=72, pool="mean") == {"conv_block_1": ((96,), False)}
