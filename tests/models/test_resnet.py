"""ResNets against their torch twin: activations, statistics, gradients, initialisation; and in training."""

import copy
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import NamedSharding, PartitionSpec
from scipy import stats

from ipcl_jax import training
from ipcl_jax.config import Model, Objective, Optim, Schedule, Train, Views
from ipcl_jax.errors import ConfigError
from ipcl_jax.models import AlexNetGN, ResNet, make_model
from ipcl_jax.run.checkpoints import Checkpoints
from thinning import first
from torch_resnet import TorchResNet, to_flax, weather
from torch_twin import all_layers, channel_first, channel_last, images


@functools.cache
def twin_of(arch: str, norm: str) -> TorchResNet:
    torch.manual_seed(0)
    return weather(TorchResNet(arch, norm), channel_first(images(4, 129, 129)), seed=1)


def double_twin(arch: str, norm: str) -> TorchResNet:
    return copy.deepcopy(twin_of(arch, norm)).double()


@functools.cache
def forward(arch: str, norm: str):
    """Variables, images to every layer, jitted."""
    model = ResNet(arch, norm)
    return jax.jit(lambda variables, x: model.apply(variables, x, layers=model.layer_names))


def far(found: dict, expected: dict) -> dict[str, float]:
    """Largest error of each array, as a share of the expected array's largest value."""
    assert set(found) == set(expected)
    errors = {}
    for name, value in expected.items():
        value = channel_last(value) if isinstance(value, torch.Tensor) else np.asarray(value)
        assert found[name].shape == value.shape and found[name].dtype == value.dtype, name
        errors[name] = np.abs(np.asarray(found[name]) - value).max() / np.abs(value).max()
    return errors


def leaves(tree: dict) -> dict:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def assert_close(errors: dict[str, float], tolerance: float) -> None:
    assert {name: error for name, error in errors.items() if not error < tolerance} == {}


# --- against torch -----------------------------------------------------------------------


@pytest.mark.parametrize("arch, norm, side", first(1, [
    ("resnet18", "batch", 224),
    ("resnet18", "group", 161),
    ("resnet50", "batch", 192),
    ("resnet50", "group", 224),
]))  # fmt: skip
def test_every_layer_in_evaluation(arch, norm, side):
    twin, x = twin_of(arch, norm), images(2, side, side)
    embedding, found = forward(arch, norm)(to_flax(twin.state_dict()), x)
    # Rounding, which 50 layers with fixed statistics carry on to 5e-6; torch's own distance from
    # float64 is as large.
    assert_close(far(found, all_layers(twin, channel_first(x))), 1e-5)
    np.testing.assert_array_equal(embedding, found["l2norm"])


