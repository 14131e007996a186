"""Where random numbers come from: one named stream of keys for each use of a seed.

Keys of one stream are told apart by `jax.random.fold_in` of a step or place. Streams lie one level above, so
that no step of one has the key of another. (Bare keys do collide: `split(key)[i]` is `fold_in(key, i)`.)
"""

from typing import Literal, get_args

import jax
from jax import Array

# New uses go at the end: the place of a name decides its numbers.
Use = Literal["weights", "queue", "views", "held-out views", "heads", "head views", "pictures"]


def key_of(seed: int, use: Use) -> Array:
    """The key of one use of a seed.

    Args:
        seed: of a run or a read-out.
        use: what the random numbers are for.

    Returns:
        A PRNG key; the n-th key of the stream is `jax.random.fold_in(key_of(seed, use), n)`.
    """
    return jax.random.fold_in(jax.random.key(seed), get_args(Use).index(use))
