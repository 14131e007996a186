"""Measures the speed of training, its parts and read-outs on this machine, on request beside other packages.

    python experiments/benchmark.py loading
    python experiments/benchmark.py loading --source folder:/data/imagenet256 --threads 8
    python experiments/benchmark.py loading --files 1281167
    python experiments/benchmark.py views --against torch
    python experiments/benchmark.py step --against torch
    python experiments/benchmark.py cost --part learn --precision bfloat16
    python experiments/benchmark.py extract --against torch
    python experiments/benchmark.py encoding --against himalaya
    python experiments/benchmark.py gpu
    python experiments/benchmark.py gpu --against torch

`--json FILE` writes the measurements to a file.
"""

import sys

import tyro

from ipcl_jax.benchmarks.cost import cost
from ipcl_jax.benchmarks.encoding import encoding
from ipcl_jax.benchmarks.gpu import gpu
from ipcl_jax.benchmarks.inputs import loading, views
from ipcl_jax.benchmarks.network import step
from ipcl_jax.benchmarks.readouts import extract, knn
from ipcl_jax.benchmarks.training_run import train
from ipcl_jax.errors import InputError
from ipcl_jax.system.compilation import set_up_compiler

app = tyro.extras.SubcommandApp()
for measure in (loading, views, step, train, extract, knn, encoding, gpu, cost):
    app.command(measure)


def main() -> int:
    """Runs the command line; returns the exit code."""
    set_up_compiler()
    try:
        result = app.cli(description=__doc__)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    sys.exit(main())
