"""Sparse random projections: fewer numbers a layer, with distances between images kept."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Projection(NamedTuple):
    """A sparse matrix `[N, D]` with k entries a row, +-scale each.

    Attributes:
        columns: `[N, k]` int32, where the entries of a row are (one drawn twice counts twice).
        values: `[N, k]` float32.
    """

    columns: Array
    values: Array


def make_projection(seed: int, n_values: int, n_components: int) -> Projection:
    """Draws a projection, the same on every machine for the same three numbers.

    Args:
        seed: of the draw.
        n_values: D, numbers a layer has for an image.
        n_components: N, numbers that shall be left.

    Returns:
        A projection with k = ceil(sqrt(D)) entries a row, under which the squared length of any
        vector keeps its expected value, with a relative error of about sqrt(2 / N).

    Source: Li, Hastie & Church 2006, Very sparse random projections, with a fixed number of
    entries a row.
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
    transposed = jnp.asarray(features).T  # [D, B]: an entry gathers the whole batch from one place

    def component(row: Projection) -> Array:
        # Accelerators would by default drop digits of float32 products.
        return jnp.matmul(row.values, transposed[row.columns], precision="highest")  # [B]

    return jax.lax.map(component, projection, batch_size=64).T
