"""JAX as strict as it goes: silent broadcasts, dtype promotion of weak arrays and NaNs are errors."""

import os

# Before JAX is imported: four virtual devices, so that sharding is never untested.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", False)
