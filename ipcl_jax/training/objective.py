"""The objective of instance-prototype contrastive learning, and that of supervised models.

Noise-contrastive estimation makes each view similar to the prototype of its own image (the mean embedding of the
image's views) and dissimilar to a queue of earlier embeddings. Supervised models are trained by cross-entropy instead.
Rows of embeddings are ordered image by image: row b * n + v is view v of image b.

Source: Konkle & Alvarez 2022, Methods; for the criterion, Wu et al. 2018 (non-parametric
instance discrimination).
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Float, Int

EPSILON = 1e-7


def init_queue(key: Array, size: int, dim: int) -> Float[Array, "K D"]:
    """Makes an initial queue of random directions.

    Args:
        key: PRNG key.
        size: number K of negatives.
        dim: width D of an embedding.

    Returns:
        `[K, D]` float32: rows drawn uniformly in +-1/sqrt(D/3), and scaled to unit length.
    """
    bound = (dim / 3) ** -0.5
    queue = jax.random.uniform(key, (size, dim), minval=-bound, maxval=bound)
    return queue / jnp.linalg.norm(queue, axis=-1, keepdims=True)


def update_queue(queue: Float[Array, "K D"], new: Float[Array, "M D"]) -> Float[Array, "K D"]:
    """Prepends new embeddings to the queue and removes the oldest.

    Args:
        queue: `[K, D]`, newest first.
        new: `[M, D]`; if M > K, only the first K are used.

    Returns:
        `[K, D]`; no gradient flows through it.
    """
    return jnp.concatenate([jax.lax.stop_gradient(new), queue])[: queue.shape[0]]


def prototypes(
    embeddings: Float[Array, "views D"], n_views: int, *, normalize: bool = False
) -> Float[Array, "images D"]:
    """Computes the mean embedding of each image's views.

    Args:
        embeddings: `[B*n, D]`, image by image.
        n_views: views n of each image.
        normalize: scale prototypes to unit length.

    Returns:
        `[B, D]`; no gradient flows through it.
    """
    mean = jax.lax.stop_gradient(embeddings).reshape(-1, n_views, embeddings.shape[-1]).mean(1)
    return mean / jnp.linalg.norm(mean, axis=-1, keepdims=True) if normalize else mean


def similarities(embeddings: Array, prototypes: Array, queue: Array) -> tuple[Array, Array]:
    """Computes the dot products of every view with its prototype and with the queue.

    Args:
        embeddings: `[B*n, D]`, image by image.
        prototypes: `[B, D]`.
        queue: `[K, D]`.

    Returns:
        Positives `[B*n]` and negatives `[B*n, K]`.
    """
    n_views = embeddings.shape[0] // prototypes.shape[0]
    positives = (embeddings * jnp.repeat(prototypes, n_views, axis=0)).sum(-1)
    # Full precision: after division by the temperature and exponentiation, the error of a reduced-precision product
    # would be a percent.
    negatives = jnp.matmul(embeddings, queue.T, precision="highest")
    return positives, negatives


def log_normalizer(
    positives: Array, negatives: Array, *, temperature: float | Array, n_images: int
) -> Array:
    """Computes log Z, where Z is n_images times the mean of exp(similarity / temperature) over positives and negatives.

    Z is computed at the first step of training and constant from then on. Its logarithm is finite at any temperature;
    Z itself overflows float32 below a temperature of about 0.013.

    Args:
        positives: `[B*n]`.
        negatives: `[B*n, K]`.
        temperature: divides similarities.
        n_images: number N of training images.

    Returns:
        A scalar; no gradient flows through it.
    """
    of_views = jnp.logaddexp(positives / temperature, jax.nn.logsumexp(negatives / temperature, axis=-1))
    total = jax.nn.logsumexp(of_views)
    return jax.lax.stop_gradient(total - np.log(positives.size + negatives.size) + np.log(n_images))


def nce_loss(
    positives: Array, negatives: Array, log_Z: Array, *, temperature: float | Array, n_images: int
) -> Array:
    """Computes the loss of noise-contrastive estimation.

    With P = exp(similarity / temperature) / Z, noise probability Pn = 1/N and K negatives, it is the mean over views of

        -log(P+ / (P+ + K Pn + eps)) - sum over negatives of log(K Pn / (P- + K Pn + eps)).

    Both terms are computed in logarithms, as log(1 + (K Pn + eps) / P+) and log(1 + (P- + eps) / (K Pn)), so that
    nothing overflows and terms near 0 are precise.

    Args:
        positives: `[B*n]`.
        negatives: `[B*n, K]`.
        log_Z: scalar from `log_normalizer`.
        temperature: divides similarities.
        n_images: number N of training images.

    Returns:
        The loss, a scalar in nats.

    Source: Wu et al. 2018, equations 4-7; Konkle & Alvarez 2022, Methods.
    """
    noise = negatives.shape[-1] / n_images  # K * Pn
    own = positives / temperature - log_Z  # log P+
    other = negatives / temperature - log_Z  # log P-
    of_views = jax.nn.softplus(np.log(noise + EPSILON) - own)
    of_views += jnp.logaddexp(np.log1p(EPSILON / noise), other - np.log(noise)).sum(-1)
    return of_views.mean()


def ipcl_loss(
    embeddings: Float[Array, "views D"],
    queue: Float[Array, "K D"],
    log_Z: Float[Array, ""],
    *,
    n_views: int,
    n_images: int,
    temperature: float | Float[Array, ""] = 0.07,
    norm_prototype: bool = False,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Computes the IPCL loss of a batch.

    Args:
        embeddings: `[B*n, D]` of unit length, image by image.
        queue: `[K, D]` earlier embeddings; see `update_queue`.
        log_Z: scalar; zero before the first step, which computes it. (Zero is unambiguous: no batch has a Z of exactly
            1, since it is N times a mean that includes each view's similarity with its own image.)
        n_views: views n of each image.
        n_images: number N of training images.
        temperature: divides similarities.
        norm_prototype: scale prototypes to unit length first.

    Returns:
        The loss, and the log Z that it used (to be passed to the next step). The queue is not updated.
    """
    own = prototypes(embeddings, n_views, normalize=norm_prototype)
    positives, negatives = similarities(embeddings, own, queue)
    first_log_Z = log_normalizer(positives, negatives, temperature=temperature, n_images=n_images)
    log_Z = jnp.where(log_Z == 0, first_log_Z, log_Z)
    return nce_loss(positives, negatives, log_Z, temperature=temperature, n_images=n_images), log_Z


def category_loss(
    logits: Float[Array, "views C"], labels: Int[Array, " images"], *, n_views: int
) -> Float[Array, ""]:
    """Computes the softmax cross-entropy of every view with the class of its image, averaged over views.

    Args:
        logits: `[B*n, C]` float, image by image.
        labels: `[B]` int, classes in 0 to C - 1.
        n_views: views n of each image.

    Returns:
        A scalar, in nats.

    Source: Konkle & Alvarez 2022, Methods (category-supervised models); torch.nn.CrossEntropyLoss.
    """
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.repeat(labels, n_views)).mean()
