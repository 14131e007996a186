"""The linear read-out against torch, and what `fit` promises."""

import dataclasses
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from ipcl_jax.activations.encoder import init_encoder
from ipcl_jax.activations.extract import extract
from ipcl_jax.augment.views import make_views
from ipcl_jax.config import LinearProbe, Model, Optim, Schedule
from ipcl_jax.errors import InputError
from ipcl_jax.random_streams import Use, key_of
from ipcl_jax.readout.linear import LinearReadout, init_heads, learn, probe_step, rank_classes, views_for
from torch_twin import one_cycle

STEPS, CLASSES = 50, 7


def probe(**changes) -> LinearProbe:
    fields = dict(layers=("a", "b"), epochs=5, batch_size=32, optim=Optim(lr=3.0, weight_decay=0.0))
    return LinearProbe(**fields | changes, schedule=Schedule(pct_start=0.3, div_factor=1e6))


@pytest.fixture
def batches():
    """Features of two layers that tell classes apart, in a fixed order of batches."""
    rng = np.random.default_rng(0)
    centers = {name: rng.normal(size=(CLASSES, *shape)) for name, shape in (("a", (20,)), ("b", (3, 3, 4)))}
    labels = rng.integers(0, CLASSES, (STEPS, 32))
    features = {
        name: (0.3 * (center[labels] + rng.normal(size=(*labels.shape, *center.shape[1:])))).astype(
            np.float32
        )
        for name, center in centers.items()
    }
    return features, labels


def trained(config, batches, *, heads=None, stop=STEPS, jit=True):
    features, labels = batches
    heads = heads or init_heads({"a": 20, "b": 36}, CLASSES, config)
    step = jax.jit(learn, static_argnames=("config", "n_batches")) if jit else learn
    losses = []
    for i in range(int(heads.step), stop):
        one = {name: jnp.asarray(values[i]) for name, values in features.items()}
        heads, metrics = step(heads, one, jnp.asarray(labels[i]), config=config, n_batches=STEPS)
        losses.append(metrics)
    return heads, losses


def test_fifty_steps_are_torchs(batches):
    config = probe()
    start = init_heads({"a": 20, "b": 36}, CLASSES, config)
    heads, losses = trained(config, batches)
    for layer, values in batches[0].items():
        head = torch.nn.Linear(values[0][0].size, CLASSES)
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(np.array(start.params[layer]["kernel"].T)))
            head.bias.copy_(torch.from_numpy(np.array(start.params[layer]["bias"])))
        sgd = torch.optim.SGD(head.parameters(), lr=3.0, momentum=0.95)
        for i in range(STEPS):
            for name, course in (("lr", (3e-6, 3.0, 3e-10)), ("momentum", (0.95, 0.85, 0.95))):
                sgd.param_groups[0][name] = one_cycle(*course, i, STEPS, 0.3)
            loss = torch.nn.functional.cross_entropy(
                head(torch.from_numpy(values[i]).flatten(1)), torch.from_numpy(batches[1][i])
            )
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            # float32 in both; sums are taken in another order, and errors grow along 50 steps.
            np.testing.assert_allclose(losses[i][layer], loss.item(), rtol=1e-5, atol=1e-5)
        for name, theirs in (("kernel", head.weight.T), ("bias", head.bias)):
            ours, theirs = np.asarray(heads.params[layer][name]), theirs.detach().numpy()
            np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())
    assert losses[-1]["loss"] < 0.5 * losses[0]["loss"]


def test_resumed_is_unbroken_and_eager_is_jitted(batches):
    config = probe()
    whole, _ = trained(config, batches)
    half, _ = trained(config, batches, stop=23)
    rest, _ = trained(config, batches, heads=half)
    jax.tree.map(np.testing.assert_array_equal, whole, rest)
    few, few_eager = (trained(config, batches, stop=3, jit=jit)[0] for jit in (True, False))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), few.params, few_eager.params)


def test_heads_learn_side_by_side_as_they_would_alone(batches):
    both, _ = trained(probe(), batches)
    start = init_heads({"a": 20, "b": 36}, CLASSES, probe())
    alone = dataclasses.replace(start, params={"b": start.params["b"]}, opt_state={"b": start.opt_state["b"]})
    found, _ = trained(probe(), ({"b": batches[0]["b"]}, batches[1]), heads=alone)
    # Another program, so other sums; float32.
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
        both.params["b"],
        found.params["b"],
    )


