"""Ridge regression of voxels on a kernel, a block of voxels at a time, in float32 where that suffices."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, get_args

import numpy as np

from ipcl_jax.errors import InputError
from ipcl_jax.readout.base import centre
from ipcl_jax.readout.ridge_penalties import Arrays, By, Penalties, default_arrays, is_certain

MEMORY = 1 << 28
"""Bytes for voxels that are computed at a time; larger blocks are hardly faster."""


class Solved(NamedTuple):
    """Ridge regressions of V voxels.

    Attributes:
        products: `[m, V]`, a given matrix times the dual weights; float32 for float32 responses, otherwise float64.
        alpha: `[V]` float64, penalty of each voxel.
        held_out: `[V]` float64, leave-one-out score of each voxel with that penalty: mean squared error, or r.
        means: `[V]` float64, mean response of each voxel.
    """

    products: np.ndarray
    alpha: np.ndarray
    held_out: np.ndarray
    means: np.ndarray


def solve(
    kernel: np.ndarray,
    project: np.ndarray,
    responses: Any,
    alphas: Sequence[float],
    *,
    by: By = "error",
    per_voxel: bool = True,
    memory: int = MEMORY,
    arrays: Arrays | None = None,
) -> Solved:
    """Fits ridge regressions, and multiplies a matrix with their dual weights `[n, V]`.

    Args:
        kernel: `[n, n]` float64, centred; it is overwritten.
        project: `[m, n]`: a centred kernel with other images, or features `[D, n]` to get a voxel's weights.
        responses: as for `ridge_solver.fit_predict`, which describes the other arguments too.
        arrays: where it is computed.

    Raises:
        InputError: if a response isn't finite, or an argument is invalid.
    """
    penalties = check_alphas(alphas)
    if by not in get_args(By):
        raise InputError(f"by is {by!r}; it must be 'error' or 'correlation'.")
    dtype = np.float32 if responses.dtype in (np.float16, np.float32) else np.float64
    count, total = len(kernel), responses.shape[1]
    arrays = arrays or default_arrays()
    step = min(total, max(16, memory // (8 * np.dtype(dtype).itemsize * count)))
    products = np.empty((len(project), total), dtype)
    chosen, scores, means = np.empty(total, int), np.empty(total), np.empty(total)
    blocks = functools.partial(_blocks, responses, dtype, step)
    with arrays.float64():
        solver = _Solver(kernel, project, penalties, dtype, arrays)
        common = None if per_voxel else solver.common_penalty(blocks, by)
        for voxels, block, mean in blocks():
            products[:, voxels], chosen[voxels], scores[voxels] = solver.fit(block, by, common)
            means[voxels] = mean
    return Solved(products, penalties[chosen], scores, means)


class _Solver:
    """Ridge regression on one kernel; float32 responses are computed in float32 where that suffices."""

    def __init__(self, kernel: np.ndarray, project: np.ndarray, alphas: np.ndarray, dtype: Any, arrays: Arrays):
        # The constant vector, whose eigenvalue is 0, gets the largest one instead, and is left out.
        kernel += 2 * np.linalg.norm(kernel) / len(kernel) or 1.0
        values, vectors = arrays.eigh(arrays.xp.asarray(kernel))
        self._values, self._vectors = np.maximum(np.asarray(values)[:-1], 0), vectors[:, :-1]
        self._alphas, self._arrays, self._dtype = alphas, arrays, np.dtype(dtype)
        self._unit = self._values.mean() or 1.0
        self._project = project / self._unit

    @functools.cached_property
    def _fast(self) -> "_Precision":
        return self._exact if self._dtype == np.float64 else self._in(np.float32)

    @functools.cached_property
    def _exact(self) -> "_Precision":
        return self._in(np.float64)

    def _in(self, dtype: Any) -> "_Precision":
        penalties = Penalties(self._values, self._vectors, self._alphas, dtype, self._arrays)
        return _Precision(np.dtype(dtype), penalties, self._arrays.xp.asarray(self._project.T, dtype))

    def fit(self, block: np.ndarray, by: By, common: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns products `[m, v]`, places of penalties `[v]` and scores `[v]` of responses `[v, n]`."""
        products, penalty, score, certain = self._fit(self._fast, block, by, common)
        if self._fast is not self._exact and not certain.all():
            again = ~certain
            products[:, again], penalty[again], score[again], _ = self._fit(self._exact, block[again], by, common)
        return products, penalty, score

    def _fit(self, precision: "_Precision", block: np.ndarray, by: By, common: int | None) -> tuple:
        rows, scale = precision.rows(block)
        rows, penalties = self._arrays.xp.asarray(rows), precision.penalties
        found = penalties.choose(rows, by) if common is None else penalties.take(rows, by, common)
        products = np.asarray(self._arrays.matmul(found.scaled, precision.project))  # [v, m]
        products = products.T * (scale * self._unit / penalties.scale[found.penalty]).astype(products.dtype)
        score = scale**2 * found.score if by == "error" else -found.score
        return products, found.penalty, score, found.certain

    def common_penalty(self, blocks: Callable[[], Iterable[tuple[slice, np.ndarray, np.ndarray]]], by: By) -> int:
        """Returns the place of the penalty that is best on average over voxels."""
        for precision in (self._fast, self._exact):
            losses, doubts = np.zeros(len(self._alphas)), np.zeros(len(self._alphas))
            for _, block, _ in blocks():
                rows, scale = precision.rows(block)
                loss, doubt = precision.penalties.losses(self._arrays.xp.asarray(rows), by)
                unit = scale[:, None] ** 2 if by == "error" else 1 / len(scale)
                losses += (unit * loss).sum(0)
                doubts += (unit * doubt).sum(0)
            if is_certain(losses[None], doubts[None], losses.min(keepdims=True), by).all():
                break
        return int(losses.argmin())


class _Precision(NamedTuple):
    """What is computed in one dtype."""

    dtype: np.dtype
    penalties: Penalties
    project: Any  # [n, m] on the device

    def rows(self, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Centres responses `[v, n]` and divides them by powers of 2, `[v]`, so that squares neither under- nor overflow."""
        rows = centre(block.astype(self.dtype, copy=False), axis=1)
        scale = np.exp2(np.frexp(np.abs(rows).max(1))[1].astype(np.float64))
        return rows / scale.astype(self.dtype)[:, None], scale


def _blocks(responses: Any, dtype: Any, step: int) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Yields responses a block of voxels at a time: which voxels, `[v, n]`, and their means `[v]` float64."""
    for start in range(0, responses.shape[1], step):
        block = np.ascontiguousarray(np.asarray(responses[:, start : start + step], dtype).T)
        if not np.isfinite(block).all():
            voxel = start + int(np.flatnonzero(~np.isfinite(block).all(1))[0])
            raise InputError(f"Responses of voxel {voxel} hold values that are not finite numbers.")
        yield slice(start, start + len(block)), block, block.mean(1, dtype=np.float64)


def check_alphas(alphas: Sequence[float]) -> np.ndarray:
    """Returns penalties as `[A]` float64, or raises InputError if there are none, or one isn't above 0."""
    found = np.ravel(alphas).astype(np.float64)
    if not found.size or not ((found > 0) & (found < np.inf)).all():
        raise InputError(f"alphas are {found.tolist()}; one or more must be given, and each must be above 0.")
    return found
