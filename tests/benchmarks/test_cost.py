"""What the step's program does on a GPU, compiled for one without having it."""

from importlib.util import find_spec
from time import process_time

import pytest

from command_line import run
from ipcl_jax.benchmarks.cost import compile_part
from ipcl_jax.benchmarks.program import moved
from ipcl_jax.config import Train

needs_plugin = pytest.mark.skipif(
    not (find_spec("jax_cuda12_plugin") and find_spec("nvidia")), reason="pip install -e '.[cost]'"
)


@needs_plugin
@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "kernels", "gigabytes", "held"), [("views", 30, 2.4, 0.7), ("learn", 150, 11.9, 1.8), ("step", 179, 13.8, 1.8)]
)
def test_a_step_needs_few_kernels_and_few_bytes(part, kernels, gigabytes, held):
    """Of 128 images in bfloat16; a new pass over the first block's maps alone would be 0.4 GB."""
    begin = process_time()
    found = compile_part(part, Train(name="cost", precision="bfloat16"))
    assert process_time() - begin < 60  # seconds of processor; a search for tiles once took more than eight minutes
    assert sum(found.program.summary().values()) <= kernels
    assert moved(found.program.always) < 1e9 * gigabytes
    assert found.held < 1e9 * held
    if part == "views":
        return
    assert not found.program.sometimes  # no loop or branch, for which a GPU waits until the host has read its condition
    # Forward 1.9 GFLOP a view and twice that back, except for the first layer's input.
    assert 3.4e12 < found.operations < 4.2e12


@needs_plugin
@pytest.mark.slow
def test_the_command(tmp_path):
    said = run("benchmark.py", "cost", "--part", "learn", "--images", "2", "--json", tmp_path / "cost.json")
    assert "compiled for an H100" in said and "kernels by kind: " in said and "\n1: " in said
    assert '"moved, GB"' in (tmp_path / "cost.json").read_text()


@pytest.mark.skipif(find_spec("jax_cuda12_plugin") is not None, reason="the plugin is installed")
def test_without_the_plugin():
    said = run("benchmark.py", "cost", code=2)
    assert said == (
        "error: Compiling for a GPU needs jax_cuda12_plugin, which is not installed: pip install 'ipcl_jax[cost]'\n"
    )