@pytest.mark.parametrize(
    "arch, norm, size",
    first(
        1,
        [
            ("resnet18", "group", (32, 32)),  # the smallest
            ("resnet18", "batch", (161, 161)),
            ("resnet50", "batch", (161, 161)),
            ("resnet18", "group", (45, 70)),
        ],
    ),
)
def test_every_layer_in_float64(arch, norm, size):
    twin, x = double_twin(arch, norm), images(2, *size).astype(np.float64)
    expected = all_layers(twin, channel_first(x))
    with jax.enable_x64(True):
        _, found = forward(arch, norm)(to_flax(twin.state_dict()), x)
        # Only rounding is left, so no epsilon, stride or padding can be another.
        assert_close(far(found, expected), 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("arch, norm", [("resnet18", "group"), ("resnet50", "batch")])
def test_gradients_and_statistics_in_training(arch, norm):
    twin, x = double_twin(arch, norm).train(), images(4, 45, 45).astype(np.float64)
    variables = to_flax(twin.state_dict())
    weight = np.random.default_rng(2).normal(size=(4, 128))
    embedding = twin(channel_first(x))
    (embedding * torch.from_numpy(weight)).sum().backward()
    expected = to_flax({name: parameter.grad for name, parameter in twin.named_parameters()})["params"]
    after = to_flax(twin.state_dict())["batch_stats"]

    def loss(params, statistics, x):
        out, changed = ResNet(arch, norm).apply(
            {"params": params, "batch_stats": statistics}, x, train=True, mutable=["batch_stats"]
        )
        return (out[0] * weight).sum(), (out[0], changed.get("batch_stats", {}))

    with jax.enable_x64(True):
        gradient = jax.jit(jax.grad(loss, has_aux=True))
        grads, (out, changed) = gradient(variables["params"], variables["batch_stats"], x)
        # Float64: rounding alone. Feeding the biased variance would be off by a tenth of it in layer4.
        assert_close(far({"out": out}, {"out": embedding}), 1e-12)
        assert_close(far(leaves(grads), leaves(expected)), 1e-12)
        assert_close(far(leaves(changed), leaves(after)), 1e-12)
    for name, value in leaves(after).items():
        assert np.abs(value - leaves(variables["batch_stats"])[name]).max() > 1e-3, name
    assert bool(after) == (norm == "batch")


@pytest.mark.slow
def test_a_supervised_model_eagerly():
    torch.manual_seed(3)
    twin = weather(TorchResNet("resnet18", "batch", 1000, False), channel_first(images(8, 96, 96)), seed=3)
    model, x = ResNet(norm="batch", out_dim=1000, l2norm=False), images(2, 64, 64)
    logits, found = model.apply(to_flax(twin.state_dict()), x, layers=model.layer_names)
    assert tuple(found) == model.layer_names and model.layer_names[-1] == "fc"
    assert_close(far(found, all_layers(twin, channel_first(x))), 1e-5)
    np.testing.assert_array_equal(logits, found["fc"])


@pytest.mark.slow
def test_bfloat16_keeps_norms_and_unit_length_in_float32():
    variables, x = to_flax(twin_of("resnet18", "batch").state_dict()), images(2, 64, 64)
    model = ResNet(norm="batch", dtype=jnp.bfloat16)
    rough, found = jax.jit(lambda x: model.apply(variables, x, layers=["layer1", "fc"]))(x)
    assert {name: value.dtype for name, value in found.items()} == dict.fromkeys(found, jnp.bfloat16)
    exact, _ = ResNet(norm="batch").apply(variables, x)
    assert_close(far({"embedding": rough}, {"embedding": exact}), 0.03)  # 2^-9 an operand, 21 layers on
    np.testing.assert_allclose(jnp.linalg.norm(rough, axis=-1), 1, atol=1e-6)


@pytest.mark.slow
def test_batch_norm_over_several_devices():
    x, variables = images(8, 32, 32), to_flax(twin_of("resnet18", "batch").state_dict())

    @jax.jit
    def train(x):
        return ResNet(norm="batch").apply(variables, x, train=True, mutable=["batch_stats"])

    mesh = jax.make_mesh((4,), ("data",))
    (one, _), one_changed = train(x)
    (four, _), four_changed = train(jax.device_put(x, NamedSharding(mesh, PartitionSpec("data"))))
    # Sums are grouped by device. Statistics of a device's own two images would be off by a tenth.
    assert_close(far({"embedding": four}, {"embedding": one}), 1e-5)
    assert_close(far(leaves(four_changed), leaves(one_changed)), 1e-5)


# --- parameters --------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("arch, count", [("resnet18", 11_689_512), ("resnet50", 25_557_032)])
def test_parameters_are_torchvisions(arch, norm, count):
    model = ResNet(arch, norm, out_dim=1000, l2norm=False)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((2, 64, 64, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == count
    assert ("batch_stats" in shapes) == (norm == "batch")

    state_dict = TorchResNet(arch, norm, 1000, False).state_dict()
    ours = {module.replace("_", ".") for kind in shapes.values() for module in kind}
    assert ours == {key.rsplit(".", 1)[0] for key in state_dict}
    converted = {kind: tree for kind, tree in to_flax(state_dict).items() if tree}
    assert jax.tree.map(jnp.shape, converted) == jax.tree.map(lambda leaf: leaf.shape, dict(shapes))


@pytest.mark.slow
def test_initialisation_is_torchvisions():
    torch.manual_seed(4)
    expected = leaves(to_flax(TorchResNet("resnet18").state_dict())["params"])
    ours = leaves(start().params)
    assert set(ours) == set(expected)
    rng = np.random.default_rng(5)
    for name, value in expected.items():
        own = np.asarray(ours[name])
        assert own.shape == value.shape and own.dtype == value.dtype, name
        if "kernel" not in name and "fc" not in name:
            np.testing.assert_array_equal(own, value, err_msg=name)
            continue
        if own.ndim == 4:
            fan_out = own.shape[0] * own.shape[1] * own.shape[3]
            scaled = stats.norm(0, (2 / fan_out) ** 0.5)
        else:
            bound = expected["['fc']['kernel']"].shape[0] ** -0.5
            scaled = stats.uniform(-bound, 2 * bound)
        # Seeded, so this can't fail by chance: 44 draws, each at a level of 1 in 10,000.
        for drawn in (own, value):
            some = rng.permutation(drawn.ravel())[:20_000]
            assert stats.kstest(some, scaled.cdf).pvalue > 1e-4, name


# --- asking for layers -------------------------------------------------------------------


def test_layers_that_are_not_there():
    def ask(name: str, model: ResNet | AlexNetGN) -> None:
        shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((2, 64, 64, 3)))
        jax.eval_shape(lambda v, x: model.apply(v, x, layers=[name]), shapes, jnp.zeros((2, 64, 64, 3)))

    with pytest.raises(ValueError, match="'layer1.0.cnv1' in this model; did you mean 'layer1.0.conv1'"):
        ask("layer1.0.cnv1", ResNet())
    with pytest.raises(ValueError, match="No layer 'conv_block_5' in this model. It has: conv1, .*, l2norm"):
        ask("conv_block_5", ResNet())  # nothing is near, so nothing is suggested
    for model, last in ((ResNet(l2norm=False), "fc"), (AlexNetGN(l2norm=False, fc_dim=8), "fc8")):
        with pytest.raises(ValueError, match=f"does not scale its embedding, which is '{last}'. It has: "):
            ask("l2norm", model)


def test_what_no_resnet_is():
    with pytest.raises(ValueError, match="31x40 pixels; resnet18 needs 32x32"):
        jax.eval_shape(ResNet().init, jax.random.key(0), jnp.zeros((2, 31, 40, 3)))
    with pytest.raises(ValueError, match="'resnet34'.*resnet18, resnet50"):
        ResNet("resnet34")
    with pytest.raises(ValueError, match="'layer'.*'group' or 'batch'"):
        ResNet(norm="layer")


# --- in training -------------------------------------------------------------------------

CONFIG = Train(
    name="test",
    model=Model(arch="resnet18"),
    objective=Objective(queue_size=16),
    views=Views(per_image=2, size=64),
    optim=Optim(lr=1e-3),
    schedule=Schedule(name="constant"),
    epochs=1,
    batch_size=4,
    accumulate=1,
)


@functools.cache
def start() -> training.TrainState:
    """The state before the first step; drawing it takes a while."""
    return jax.jit(training.init_state, static_argnums=0)(CONFIG)


def test_a_config_chooses_the_model():
    assert make_model(Model(fc_dim=8)) == AlexNetGN(fc_dim=8)
    assert make_model(Model(arch="resnet18", out_dim=5)) == ResNet("resnet18", "group", 5)
    other = Model(arch="resnet50", norm="batch", l2norm=False)
    assert make_model(other) == ResNet("resnet50", "batch", l2norm=False)


def test_smallest_views_depend_on_the_model():
    def with_size(size: int, arch: str) -> Train:
        return dataclasses.replace(CONFIG, model=Model(arch=arch), views=Views(size=size))

    for arch, smallest in (("alexnet_gn", 63), ("resnet18", 32), ("resnet50", 32)):
        with_size(smallest, arch)
        with pytest.raises(ConfigError, match=f"{arch} needs at least {smallest}"):
            with_size(smallest - 1, arch)
    with pytest.raises(ConfigError, match="Did you mean 'resnet50'"):
        with_size(224, "resnet500")


@pytest.mark.slow
def test_a_model_without_batch_norm_trains(tmp_path):
    labels = {"index": jnp.arange(4), "label": jnp.zeros(4, jnp.int32)}
    learn = jax.jit(functools.partial(training.learn, config=CONFIG, n_images=8, steps_per_epoch=2))
    state = start()
    assert state.batch_stats == {} and state.queue.shape == (16, 128)
    for step in range(2):
        state, metrics, _ = learn(state, images(8, 64, 64) + np.float32(step), labels)
        assert np.isfinite(metrics["loss"]) and metrics["grad_norm"] > 0
    assert learn._cache_size() == 1
    assert state.batch_stats == {} and state.step == 2
    for before, after in zip(jax.tree.leaves(start().params), jax.tree.leaves(state.params), strict=True):
        assert np.abs(after - before).max() > 0

    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(state)
        checkpoints.wait()
        restored = checkpoints.restore(jax.eval_shape(lambda: state))
    jax.tree.map(np.testing.assert_array_equal, restored, state)  # the empty statistics, too


@pytest.mark.slow
def test_every_step_takes_a_model_without_batch_norm():
    mesh = jax.make_mesh((4,), ("data",))
    steps = training.compile_steps(CONFIG, mesh, n_images=8, steps_per_epoch=2)
    batch = {"canvas": jax.ShapeDtypeStruct((4, 64, 64, 3), jnp.uint8)}
    batch |= {"size": jax.ShapeDtypeStruct((4, 2), jnp.int32)}
    labels = {name: jax.ShapeDtypeStruct((4,), jnp.int32) for name in ("index", "label")}
    for state in (
        jax.eval_shape(steps.train, steps.state, batch | labels)[0],
        jax.eval_shape(steps.collect, steps.state, batch | labels)[0],
    ):
        assert jax.tree.structure(state) == jax.tree.structure(steps.state)
    whole, pair = jax.eval_shape(steps.embed, steps.state.variables, 0, batch)
    assert whole.shape == (4, 128) and pair.shape == (4, 2, 128)
