"""How fast the parts of the system are, each beside what bounds it.

    python experiments/benchmark.py loading
    python experiments/benchmark.py loading --source folder:/data/imagenet256 --threads 8
    python experiments/benchmark.py loading --files 1281167
    python experiments/benchmark.py views --against torch
    python experiments/benchmark.py step --against torch
    python experiments/benchmark.py step --cost
    python experiments/benchmark.py extract --against torch
    python experiments/benchmark.py gpu

`--json FILE` keeps the figures.
"""

import os
import sys

import tyro

# The package of that name comes before this folder's convert.py.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from benchmarks.gpu import gpu
from benchmarks.inputs import loading, views
from benchmarks.network import step
from benchmarks.readouts import extract, knn
from benchmarks.whole import train
from ipcl_jax.errors import ConfigError

app = tyro.extras.SubcommandApp()
for measure in (loading, views, step, train, extract, knn, gpu):
    app.command(measure)


def main() -> int:
    """Runs the command line; returns the exit code."""
    try:
        app.cli(description=__doc__)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
