"""PRNG keys: one named stream of keys for each use of a seed.

Keys within a stream are made by `jax.random.fold_in` of a step or index. The stream itself is folded in first, so
that no two streams share a key. (Without that they could: `split(key)[i]` is `fold_in(key, i)`.)
"""

from typing import Literal, get_args

import jax
from jax import Array

# Append new uses at the end: the position of a name determines its keys.
Use = Literal["weights", "queue", "views", "held-out views", "heads", "head views", "pictures"]


def key_of(seed: int, use: Use) -> Array:
    """Returns the base key for one use of a seed.

    Args:
        seed: of a run or a read-out.
        use: what the random numbers are for.

    Returns:
        A PRNG key; the n-th key of the stream is `jax.random.fold_in(key_of(seed, use), n)`.
    """
    return jax.random.fold_in(jax.random.key(seed), get_args(Use).index(use))
