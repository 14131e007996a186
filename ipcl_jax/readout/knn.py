"""k-nearest-neighbour read-out: similar training images vote for a test image's class.

Source: Wu et al. 2018 (weighted kNN); Konkle & Alvarez 2022, Methods; the reference's `knn_eval.py`.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array


def unit_length(features: Array) -> Array:
    """Scales rows `[N, D]` to unit length; a row of zeros stays as it is."""
    norm = jnp.linalg.norm(features, axis=-1, keepdims=True)
    return features / jnp.where(norm > 0, norm, 1.0)


@functools.partial(jax.jit, static_argnames=("k", "chunk"))
def nearest(queries: Array, references: Array, *, k: int, chunk: int = 128) -> tuple[Array, Array]:
    """The k references most similar to each query.

    Args:
        queries: `[M, D]` features.
        references: `[N, D]` features.
        k: neighbours, at most N.
        chunk: queries compared at a time, which bounds memory to chunk * N similarities.

    Returns:
        Cosines `[M, k]`, falling, and the references' rows `[M, k]` int32.
    """
    queries, references = unit_length(queries), unit_length(references)

    def one(query: Array) -> tuple[Array, Array]:
        return jax.lax.top_k(jnp.matmul(references, query, precision="highest"), k)

    return jax.lax.map(one, queries, batch_size=min(chunk, len(queries)))


@functools.partial(jax.jit, static_argnames=("n_classes", "k", "chunk"))
def knn_predict(
    queries: Array,
    references: Array,
    labels: Array,
    *,
    n_classes: int,
    k: int = 200,
    temperature: float = 0.07,
    chunk: int = 128,
) -> Array:
    """Classes of each query, best first: neighbours vote with exp(cosine / temperature).

    Args:
        queries: `[M, D]` features of the test images.
        references: `[N, D]` features of the training images.
        labels: `[N]` int, their classes from 0.
        n_classes: number C of classes.
        k: neighbours that vote.
        temperature: divides cosines.
        chunk: queries compared at a time.

    Returns:
        `[M, min(5, C)]` int32; top-1 is the first column. Of classes with equal votes the
        lower number comes first.
    """
    labels = jnp.asarray(labels)
    cosines, rows = nearest(queries, references, k=k, chunk=chunk)

    def tally(cosine: Array, row: Array) -> Array:
        votes = jnp.zeros(n_classes).at[labels[row]].add(jnp.exp(cosine / temperature))
        return jax.lax.top_k(votes, min(5, n_classes))[1]

    return jax.lax.map(lambda pair: tally(*pair), (cosines, rows), batch_size=min(chunk, len(queries)))
