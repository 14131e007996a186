"""Benchmark of a training run, from files to read-outs: speed, memory and compilations over time."""

import contextlib
import os
import re
import statistics
import tempfile
import time
from pathlib import Path

import tyro

from ipcl_jax.benchmarks.compilations import Compilations
from ipcl_jax.benchmarks.turns import Measured, Memory, finish
from ipcl_jax.commands import recipes
from ipcl_jax.commands.main import run
from ipcl_jax.errors import ConfigError
from ipcl_jax.run.history import read_metrics
from ipcl_jax.run.metrics import WAITS


def train(
    options: tyro.conf.Positional[tuple[str, ...]] = ("--config", "ipcl_smoke"),
    steps: int = 200,
    json: Path | None = None,
) -> Measured:
    """Measures views a second of a run with its read-outs, and whether memory use, speed and compilations change.

    The first tenth of the run is left out, in which programs are compiled and caches filled.

    Args:
        options: of train.py, after a `--`: another --config, a --data.source.
        steps: batches to train.
        json: file to write the measurements to.
    """
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        given = (*options, "--max-steps", str(steps), "--out", str(Path(folder, "run")))
        config = recipes.load(list(given), "train")
        start = time.perf_counter()
        with contextlib.redirect_stdout(nowhere), Memory() as memory, Compilations() as compilations:
            code = run("train", *given)
        seconds = time.perf_counter() - start
        if code:
            raise ConfigError(f"The run ended with exit code {code}; run train.py with these options to see why.")
        lines, _ = read_metrics(Path(folder, "run"))
        log = Path(folder, "run", "log.txt").read_text(encoding="utf-8")
    compiled = [program.done - start for program in compilations.programs]
    speeds = [line["views_per_second"] for line in lines if "views_per_second" in line]  # the first step has none
    part = len(speeds) // 10
    waits = {name: [line[name] for line in lines[part:] if name in line] for name in WAITS}
    n_views = config.batch_size * config.views.per_image
    table = Measured(
        f"train, {config.precision}", "views/s", ("ours",), [(speed,) for speed in speeds[part:]]
    )
    table.facts = {
        "run": f"{config.name}, {len(lines):,} steps of {n_views} views, {seconds:.0f} s",
        "decoding": decoding[1] if (decoding := re.search(r"Decoding with (.*)", log)) else "threads",
        "views/s by tenth": ", ".join(
            f"{statistics.median(speeds[i * part : (i + 1) * part]):,.1f}" for i in range(10)
        ),
        "waits of a step, median, ms": ", ".join(
            f"{name.removeprefix('wait_')} {1000 * statistics.median(seconds):.1f}"
            for name, seconds in waits.items()
            if seconds
        ),
        "memory in the second tenth, MB": memory.most(0.1, 0.2),
        "memory in the last tenth, MB": memory.most(0.9, 1),
        "programs compiled in the first tenth": sum(when < seconds / 10 for when in compiled),
        "programs compiled after it": sum(when >= seconds / 10 for when in compiled),
    }
    return finish(table, json)
