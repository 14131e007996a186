"""Programs kept from run to run, and XLA's flags."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ipcl_jax.system import compilation

PROGRAM = """
import sys
import jax
from ipcl_jax.system.compilation import set_up_compiler

set_up_compiler()
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
jax.jit(lambda x: (x @ x + 1).sum())(jax.numpy.ones((3, 3)))
hits = events.count("/jax/compilation_cache/cache_hits")
misses = events.count("/jax/compilation_cache/cache_misses")
print(hits, misses, jax.config.jax_compilation_cache_dir)
"""


def run(**environment: str) -> tuple[int, int, str]:
    """Programs found, programs compiled, and the folder."""
    inherited = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    inherited["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    hits, misses, folder = done.stdout.split(maxsplit=2)
    return int(hits), int(misses), folder.strip()


def test_a_second_start_compiles_nothing(tmp_path):
    hits, misses, folder = run(IPCL_JAX_CACHE=str(tmp_path))
    assert hits == 0 and misses > 0
    assert tmp_path in Path(folder).parents
    again = run(IPCL_JAX_CACHE=str(tmp_path))
    assert again == (misses, 0, folder)


def test_the_users_folder_stands(tmp_path):
    own = tmp_path / "own"
    assert run(IPCL_JAX_CACHE=str(tmp_path / "ours"), JAX_COMPILATION_CACHE_DIR=str(own))[2] == str(own)
    assert not (tmp_path / "ours").exists()


def test_without_a_place_to_write_nothing_is_kept(tmp_path):
    (tmp_path / "file").write_text("")
    assert run(IPCL_JAX_CACHE=str(tmp_path / "file"))[2] == "None"


@pytest.mark.parametrize("given", ["", "--xla_gpu_enable_latency_hiding_scheduler=false --xla_dump_to=/tmp"])
def test_flags_are_for_gpus_and_the_users_stand(monkeypatch, given):
    monkeypatch.setenv("XLA_FLAGS", given)
    monkeypatch.setattr(compilation, "find_spec", lambda name: None)
    compilation.set_up_compiler()
    assert os.environ["XLA_FLAGS"] == given
    monkeypatch.setattr(compilation, "find_spec", lambda name: name == "jax_cuda12_plugin")
    compilation.set_up_compiler()
    flags = dict(flag.split("=") for flag in os.environ["XLA_FLAGS"].split())
    assert flags == compilation.GPU_FLAGS | dict(flag.split("=") for flag in given.split())


def test_xla_knows_the_flags():
    """It ends a process that has an unknown one."""
    flags = " ".join(f"{name}={value}" for name, value in compilation.GPU_FLAGS.items())
    run(XLA_FLAGS=flags)
    with pytest.raises(AssertionError, match="xla_no_such_flag"):
        run(XLA_FLAGS="--xla_no_such_flag=true")
