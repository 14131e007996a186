"""The penalty of each voxel's ridge regression: the exact leave-one-out choice, without computing every candidate.

Notation: a kernel of n images, centred, has eigenvectors Q and eigenvalues l. For a penalty a and centred responses y,
A = Q diag(1 / (l + a)) Q' gives the dual weights A y and the leave-one-out residuals (A y)_i / A_ii. The constant vector
is left out of Q, for the intercept is not penalised. Scaled by c = a + the least l, z = c A y, and the mean squared
leave-one-out error is sum_i w_i z_i^2 with w_i = 1 / (n (c A_ii)^2).

With r = Q'y, all inner products of z for two penalties are cheap: sums over r^2. If z is computed for one penalty, that
for another is k z + t with t orthogonal to z, k and the length of t known. So with any constant m its error is at least

    k^2 sum_i w_i z_i^2 - 2 k |(w - m) z| |t| + min(w) |t|^2,

and a penalty whose bound is above the error of a computed one can't be the best. Mostly one of nine is computed.

Source: leave-one-out residuals and the choice as in scikit-learn's RidgeCV; first guess by generalised cross-validation
(Golub, Heath & Wahba 1979); the bound follows from Cauchy and Schwarz's inequality.
"""

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

By = Literal["error", "correlation"]
"""What a penalty is chosen by: the least mean squared leave-one-out error, or the highest Pearson's r between
leave-one-out predictions and responses."""

_ROUNDING = 4.0  # errors of a float32 product's entries, in units of eps times the rows' root mean square; 1 is typical
_MARGIN = 128  # relative error of a sum of positive numbers, in units of eps; it is around 10
_CERTAIN = 5e-6  # float32 suffices if it changes a mean squared error by no more than this share
_CERTAIN_R = 1e-6  # or an r by no more than this


@dataclass(frozen=True)
class Arrays:
    """Where arrays lie and what multiplies them: NumPy and LAPACK, which are faster on CPUs, or JAX on its device.

    Attributes:
        xp: `numpy` or `jax.numpy`.
        eigh: eigenvalues `[n]`, ascending, and eigenvectors `[n, n]` of a symmetric float64 matrix that it may overwrite.
        matmul: matrix product in full precision.
        put: returns an array with some rows replaced.
        compile: compiles a function of arrays.
        fixed_shapes: whether to fill blocks up to the same size, as each new shape is compiled anew.
        float64: context in which arrays may be float64.
    """

    xp: Any
    eigh: Callable
    matmul: Callable
    put: Callable
    compile: Callable
    fixed_shapes: bool
    float64: Callable


