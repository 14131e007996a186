"""The network against its torch twin: activations, statistics, initialisation, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy import stats

from ipcl_jax.models import AlexNetGN
from ipcl_jax.models.layers import BatchNorm, adaptive_average_pool
from thinning import first
from torch_twin import (
    TorchAlexNetGN,
    all_layers,
    channel_first,
    channel_last,
    images,
    shake,
    to_flax,
    to_torch,
)

NARROW = 256  # of fc6 and fc7, which are 4096 wide in the paper
MODEL = AlexNetGN(fc_dim=NARROW)
# Both sides sum up to 9,216 float32 products in different orders; that leaves about 2e-6 of a layer's
# largest value after eight layers. A wrong epsilon or variance would show at 1e-4 or more.
CLOSE = 1e-5


@pytest.fixture(scope="module")
def twin() -> TorchAlexNetGN:
    torch.manual_seed(0)
    return shake(TorchAlexNetGN(fc_dim=NARROW), seed=1)


@pytest.fixture(scope="module")
def variables(twin) -> dict:
    return jax.tree.map(jnp.asarray, to_flax(twin.state_dict()))


def far(found: dict, expected: dict[str, torch.Tensor]) -> dict[str, float]:
    """Largest error of each layer, as a share of the layer's largest value."""
    errors = {}
    for name, value in expected.items():
        value = channel_last(value)
        assert found[name].shape == value.shape, name
        errors[name] = np.abs(np.asarray(found[name]) - value).max() / np.abs(value).max()
    return errors


def assert_close(errors: dict[str, float], tolerance: float) -> None:
    assert {name: error for name, error in errors.items() if not error < tolerance} == {}


@pytest.mark.parametrize(("height", "width"), first(1, [(63, 63), (97, 130), (224, 224), (192, 192), (64, 64)]))
def test_every_layer_in_evaluation(twin, variables, height, width):
    x = images(2, height, width)
    expected = all_layers(twin.eval(), channel_first(x))
    embedding, found = MODEL.apply(variables, x, layers=MODEL.layer_names)
    assert tuple(found) == MODEL.layer_names and len(found) == 35
    assert set(found) == set(expected)
    assert_close(far(found, expected), CLOSE)
    np.testing.assert_array_equal(embedding, found["l2norm"])


@pytest.mark.slow
@pytest.mark.parametrize("size", [(224, 224), (97, 130)])
def test_every_layer_of_the_papers_width(size):
    torch.manual_seed(0)
    twin, x = shake(TorchAlexNetGN(), seed=1).eval(), images(2, *size)
    found = AlexNetGN().apply(to_flax(twin.state_dict()), x, layers=MODEL.layer_names)[1]
    assert_close(far(found, all_layers(twin, channel_first(x))), CLOSE)


def test_every_layer_and_statistic_in_training(twin, variables):
    x = images(24, 64, 64)
    before = {key: value.clone() for key, value in twin.state_dict().items()}
    expected = all_layers(twin.train(), channel_first(x))
    after = to_flax(twin.state_dict())["batch_stats"]
    twin.load_state_dict(before)

    (_, found), changed = MODEL.apply(
        variables, x, train=True, layers=MODEL.layer_names, mutable=["batch_stats"]
    )
    # Dividing by the deviation of 24 embeddings magnifies what the convolutions leave, to 8e-6.
    assert_close(far(found, expected), 2 * CLOSE)
    for norm, statistics in after.items():
        for name, value in statistics.items():
            error = np.abs(changed["batch_stats"][norm][name] - value).max() / np.abs(value).max()
            assert error < 2e-6, (norm, name)  # one mean over the batch after fc's own rounding
            moved = np.abs(value - variables["batch_stats"][norm][name]).max()
            assert moved > 1e-3, (norm, name)


def test_jitted_equals_eager(variables):
    x = images(2, 97, 130)

    def forward(variables, x):
        return MODEL.apply(variables, x, layers=MODEL.layer_names)[1]

    eager, jitted = forward(variables, x), jax.jit(forward)(variables, x)
    # Fusion regroups the norms' sums, nothing else.
    expected = {name: torch.from_numpy(np.array(v)).movedim(-1, 1) for name, v in eager.items()}
    assert_close(far(jitted, expected), CLOSE)


def test_names_a_supervised_model_and_a_narrow_one():
    supervised = AlexNetGN(out_dim=1000, l2norm=False, fc_dim=32)
    torch.manual_seed(2)
    twin = shake(TorchAlexNetGN(1000, False, 32), seed=2).eval()
    x = images(2, 64, 64)
    logits, found = supervised.apply(to_flax(twin.state_dict()), x, layers=supervised.layer_names)
    assert logits.shape == (2, 1000)
    assert_close(far(found, all_layers(twin, channel_first(x))), CLOSE)


def test_the_twin_survives_both_conversions(twin, variables):
    there_and_back = to_torch(variables)
    assert set(there_and_back) == set(twin.state_dict())
    for key, value in twin.state_dict().items():
        assert torch.equal(there_and_back[key], value), key


# --- parameters --------------------------------------------------------------------------


def test_parameter_count():
    with torch.device("meta"):
        twin = TorchAlexNetGN()
    shapes = jax.eval_shape(AlexNetGN().init, jax.random.key(0), jnp.zeros((2, 64, 64, 3)))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    assert count == sum(p.numel() for p in twin.parameters()) == 58_823_520


