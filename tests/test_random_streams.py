"""No two uses of a seed share a key, and so no random numbers."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipcl_jax import training
from ipcl_jax.config import Model, Train, Views
from ipcl_jax.models import make_model
from ipcl_jax.random_streams import Use, key_of
from ipcl_jax.training.objective import init_queue


def words(keys: jax.Array) -> list[bytes]:
    return [row.tobytes() for row in np.asarray(jax.random.key_data(keys)).reshape(-1, 2)]


def test_no_two_streams_share_a_key():
    """Nor do the keys that come of them by a step's number or by being split, which JAX makes alike."""
    numbers, found = jnp.arange(200), []
    for seed in (0, 1, 2**31 - 1):
        for use in get_args(Use):
            stream = key_of(seed, use)
            found += words(stream) + words(jax.vmap(jax.random.fold_in, (None, 0))(stream, numbers))
    assert len(set(found)) == len(found) == 3 * len(get_args(Use)) * 201


def test_streams_stay_what_they_are():
    """A run is resumed with the numbers it began with, so a stream's place in the list is for ever."""
    assert get_args(Use)[:4] == ("weights", "queue", "views", "held-out views")


@pytest.mark.slow
def test_weights_and_queue_do_not_share_the_keys_of_views():
    config = Train(name="x", model=Model(fc_dim=32), views=Views(size=64), batch_size=2)
    state = training.init_state(config)
    assert (state.queue != init_queue(training.step_key(config, 1), 4096, 128)).all(1).any()
    for step in range(3):
        other = make_model(config.model).init(training.step_key(config, step), jnp.zeros((2, 64, 64, 3)))
        name = "conv_block_1_conv"
        assert (state.params[name]["kernel"] != other["params"][name]["kernel"]).mean() > 0.99
