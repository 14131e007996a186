"""Linear read-out: one linear layer, trained on frozen features to classify images.

Source: Konkle & Alvarez 2022, Methods (one-cycle, ten epochs); SGD and its schedule as in `optim`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from ipcl_jax.activations.encoder import Encoder
from ipcl_jax.activations.extract import compute, plan
from ipcl_jax.augment.views import make_views
from ipcl_jax.config import LinearProbe, Optim, Schedule, Views
from ipcl_jax.errors import InputError
from ipcl_jax.models.layers import torch_bias_init, torch_kernel_init
from ipcl_jax.random_streams import key_of
from ipcl_jax.readout.base import (
    Classifier,
    Rows,
    check_above_zero,
    check_count,
    check_features,
    check_fitted,
    check_labels,
    check_rows,
)
from ipcl_jax.system.distributed import batch_sharding
from ipcl_jax.training import optim
from ipcl_jax.training.objective import category_loss

_BLOCK = 1 << 28  # bytes of features on the device at a time


@flax.struct.dataclass
class Heads:
    """The training state of a linear read-out, as one pytree; one head per layer."""

    step: Array  # int32: number of batches so far
    params: dict  # layer -> kernel [D, C], bias [C]
    opt_state: dict  # layer -> the optimizer's state


def init_heads(widths: Mapping[str, int], n_classes: int, config: LinearProbe) -> Heads:
    """Initialises heads as PyTorch's linear layers.

    Args:
        widths: number D of each layer's values for an image.
        n_classes: number C of classes.
        config: the read-out's configuration; its seed sets the initial weights.
    """
    key, params = key_of(config.seed, "heads"), {}
    for place, (layer, width) in enumerate(widths.items()):
        kernel_key, bias_key = jax.random.split(jax.random.fold_in(key, place))
        params[layer] = {
            "kernel": torch_kernel_init(kernel_key, (width, n_classes)),
            "bias": torch_bias_init(width)(bias_key, (n_classes,)),
        }
    init = optim.make_optimizer(config.optim, 0.0, 0.0).init
    return Heads(jnp.zeros((), jnp.int32), params, {layer: init(head) for layer, head in params.items()})


def class_scores(head: Mapping[str, Array], features: Array) -> Array:
    """Computes scores `[B, C]` from features `[B, ...]`, which are flattened."""
    flat = features.reshape(len(features), -1).astype(head["kernel"].dtype)
    return jnp.matmul(flat, head["kernel"], precision="highest") + head["bias"][None]


def learn(
    heads: Heads, features: Mapping[str, Array], labels: Array, *, config: LinearProbe, n_batches: int
) -> tuple[Heads, dict[str, Array]]:
    """Trains each head on one batch.

    Args:
        heads: state before the batch.
        features: `[B, ...]` of each layer.
        labels: `[B]` int, classes from 0.
        config: the read-out's configuration.
        n_batches: number of batches in the training.

    Returns:
        State after the batch, and scalars: lr, momentum, loss (the mean of all heads), grad_norm (of the gradients of
        all heads' losses), and each head's loss under its layer's name.
    """
    per_epoch = n_batches // config.epochs
    lr = optim.learning_rate(config.schedule, config.optim.lr, heads.step, n_batches, per_epoch)
    momentum = optim.momentum(config.schedule, heads.step, n_batches)
    optimizer = optim.make_optimizer(config.optim, lr, momentum)
    losses, norms, params, opt_state = {}, {}, {}, {}
    for layer, head in heads.params.items():
        losses[layer], grads = jax.value_and_grad(
            lambda head, values: category_loss(class_scores(head, values), labels, n_views=1)
        )(head, features[layer])
        norms[layer] = optax.tree.norm(grads)
        updates, opt_state[layer] = optimizer.update(grads, heads.opt_state[layer], head)
        params[layer] = optax.apply_updates(head, updates)
    loss = sum(losses.values()) / len(losses)
    return Heads(heads.step + 1, params, opt_state), {
        **losses, "loss": loss, "lr": lr, "momentum": momentum, "grad_norm": optax.tree.norm(norms),
    }  # fmt: skip


def views_for(config: LinearProbe, encoder: Encoder) -> Views:
    """Returns the options of the read-out's views, with the model's size, mean and std."""
    return dataclasses.replace(config.views, size=encoder.size, mean=encoder.mean, std=encoder.std)


def probe_step(
    heads: Heads, encoder: Encoder, batch: Mapping[str, Array], *, config: LinearProbe, n_batches: int
) -> tuple[Heads, dict[str, Array]]:
    """Draws a view of each image, computes the layers once, and trains their heads; see `learn`.

    Args:
        heads: state before the batch.
        encoder: the model, in evaluation mode.
        batch: `canvas [B, H, W, 3]` uint8, `size [B, 2]`, `label [B]` int32.
        config: the read-out's configuration.
        n_batches: number of batches in the training.
    """
    key = jax.random.fold_in(key_of(config.seed, "head views"), heads.step)
    options = views_for(config, encoder)
    views = make_views(key, batch["canvas"], batch["size"], options)
    features = compute(encoder, views, config.layers, jnp.dtype("float32"))
    labels = jnp.repeat(batch["label"], options.per_image)
    return learn(heads, features, labels, config=config, n_batches=n_batches)


class HeadSteps(NamedTuple):
    """The functions of a linear read-out, jitted for all devices."""

    init: Callable  # () -> heads
    train: Callable  # heads, batch -> heads, metrics; the heads are donated
    state: Heads  # shapes, dtypes and shardings, for restoring a checkpoint


def compile_heads(
    config: LinearProbe, encoder: Encoder, mesh: Mesh, *, n_classes: int, n_batches: int
) -> HeadSteps:
    """Jits the functions of a linear read-out; they are compiled when first called.

    Args:
        config: the read-out's configuration.
        encoder: the model, in evaluation mode.
        mesh: mesh of devices, from `distributed.make_mesh`.
        n_classes: number C of classes.
        n_batches: number of batches in the training.
    """
    replicated = NamedSharding(mesh, PartitionSpec())
    widths = {
        layer: math.prod(shape)
        for layer, (shape, _) in plan(encoder, config.layers, size=encoder.size).items()
    }
    init = functools.partial(init_heads, widths, n_classes, config)
    encoder = jax.device_put(encoder, replicated)
    step = jax.jit(
        functools.partial(probe_step, config=config, n_batches=n_batches),
        in_shardings=(replicated, replicated, batch_sharding(mesh)), out_shardings=(replicated, replicated),
        donate_argnums=0,
    )  # fmt: skip
    return HeadSteps(
        init=jax.jit(init, out_shardings=replicated),
        train=lambda heads, batch: step(heads, encoder, batch),
        state=jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated), jax.eval_shape(init)
        ),
    )


@functools.partial(jax.jit, static_argnames="n")
def _rank(head: Mapping[str, Array], features: Array, n: int) -> Array:
    return jax.lax.top_k(class_scores(head, features), min(n, len(head["bias"])))[1]


def rank_classes(head: Mapping[str, Array], features: Rows, n: int = 5) -> np.ndarray:
    """Returns the n most probable classes of each image, best first; features can be on disk.

    Args:
        head: kernel `[D, C]` and bias `[C]`.
        features: `[M, ...]`.
        n: number of classes to return.

    Returns:
        `[M, min(n, C)]` int32; of equal scores the lower class comes first.

    Raises:
        InputError: for features that are not finite numbers.
    """
    total, rows = features.shape[0], max(1, _BLOCK // (4 * len(head["kernel"])))
    found = []
    for start in range(0, total, rows):
        part = jnp.asarray(features[start : start + rows])
        check_features(part, first=start)
        found.append(np.asarray(_rank(head, part, n)))
    return np.concatenate(found)


@dataclass
class LinearReadout(Classifier):
    """The linear read-out on given features, with the interface of scikit-learn's classifiers.

        LinearReadout(epochs=10).fit(X, y).score(X2, y2)

    The head is trained on batches of the features, in a new random order each epoch; images left over after the last
    full batch are skipped, and differ between epochs. `experiments/linear.py` also draws new views of the images in
    each epoch, as the paper does.

    Args:
        epochs: passes over the features.
        lr: highest learning rate of the one-cycle schedule.
        batch_size: images per batch; all images if there are fewer.
        seed: seed of the initial weights and the order.

    Attributes:
        classes_: `[C]`, the sorted classes that `fit` saw.
        coef_: `[C, D]`, weights as in scikit-learn.
        intercept_: `[C]`, biases.
        losses_: `[batches]`, the loss of each batch, before its step.
    """

    epochs: int = 10
    lr: float = 30.0
    batch_size: int = 256
    seed: int = 0

    def fit(self, X: Rows, y: ArrayLike) -> "LinearReadout":
        """Trains the head.

        Args:
            X: `[N, ...]` features; each image's are flattened.
            y: `[N]` their classes, text or integers.

        Returns:
            This object.

        Raises:
            InputError: if X and y don't fit together, there is only one class, a feature isn't finite, an argument
                of the read-out is invalid, or the loss becomes infinite or NaN.
        """
        check_count("epochs", self.epochs)
        check_count("batch_size", self.batch_size)
        check_above_zero("lr", self.lr)
        X = check_rows(X)
        classes = check_labels(X, y)
        count = len(classes)
        features = jnp.asarray(X[:]).reshape(count, -1)
        check_features(features)
        self.classes_, labels = np.unique(classes, return_inverse=True)
        size = min(self.batch_size, count)
        config = LinearProbe(
            layers=("features",), epochs=self.epochs, batch_size=size, seed=self.seed,
            optim=Optim(lr=self.lr, weight_decay=0.0), schedule=Schedule(pct_start=0.3, div_factor=1e6),
        )  # fmt: skip
        heads = init_heads({"features": features.shape[1]}, len(self.classes_), config)
        steps = count // size
        epoch = jax.jit(functools.partial(_epoch, config=config, n_batches=self.epochs * steps))
        losses = []
        for number in range(self.epochs):
            order = np.random.default_rng((self.seed, number)).permutation(count)[: steps * size]
            heads, loss = epoch(heads, features, labels, order.reshape(steps, size))
            losses.append(loss)
        found = np.concatenate(losses)
        if not all(np.isfinite(value).all() for value in (found, *jax.tree.leaves(heads.params))):
            raise InputError(
                f"The loss does not stay finite with lr={self.lr:g} (step {np.isfinite(found).argmin()} of {len(found)}); "
                "give a lower lr, or scale the features."
            )
        self._head, self.losses_ = heads.params["features"], found
        self.coef_, self.intercept_ = np.asarray(self._head["kernel"]).T, np.asarray(self._head["bias"])
        return self

    def rank(self, X: Rows, n: int = 5) -> np.ndarray:
        """Returns the n most probable classes of each image, `[M, n]`, best first."""
        check_fitted(self, "classes_")
        return self.classes_[rank_classes(self._head, check_rows(X, self.coef_.shape[1]), n)]


def _epoch(
    heads: Heads, X: Array, labels: Array, order: Array, *, config: LinearProbe, n_batches: int
) -> tuple[Heads, Array]:
    def step(heads: Heads, rows: Array) -> tuple[Heads, Array]:
        heads, metrics = learn(heads, {"features": X[rows]}, labels[rows], config=config, n_batches=n_batches)
        return heads, metrics["loss"]

    return jax.lax.scan(step, heads, order)