@pytest.mark.slow
def test_a_step_sees_a_new_view_and_leaves_the_model_alone():
    encoder = init_encoder(Model(fc_dim=32), name="small", size=64, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    config = LinearProbe(layers=("fc7", "conv_block_5"), epochs=1, batch_size=4)
    canvas = np.random.default_rng(0).integers(0, 256, (4, 80, 80, 3), np.uint8)
    batch = {"canvas": canvas, "size": np.full((4, 2), 80, np.int32), "label": np.array([0, 1, 2, 1])}
    heads = init_heads({"fc7": 32, "conv_block_5": 256}, 3, config)
    step = jax.jit(probe_step, static_argnames=("config", "n_batches"))
    after, _ = step(heads, encoder, batch, config=config, n_batches=10)
    # The same by hand: views of the step's key in the model's size, mean and std, then its layers.
    options = views_for(config, encoder)
    assert (options.size, options.mean, options.std) == (64, (0.5,) * 3, (0.2,) * 3)
    views = make_views(jax.random.fold_in(key_of(0, "head views"), 0), canvas, batch["size"], options)
    features = {name: extract(encoder, views, [name])[name] for name in config.layers}
    expected, _ = learn(heads, features, jnp.asarray(batch["label"]), config=config, n_batches=10)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), after.params, expected.params
    )
    again, _ = step(after, encoder, batch, config=config, n_batches=10)
    assert int(again.step) == 2
    assert step._cache_size() == 1


def test_fit_tells_classes_apart(batches):
    features, labels = (batches[0]["b"].reshape(-1, 3, 3, 4), batches[1].reshape(-1))
    names = np.array(list("tuvwxyz"))[labels]
    readout = LinearReadout(epochs=10, lr=3.0, batch_size=64).fit(features[:1200], names[:1200])
    assert readout.coef_.shape == (7, 36) and readout.intercept_.shape == (7,)
    assert readout.losses_.shape == (10 * (1200 // 64),)
    flat = features[1200:].reshape(-1, 36).astype(np.float64)
    scores = flat @ readout.coef_.T.astype(np.float64) + readout.intercept_
    np.testing.assert_array_equal(readout.predict(features[1200:]), readout.classes_[scores.argmax(1)])
    top5 = readout.classes_[np.argsort(-scores, axis=1)[:, :5]]
    assert readout.score(features[1200:], names[1200:], top=5) == np.mean((top5 == names[1200:, None]).any(1))
    assert readout.score(features[1200:], names[1200:]) > 0.9


def test_ranks_of_equal_scores_and_few_classes():
    head = {"kernel": jnp.zeros((4, 3)), "bias": jnp.zeros(3)}
    assert rank_classes(head, np.ones((2, 2, 2), np.float32)).tolist() == [[0, 1, 2]] * 2


@pytest.mark.parametrize(
    "X, y, message",
    [
        (np.ones((4, 2)), [0, 0, 0, 0], "All 4 images are of one class"),
        (np.ones((4, 2)), [0, 1], r"4 images and labels of shape \[2\]"),
        (np.array([[1, 2], [np.inf, 1], [np.nan, 1]]), [0, 1, 1], "2 images .* first is in row 1"),
    ],
)
def test_what_makes_no_sense_is_said(X, y, message):
    with pytest.raises(ValueError, match=message):
        LinearReadout().fit(X, y)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"lr": 30.0}, "loss does not stay finite with lr=30 .*; give a lower lr"),
        ({"lr": 0.0}, "lr is 0.0; it must be a number above 0"),
        ({"lr": np.nan}, "lr is nan"),
        ({"epochs": 0}, "epochs is 0; it must be 1 or more"),
        ({"epochs": 1.5}, "epochs is 1.5"),
        ({"batch_size": -1}, "batch_size is -1"),
    ],
)
def test_a_head_that_cannot_learn_is_refused(options, message):
    X, y = 1e20 * np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2
    readout = LinearReadout(**options)
    with pytest.raises(InputError, match=message):
        readout.fit(X, y)
    assert not hasattr(readout, "coef_")


def test_no_two_uses_of_a_seed_share_a_key():
    keys = []
    for use in get_args(Use):
        for n in range(20):
            key = jax.random.fold_in(key_of(0, use), n)
            keys += [key, *jax.random.split(key)]
    data = np.stack([jax.random.key_data(key) for key in keys])
    # Within a stream, split(k)[i] may be what k's other users draw; between streams nothing is shared.
    of_use = np.repeat(np.arange(len(get_args(Use))), 60)
    for a in range(len(get_args(Use))):
        own = {tuple(row) for row in data[of_use == a].tolist()}
        assert not own & {tuple(row) for row in data[of_use != a].tolist()}


def test_heads_and_views_draw_from_streams_of_their_own(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "ipcl_jax.readout.linear.key_of", lambda seed, use: asked.append(use) or key_of(seed, use)
    )
    heads = init_heads({"fc7": 32, "conv_block_5": 256}, 3, probe())
    encoder = init_encoder(Model(fc_dim=32), size=64)
    batch = {
        "canvas": np.zeros((2, 80, 80, 3), np.uint8),
        "size": np.full((2, 2), 80, np.int32),
        "label": np.array([0, 1]),
    }
    config = LinearProbe(layers=("fc7", "conv_block_5"), epochs=1, batch_size=2)
    jax.eval_shape(lambda: probe_step(heads, encoder, batch, config=config, n_batches=10))
    assert asked == ["heads", "head views"]
