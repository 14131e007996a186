"""Sparse random projections, which reduce a layer's dimensions and approximately keep distances between images."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Projection(NamedTuple):
    """A sparse matrix `[N, D]` with k entries per row, each +scale or -scale.

    Attributes:
        columns: `[N, k]` int32, column of each entry (the entries of a column drawn twice are summed).
        values: `[N, k]` float32, value of each entry.
    """

    columns: Array
    values: Array


def make_projection(seed: int, n_values: int, n_components: int) -> Projection:
    """Draws a projection; the same arguments give the same one on every machine.

    Args:
        seed: seed of the draw.
        n_values: D, number of a layer's values for an image.
        n_components: N, number of components.

    Returns:
        A projection with k = ceil(sqrt(D)) entries per row. The expected squared length of a projected vector is
        that of the vector, and its relative error is about sqrt(2 / N).

    Source: Li, Hastie & Church 2006, Very sparse random projections, with a fixed number of
    entries per row.
    """
    entries = math.ceil(math.sqrt(n_values))
    where, sign = jax.random.split(jax.random.fold_in(jax.random.key(seed), n_values))
    shape = (n_components, entries)
    scale = math.sqrt(n_values / (entries * n_components))
    return Projection(
        columns=jax.random.randint(where, shape, 0, n_values),
        values=scale * jax.random.rademacher(sign, shape, jnp.float32),
    )


def project(features: Array, projection: Projection) -> Array:
    """Applies a projection, `[B, D] -> [B, N]`."""
    transposed = jnp.asarray(features).T  # [D, B]: an entry gathers one contiguous row, the full batch

    def component(row: Projection) -> Array:
        # Accelerators round float32 products to fewer digits by default.
        return jnp.matmul(row.values, transposed[row.columns], precision="highest")  # [B]

    return jax.lax.map(component, projection, batch_size=64).T
