"""A stand-in for `ExploringObjectsData_SECTORS.mat`, small, with the layout of the file."""

from pathlib import Path

import numpy as np
import scipy.io

CONDITIONS = tuple(f"object{place:02}" for place in range(9))
SIZES = {"EarlyV": (5, 6, 7), "pOTC": (8, 4, 3), "aOTC": (2, 10, 11)}  # voxels of each of three subjects


def cells(values) -> np.ndarray:
    """A cell array of MATLAB with one row."""
    found = np.empty((1, len(values)), object)
    for place, value in enumerate(values):
        found[0, place] = value
    return found


def planted() -> tuple[dict, dict]:
    """Responses `[V, 9]` and reliabilities `[V, 1]` by region and subject."""
    rng = np.random.default_rng(0)
    betas = {name: [rng.normal(size=(size, 9)) for size in sizes] for name, sizes in SIZES.items()}
    reliability = {name: [rng.uniform(0, 1, (size, 1)) for size in sizes] for name, sizes in SIZES.items()}
    for values in reliability.values():
        for some in values:
            some[0], some[1] = 0.3, np.nan  # not above 0.3, and unknown
            some[-1] = 0.9  # kept
    return betas, reliability


def write(path: Path, betas: dict, reliability: dict, conditions=CONDITIONS, parts: str = "SECTORS") -> Path:
    content = {
        "conditions": cells(conditions).T,
        "Betas": {name: cells(values) for name, values in betas.items()},
        "Reliability": {name: cells(values) for name, values in reliability.items()},
    }
    scipy.io.savemat(path, {parts: content})
    return path
