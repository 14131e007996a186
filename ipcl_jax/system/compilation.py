"""How XLA compiles: programs kept from run to run, and what it is told about GPUs."""

import os
import platform
from importlib.util import find_spec

import jax

from ipcl_jax.system.cache import cache_folder

GPU_FLAGS = {
    # One layer's gradients are summed over the devices while the next layer's are computed.
    "--xla_gpu_enable_latency_hiding_scheduler": "true",
}
"""Flags for XLA on GPUs, unless $XLA_FLAGS says otherwise."""


def set_up_compiler() -> None:
    """Keeps compiled programs on disk, and gives XLA its flags; to be called before any device is used.

    A start that compiles what an earlier one did then reads it instead. What the user set in
    $JAX_COMPILATION_CACHE_DIR (empty for none) or $XLA_FLAGS stands. Where the folder can't be written, programs
    are not kept.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        # A program for a CPU counts on that CPU's instructions, and a home may be shared by several machines.
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