@pytest.mark.slow
def test_initialisation_is_torchs():
    torch.manual_seed(3)
    fresh = TorchAlexNetGN(fc_dim=512)  # the width only scales the bound, which is checked
    ours = AlexNetGN(fc_dim=512).init(jax.random.key(3), jnp.zeros((2, 64, 64, 3)))
    expected = to_flax(fresh.state_dict())
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    for path, value in jax.tree_util.tree_leaves_with_path(expected):
        own = ours
        for part in path:
            own = own[part.key]
        own, name = np.asarray(own), jax.tree_util.keystr(path)
        assert own.shape == value.shape and own.dtype == value.dtype, name
        if name.endswith("['kernel']") or "linear" in name:
            module, leaf = path[1].key, path[2].key
            fan_in = np.prod(expected["params"][module]["kernel"].shape[:-1])
            assert np.abs(own).max() <= fan_in**-0.5 * (1 + 1e-6), name
            some = np.random.default_rng(4).permutation(own.size)[:20_000]
            # Seeded, so this can't fail by chance: 16 tests, each at a level of 1 in 1,000.
            assert stats.ks_2samp(own.ravel()[some], value.ravel()[some]).pvalue > 1e-3, name
            scaled = stats.uniform(-(fan_in**-0.5), 2 * fan_in**-0.5)
            assert stats.kstest(own.ravel()[some], scaled.cdf).pvalue > 1e-3, (name, leaf)
        else:
            np.testing.assert_array_equal(own, value, err_msg=name)


# --- asking for layers -------------------------------------------------------------------


def test_a_layer_that_is_not_there():
    narrow = dict(fc_dim=8, out_dim=8)
    shapes = jax.eval_shape(AlexNetGN(**narrow).init, jax.random.key(0), jnp.zeros((2, 64, 64, 3)))

    def ask(model: AlexNetGN, name: str) -> None:
        jax.eval_shape(lambda v: model.apply(v, jnp.zeros((2, 64, 64, 3)), layers=[name]), shapes)

    with pytest.raises(ValueError, match="No layer 'l2norm'.*conv_block_1.0, .*, fc8[.]"):
        ask(AlexNetGN(l2norm=False, **narrow), "l2norm")
    with pytest.raises(ValueError, match="did you mean 'conv_block_5'"):
        ask(AlexNetGN(**narrow), "conv_blok_5")


def test_images_too_small():
    with pytest.raises(ValueError, match="62x80.*63x63"):
        jax.eval_shape(AlexNetGN(fc_dim=8).init, jax.random.key(0), jnp.zeros((2, 62, 80, 3)))


def test_layers_nobody_asked_for_cost_nothing(variables):
    def flops(*layers: str) -> float:
        def forward(variables, x):
            return MODEL.apply(variables, x, layers=layers)[1]

        x = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
        return jax.jit(forward).lower(variables, x).compile().cost_analysis()["flops"]

    first, everything = flops("conv_block_1"), flops(*MODEL.layer_names)
    convolution = 2 * 55 * 55 * 96 * 11 * 11 * 3
    # Norm, ReLU and pool add a few operations for each of the convolution's outputs.
    assert 0.95 * convolution < first < 1.1 * convolution
    assert everything > 9 * first


# --- single layers -----------------------------------------------------------------------


def test_batch_norm_gradients_and_statistics():
    rng = np.random.default_rng(7)
    x, weight = rng.normal(1, 2, (10, 6)), rng.normal(size=(10, 6))
    theirs = torch.nn.BatchNorm1d(6).double()
    input = torch.from_numpy(x).requires_grad_()
    (theirs(input) * torch.from_numpy(weight)).sum().backward()
    with jax.enable_x64(True):
        layer = BatchNorm()
        params = {"scale": np.ones(6), "bias": np.zeros(6)}
        statistics = {"mean": np.zeros(6), "var": np.ones(6)}

        def loss(x, params):
            variables = {"params": params, "batch_stats": statistics}
            out, changed = layer.apply(variables, x, train=True, mutable=["batch_stats"])
            return (out * weight).sum(), changed["batch_stats"]

        (grad_x, grad_params), changed = jax.grad(loss, (0, 1), has_aux=True)(x, params)
    # Float64: only rounding is left. Feeding the biased variance would be off by a tenth of it.
    np.testing.assert_allclose(grad_x, input.grad.numpy(), atol=1e-12)
    np.testing.assert_allclose(grad_params["scale"], theirs.weight.grad.numpy(), atol=1e-12)
    np.testing.assert_allclose(grad_params["bias"], theirs.bias.grad.numpy(), atol=1e-12)
    np.testing.assert_allclose(changed["mean"], theirs.running_mean.numpy(), atol=1e-14)
    np.testing.assert_allclose(changed["var"], theirs.running_var.numpy(), atol=1e-14)


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 3), (2, 5), (4, 6), (5, 5), (6, 7), (6, 6), (7, 11), (13, 12), (17, 30)]
)
def test_adaptive_average_pool(size):
    rng = np.random.default_rng(8)
    x, weight = rng.normal(size=(2, *size, 3)), rng.normal(size=(2, 6, 6, 3))
    input = channel_first(x).requires_grad_()
    expected = torch.nn.functional.adaptive_avg_pool2d(input, 6)
    (expected * channel_first(weight)).sum().backward()
    with jax.enable_x64(True):
        # Float64: means of at most 30 pixels differ by rounding alone.
        found = jax.jit(adaptive_average_pool, static_argnums=1)(x, 6)
        np.testing.assert_allclose(found, channel_last(expected), atol=1e-13)
        gradient = jax.grad(lambda x: (adaptive_average_pool(x, 6) * weight).sum())(jnp.asarray(x))
        np.testing.assert_allclose(gradient, channel_last(input.grad), atol=1e-13)
    single = adaptive_average_pool(jnp.asarray(x, jnp.float32), 6)
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, channel_last(expected), atol=1e-6)  # float32's rounding, values of 3
