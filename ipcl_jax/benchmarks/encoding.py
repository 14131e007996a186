"""Benchmark of voxel-wise encoding: ridge regression of many voxels on one layer."""

import json as json_format
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np

from ipcl_jax.benchmarks.turns import Measured, finish, take_turns
from ipcl_jax.errors import require


def encoding(
    images: int = 3000,
    tested: int = 750,
    features: int = 4096,
    voxels: int = 20_000,
    rounds: int = 3,
    seed: int = 0,
    against: Literal["himalaya"] | None = None,
    json: Path | None = None,
) -> Measured:
    """Measures ridge regression of voxels on features, with nine penalties to choose from for each voxel.

    Every turn is a new process, which has features and responses in memory and ends with predictions for further images
    and their correlation with the responses. These are linear in the features, plus noise.

    Args:
        images: images to fit.
        tested: further images.
        features: number of features.
        voxels: number of voxels.
        rounds: turns of either.
        seed: seed of the data.
        against: himalaya's KernelRidgeCV chooses among the same penalties by five folds, on NumPy.
        json: file to write the measurements to.
    """
    if against:
        require("--against himalaya", "test", "himalaya")
    sides = ("ours", against) if against else ("ours",)
    table = Measured("encoding", "voxels/s", sides)
    table.facts["data"] = f"{images:,} images of {features:,} features, {tested:,} more, {voxels:,} voxels"
    with tempfile.TemporaryDirectory() as folder:
        _plant(Path(folder), images, tested, features, voxels, seed)
        r, memory = {}, dict.fromkeys(sides, 0.0)

        def turn(side: str) -> float:
            command = [sys.executable, "-m", "ipcl_jax.benchmarks.encoding_side", side, folder]
            answer = json_format.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            r[side] = np.load(Path(folder, f"r_{side}.npy"))
            memory[side] = max(memory[side], answer["peak memory, MB"])
            return voxels / answer["seconds"]

        table.turns = take_turns(rounds, *(lambda side=side: turn(side) for side in sides))
    for side in sides:
        table.facts[f"peak memory of {side}, MB, the data among it"] = memory[side]
        table.facts[f"mean r of {side}"] = float(r[side].mean())
    if against:
        table.facts["r, ours less theirs, mean"] = float((r["ours"] - r[against]).mean())
        table.facts["the same, largest"] = float(np.abs(r["ours"] - r[against]).max())
    return finish(table, json)


def _plant(folder: Path, images: int, tested: int, features: int, voxels: int, seed: int) -> None:
    """Writes X `[images + tested, features]` and Y `[images + tested, voxels]` float32, `images` of them to be fitted."""
    rng, count = np.random.default_rng(seed), images + tested
    X = rng.standard_normal((count, features), np.float32) * np.arange(1, features + 1, dtype=np.float32) ** -0.5
    Y = X @ rng.standard_normal((features, voxels), np.float32)
    Y *= rng.uniform(0, 1, voxels).astype(np.float32) / Y.std(0)  # signal
    Y += rng.standard_normal(Y.shape, np.float32)
    for name, values in (("X", X[:images]), ("X2", X[images:]), ("Y", Y[:images]), ("Y2", Y[images:])):
        np.save(folder / f"{name}.npy", values)
