"""Set-up of the XLA compiler: the persistent compilation cache, and flags for GPUs."""

import os
import platform
from importlib.util import find_spec

import jax

from ipcl_jax.system.cache import cache_folder

GPU_FLAGS = {
    # Overlaps the sum of one layer's gradients over the devices with the computation of the next layer's.
    "--xla_gpu_enable_latency_hiding_scheduler": "true",
}
"""Flags for XLA on GPUs; those in $XLA_FLAGS take precedence."""


def set_up_compiler() -> None:
    """Turns on the compilation cache and sets XLA's flags; call it before any device is used.

    Does not override what the user set in $JAX_COMPILATION_CACHE_DIR (empty for no cache) or $XLA_FLAGS. Where the
    cache directory can't be written, programs are not cached.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        # One folder per machine: a program for a CPU uses that CPU's instructions, and machines may share a home.
        folder = cache_folder() / "compiled" / platform.node()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            writable = os.access(folder, os.W_OK)
        except OSError:
            writable = False
        if writable:
            jax.config.update("jax_compilation_cache_dir", str(folder))
    if find_spec("jax_cuda12_plugin") or find_spec("jax_cuda13_plugin"):
        given = os.environ.get("XLA_FLAGS", "").split()
        own = [f"{name}={value}" for name, value in GPU_FLAGS.items()]
        names = {flag.split("=")[0] for flag in given}
        os.environ["XLA_FLAGS"] = " ".join(
            [*given, *(flag for flag in own if flag.split("=")[0] not in names)]
        )
