"""Before any test: JAX on four virtual devices, programs that compile fast, and no silent broadcasts between ranks."""

import ctypes
import gc
import os
import sys
from pathlib import Path

# These count only before JAX is imported. Programs run once or twice here, so that compiling them is most of the work;
# without LLVM's optimizations it takes half as long, and arithmetic is the same but for the order of sums.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true",
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile the same programs again and again: in pytest's workers, in commands, and the next time.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "compiled"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import jax  # noqa: E402
import psutil  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True, scope="module")
def compiled_programs_take_no_more_than_a_gigabyte():
    """Forgets compiled programs, of which later modules hardly use any."""
    yield
    if psutil.Process().memory_info().rss > 0.8e9:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(autouse=True)
def freed_memory_is_given_back():
    """Compiling takes a gigabyte at times, which glibc would keep."""
    yield
    if sys.platform == "linux" and psutil.Process().memory_info().rss > 1e9:
        ctypes.CDLL(None).malloc_trim(0)
