"""A process of the encoding benchmark: `python -m ipcl_jax.benchmarks.encoding_side ours FOLDER`, or `himalaya`."""

import json
import re
import resource
import sys
import time
from pathlib import Path

import numpy as np

ALPHAS = tuple(10.0**power for power in range(-4, 5))
"""Penalties, in units of the features' mean variance."""


def ours(X: np.ndarray, Y: np.ndarray, X2: np.ndarray, Y2: np.ndarray) -> np.ndarray:
    """Fits and predicts with this package; returns r `[V]`."""
    from ipcl_jax.readout.ridge import correlation
    from ipcl_jax.readout.ridge_solver import fit_predict

    alphas = X.var(0, dtype=np.float64).sum() * np.array(ALPHAS)
    return correlation(fit_predict(X @ X.T, X2 @ X.T, Y, alphas.tolist()).predictions, Y2)


def himalaya(X: np.ndarray, Y: np.ndarray, X2: np.ndarray, Y2: np.ndarray) -> np.ndarray:
    """Does the same with himalaya, as its users do on a CPU."""
    import numpy._core.numeric as numeric

    vars(numeric).setdefault("ComplexWarning", np.exceptions.ComplexWarning)  # himalaya 0.4 imports it from where NumPy 1 had it
    sys.modules["numpy.core.numeric"] = numeric
    from himalaya.backend import set_backend
    from himalaya.kernel_ridge import KernelRidgeCV
    from himalaya.scoring import correlation_score

    set_backend("numpy")
    alphas = X.var(0, dtype=np.float64).sum() * np.array(ALPHAS)
    ridge = KernelRidgeCV(alphas=alphas, kernel="linear", cv=5).fit(X, Y)
    return correlation_score(Y2, ridge.predict(X2))


def main(side: str, folder: Path) -> dict[str, float]:
    """Runs one side, writes its r, and returns the seconds and the process's peak memory."""
    X, Y, X2, Y2 = (np.load(folder / f"{name}.npy") for name in ("X", "Y", "X2", "Y2"))
    run = {"ours": ours, "himalaya": himalaya}[side]
    rows = slice(0, 16)  # imports, and threads that start at the first product
    run(X[rows, :16], Y[rows, :16], X2[rows, :16], Y2[rows, :16])
    start = time.perf_counter()
    r = run(X, Y, X2, Y2)
    seconds = time.perf_counter() - start
    np.save(folder / f"r_{side}.npy", r)
    return {"seconds": seconds, "peak memory, MB": _peak()}


def _peak() -> float:
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count the process that started this one
        return int(re.findall(r"VmHWM:\s*([0-9]+) kB", status.read_text())[0]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))