def _put(array: np.ndarray, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    array[rows] = values
    return array


NUMPY = Arrays(
    xp=np,
    # A symmetric matrix is its transpose, which is in LAPACK's order, so that no copy is made.
    eigh=lambda matrix: scipy.linalg.eigh(matrix.T, driver="evd", overwrite_a=True, check_finite=False),
    matmul=np.matmul,
    put=_put,
    compile=lambda function: function,
    fixed_shapes=False,
    float64=contextlib.nullcontext,
)
JAX = Arrays(
    xp=jnp,
    eigh=jnp.linalg.eigh,
    matmul=functools.partial(jnp.matmul, precision="highest"),
    put=lambda array, rows, values: array.at[rows].set(values),
    compile=jax.jit,
    fixed_shapes=True,
    float64=functools.partial(jax.enable_x64, True),
)


def default_arrays() -> Arrays:
    """Returns JAX's arrays on an accelerator, else NumPy's."""
    return NUMPY if jax.default_backend() == "cpu" else JAX


class Chosen(NamedTuple):
    """Penalties of v voxels.

    Attributes:
        scaled: `[v, n]` on the device, z of the chosen penalty.
        penalty: `[v]` int, the penalty's place.
        score: `[v]` float64, its loss: mean squared leave-one-out error, or -r.
        certain: `[v]`, whether rounding could not have changed the choice or the score noticeably.
    """

    scaled: Any
    penalty: np.ndarray
    score: np.ndarray
    certain: np.ndarray


class Penalties:
    """Candidates for the penalties of voxels on one kernel, in one precision.

    Args:
        values: `[k]` float64, eigenvalues of the centred kernel without that of the constant vector, 0 or above.
        vectors: `[n, k]` float64, their eigenvectors, on the device.
        alphas: `[A]` float64, penalties above 0.
        dtype: float32 or float64, of the products.
        arrays: where they are computed.

    Attributes:
        scale: `[A]` float64, c of each penalty; dual weights are z / c.
    """

    def __init__(self, values: np.ndarray, vectors: Any, alphas: np.ndarray, dtype: Any, arrays: Arrays):
        xp, count = arrays.xp, len(vectors)
        self.scale = alphas + values.min()
        shrink = self.scale[:, None] / (values[None] + alphas[:, None])  # [A, k], in (0, 1]
        self._leverage = np.asarray(arrays.matmul(xp.square(vectors), xp.asarray(shrink.T))).T  # [A, n], c A_ii
        self._weights = 1 / (count * self._leverage**2)
        self._length, self._count = np.linalg.norm(shrink, axis=1), count
        spread = np.square(self._weights - self._weights.mean(1, keepdims=True))
        self._arrays, self._eps = arrays, float(np.finfo(dtype).eps)
        self._vectors, self._shrink = xp.asarray(vectors, dtype), xp.asarray(shrink, dtype)
        self._pairs = xp.asarray((shrink[:, None] * shrink[None]).reshape(-1, len(values)).T, dtype)  # [k, A A]
        self._sums = xp.asarray(np.concatenate([self._weights, spread]).T, dtype)  # [n, 2 A]
        self._inverse = xp.asarray(1 / self._leverage, dtype)
        self._compute = arrays.compile(self._scaled)
        self._correlate = arrays.compile(self._left_out_r)

    def choose(self, rows: Any, by: By) -> Chosen:
        """Chooses the penalty of each voxel.

        Args:
            rows: `[v, n]` centred responses of about unit variance, on the device, of the products' dtype.
            by: what the best penalty has.

        Returns:
            The penalties with the least loss.
        """
        if by == "error":
            return self._least_error(rows)
        rotated = self._rotate(rows)
        lengths = self._lengths(rotated)
        chosen, score, best, losses, doubts = None, None, None, [], []
        for place in range(len(self.scale)):
            scaled, loss, doubt = self._evaluate(rows, rotated, lengths, by, place)
            losses.append(loss)
            doubts.append(doubt)
            if chosen is None:
                chosen, score, best = scaled, loss, np.zeros(len(loss), int)
            else:
                better = loss < score
                chosen = self._arrays.xp.where(better[:, None], scaled, chosen)
                score, best = np.where(better, loss, score), np.where(better, place, best)
        return Chosen(chosen, best, score, is_certain(np.stack(losses, 1), np.stack(doubts, 1), score, by))

    def take(self, rows: Any, by: By, place: int) -> Chosen:
        """Returns the same for a given penalty of all voxels."""
        rotated = self._rotate(rows)
        scaled, loss, doubt = self._evaluate(rows, rotated, self._lengths(rotated), by, place)
        certain = is_certain(loss[:, None], doubt[:, None], loss, by)
        return Chosen(scaled, np.full(len(loss), place), loss, certain)

    def losses(self, rows: Any, by: By) -> tuple[np.ndarray, np.ndarray]:
        """Returns the loss of each voxel and penalty, and how much rounding may have changed it, `[v, A]` each."""
        rotated = self._rotate(rows)
        lengths = self._lengths(rotated)
        found = [self._evaluate(rows, rotated, lengths, by, place)[1:] for place in range(len(self.scale))]
        losses, doubts = (np.stack(columns, 1) for columns in zip(*found, strict=True))
        return losses, doubts

    def _evaluate(self, rows: Any, rotated: Any, lengths: np.ndarray, by: By, place: int) -> tuple:
        """Returns z of all voxels with one penalty, their losses, and how much rounding may have changed these."""
        every, penalty = np.arange(len(rows)), np.full(len(rows), place)
        scaled, sums = self._compute(rotated, every, penalty)
        noise = self._noise(rows, lengths)[:, place]
        if by == "error":
            error = np.asarray(sums[:, place], np.float64)
            return scaled, error, _blur(error, noise)
        r, deviation = (np.asarray(one, np.float64) for one in self._correlate(rows, scaled, penalty))
        share = np.divide(noise, deviation, out=np.zeros_like(noise), where=deviation > 0)
        # Of a random error, only the part along one of n directions changes r to first order.
        return scaled, -r, 5 * share / np.sqrt(self._count) + share**2

    def _least_error(self, rows: Any) -> Chosen:
        rotated = self._rotate(rows)
        products = self._products(rotated)  # [v, A, A]
        lengths = np.diagonal(products, axis1=1, axis2=2)  # [v, A], |z|^2
        noise = self._noise(rows, lengths)
        errors, lowest = np.full(lengths.shape, np.inf), np.zeros(lengths.shape)
        best = (lengths / self._leverage.mean(1) ** 2).argmin(1)  # by generalised cross-validation
        voxels, penalty, chosen = np.arange(len(lengths)), best.copy(), None
        while len(voxels):
            scaled, sums = self._in_blocks(rotated, voxels, penalty)
            found = sums[np.arange(len(voxels)), penalty]
            better = np.flatnonzero(found < errors[voxels].min(1))
            errors[voxels, penalty] = found
            best[voxels[better]] = penalty[better]
            if chosen is None:
                chosen = scaled
            elif len(better):
                chosen = self._arrays.put(chosen, voxels[better], scaled[better])
            bound, estimate = self._bound(products[voxels], penalty, sums)
            lowest[voxels] = np.maximum(lowest[voxels], bound)
            least = np.square(np.maximum(np.sqrt(lowest[voxels]) - noise[voxels], 0))
            open_ = (least < errors[voxels].min(1)[:, None]) & np.isinf(errors[voxels])
            penalty = np.where(open_, estimate, np.inf).argmin(1)[open_.any(1)]
            voxels = voxels[open_.any(1)]
        score = errors.min(1)
        return Chosen(chosen, best, score, is_certain(errors, _blur(errors, noise), score, "error"))

    def _rotate(self, rows: Any) -> Any:
        return self._arrays.matmul(rows, self._vectors)  # [v, k]

    def _lengths(self, rotated: Any) -> np.ndarray:
        """Returns |z|^2 of all penalties, `[v, A]` float64."""
        squares = self._arrays.xp.square(self._shrink.T)
        return np.asarray(self._arrays.matmul(self._arrays.xp.square(rotated), squares), np.float64)

    def _products(self, rotated: Any) -> np.ndarray:
        """Returns inner products of z of all pairs of penalties, `[v, A, A]` float64."""
        found = np.asarray(self._arrays.matmul(self._arrays.xp.square(rotated), self._pairs), np.float64)
        return found.reshape(len(found), len(self.scale), -1)

    def _scaled(self, rotated: Any, voxels: Any, penalty: Any) -> tuple[Any, Any]:
        """Returns z `[p, n]` of some voxels, each with a penalty, and the sums `[p, 2 A]` of z^2 with each penalty's weights."""
        scaled = self._arrays.matmul(rotated[voxels] * self._shrink[penalty], self._vectors.T)
        return scaled, self._arrays.matmul(self._arrays.xp.square(scaled), self._sums)

    def _left_out_r(self, rows: Any, scaled: Any, penalty: Any) -> tuple[Any, Any]:
        """Returns r of leave-one-out predictions and responses, and the standard deviation of predictions, `[v]` each."""
        xp = self._arrays.xp
        predicted = rows - scaled * self._inverse[penalty]
        predicted = predicted - predicted.mean(1, keepdims=True)
        length, known = xp.linalg.norm(predicted, axis=1), xp.linalg.norm(rows, axis=1)
        product = length * known
        r = (predicted * rows).sum(1) / xp.where(product > 0, product, 1)
        return r, length / self._count**0.5

    def _in_blocks(self, rotated: Any, voxels: np.ndarray, penalty: np.ndarray) -> tuple[Any, np.ndarray]:
        count = len(voxels)
        if self._arrays.fixed_shapes:
            fill = (0, len(rotated) - count)
            voxels, penalty = np.pad(voxels, fill), np.pad(penalty, fill)
        scaled, sums = self._compute(rotated, voxels, penalty)
        return scaled, np.asarray(sums[:count], np.float64)

    def _bound(
        self, products: np.ndarray, penalty: np.ndarray, sums: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns lower bounds and estimates `[p, A]` of all penalties' errors, from sums of z^2 of one penalty."""
        margin, voxels, size = _MARGIN * self._eps, np.arange(len(penalty)), len(self.scale)
        lengths = np.diagonal(products, axis1=1, axis2=2)
        own = lengths[voxels, penalty][:, None]
        share = products[voxels, penalty] / np.where(own > 0, own, 1)  # k
        rest, error = lengths - share**2 * own, margin * lengths  # |t|^2
        weighted, spread = share**2 * sums[:, :size], share * np.sqrt(sums[:, size:])
        bound = (
            (1 - margin) * weighted
            - 2 * (1 + margin) * spread * np.sqrt(np.maximum(rest, 0) + error)
            + self._weights.min(1) * np.maximum(rest - error, 0)
        )
        return bound, weighted + self._weights.mean(1) * np.maximum(rest, 0)

    def _noise(self, rows: Any, lengths: np.ndarray) -> np.ndarray:
        """Returns the root mean square by which rounding may change leave-one-out residuals, `[v, A]`."""
        power = np.asarray(self._arrays.xp.square(rows).mean(1), np.float64)
        # From Q'y, then from the product with Q.
        scaled = np.sqrt(power)[:, None] * self._length + np.sqrt(lengths)
        return _ROUNDING * self._eps * scaled * np.sqrt(self._weights.sum(1) / self._count)


def is_certain(losses: np.ndarray, doubts: np.ndarray, score: np.ndarray, by: By) -> np.ndarray:
    """Returns whether the best of some losses is the best, and as large, up to a negligible part, whatever rounding did.

    Args:
        losses: `[v, A]`, by penalty; infinite where they are known to be above the least.
        doubts: `[v, A]`, how much rounding may have changed them.
        score: `[v]`, the chosen penalty's loss.
        by: what losses are.

    Returns:
        `[v]` bool.
    """
    allowed = _CERTAIN * score if by == "error" else np.full_like(score, _CERTAIN_R)
    rival = np.isfinite(losses) & (losses - np.where(np.isfinite(losses), doubts, 0) <= score[:, None])
    return ~(rival & (doubts > allowed[:, None])).any(1)


def _blur(errors: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Returns how much a mean square changes at most if the vector changes by this root mean square."""
    return 2 * np.sqrt(np.where(np.isfinite(errors), errors, 0)) * noise + noise**2
