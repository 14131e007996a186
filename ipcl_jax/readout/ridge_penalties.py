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
from collections.abc import Callable, Sequence
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
_CERTAIN = 1e-5  # float32 suffices if rounding changes a mean squared error by no more than this share
_CERTAIN_R = 1e-6  # or an r by no more than this


@dataclass(frozen=True)
class Arrays:
    """Where arrays lie and what multiplies them: NumPy and LAPACK, which are faster on CPUs, or JAX on its device.

    Attributes:
        xp: `numpy` or `jax.numpy`.
        eigh: eigenvalues `[n]`, ascending, and eigenvectors `[n, n]` of a symmetric float64 matrix that it may overwrite.
        matmul: matrix product in full precision.
        fixed_shapes: whether to fill blocks up to the same size, as operations are compiled for each new shape.
        float64: context in which arrays may be float64.
    """

    xp: Any
    eigh: Callable
    matmul: Callable
    fixed_shapes: bool
    float64: Callable


NUMPY = Arrays(
    xp=np,
    # A symmetric matrix is its transpose, which is in LAPACK's order, so that no copy is made.
    eigh=lambda matrix: scipy.linalg.eigh(matrix.T, driver="evd", overwrite_a=True, check_finite=False),
    matmul=np.matmul,
    fixed_shapes=False,
    float64=contextlib.nullcontext,
)
JAX = Arrays(
    xp=jnp,
    eigh=jnp.linalg.eigh,
    matmul=functools.partial(jnp.matmul, precision="highest"),
    fixed_shapes=True,
    float64=functools.partial(jax.enable_x64, True),
)


def default_arrays() -> Arrays:
    """Returns JAX's arrays on an accelerator, else NumPy's."""
    return NUMPY if jax.default_backend() == "cpu" else JAX


class Chosen(NamedTuple):
    """Penalties of v voxels.

    Attributes:
        rotated: `[v, k]` on the device, r times c / (l + a): weights of the eigenvectors in z.
        penalty: `[v]` int, the penalty's place.
        score: `[v]` float64, its loss: mean squared leave-one-out error, or -r.
        certain: `[v]`, whether rounding could not have changed the choice or the score noticeably.
    """

    rotated: Any
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
        scale: `[A]` float64, c of each penalty.
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
        losses, doubts = self._losses(rows, rotated, by, range(len(self.scale)))
        return self._chosen(rotated, losses.argmin(1), losses, doubts, by)

    def take(self, rows: Any, by: By, place: int) -> Chosen:
        """Returns the same for a given penalty of all voxels."""
        rotated = self._rotate(rows)
        losses, doubts = self._losses(rows, rotated, by, [place])
        return self._chosen(rotated, np.full(len(rows), place), losses, doubts, by)

    def losses(self, rows: Any, by: By) -> tuple[np.ndarray, np.ndarray]:
        """Returns the loss of each voxel and penalty, and how much rounding may have changed it, `[v, A]` each."""
        return self._losses(rows, self._rotate(rows), by, range(len(self.scale)))

    def _losses(
        self, rows: Any, rotated: Any, by: By, places: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        losses, deviations = [], []
        for place in places:
            penalty = np.full(len(rows), place)
            scaled, sums = self._scaled(rotated, np.arange(len(rows)), penalty)
            if by == "error":
                losses.append(np.asarray(sums[:, place], np.float64))
            else:
                r, deviation = self._left_out_r(rows, scaled, place)
                losses.append(-np.asarray(r, np.float64))
                deviations.append(np.asarray(deviation, np.float64))
        found, noise = np.stack(losses, 1), self._noise(rows, self._lengths(rotated))[:, list(places)]
        if by == "error":
            return found, _blur(found, noise)
        spread = np.stack(deviations, 1)
        share = np.divide(noise, spread, out=np.zeros_like(noise), where=spread > 0)
        # Of a random error, only the part along one of n directions changes r to first order.
        return found, 5 * share / np.sqrt(self._count) + share**2

    def _chosen(
        self, rotated: Any, penalty: np.ndarray, losses: np.ndarray, doubts: np.ndarray, by: By
    ) -> Chosen:
        certain = is_certain(losses, doubts, losses.min(1), by)
        return Chosen(rotated * self._shrink[penalty], penalty, losses.min(1), certain)

    def _least_error(self, rows: Any) -> Chosen:
        rotated = self._rotate(rows)
        products = self._products(rotated)  # [v, A, A]
        lengths = np.diagonal(products, axis1=1, axis2=2)  # [v, A], |z|^2
        noise = self._noise(rows, lengths)
        errors, lowest = np.full(lengths.shape, np.inf), np.zeros(lengths.shape)
        best = (lengths / self._leverage.mean(1) ** 2).argmin(1)  # guessed by generalised cross-validation
        voxels, penalty = np.arange(len(lengths)), best
        while len(voxels):
            sums = self._sums_of(rotated, voxels, penalty)
            errors[voxels, penalty] = sums[np.arange(len(voxels)), penalty]
            bound, estimate = self._bound(products[voxels], penalty, sums)
            lowest[voxels] = np.maximum(lowest[voxels], bound)
            least = np.square(np.maximum(np.sqrt(lowest[voxels]) - noise[voxels], 0))
            rival = (least < errors[voxels].min(1)[:, None]) & np.isinf(errors[voxels])
            left = rival.any(1)
            penalty, voxels = np.where(rival, estimate, np.inf).argmin(1)[left], voxels[left]
        return self._chosen(rotated, errors.argmin(1), errors, _blur(errors, noise), "error")

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

    def _left_out_r(self, rows: Any, scaled: Any, place: int) -> tuple[Any, Any]:
        """Returns r of leave-one-out predictions and responses, and the standard deviation of predictions, `[v]` each."""
        xp = self._arrays.xp
        predicted = rows - scaled * self._inverse[place][None]
        predicted = predicted - predicted.mean(1, keepdims=True)
        length, known = xp.linalg.norm(predicted, axis=1), xp.linalg.norm(rows, axis=1)
        product = length * known
        r = (predicted * rows).sum(1) / xp.where(product > 0, product, 1)
        return r, length / self._count**0.5

    def _sums_of(self, rotated: Any, voxels: np.ndarray, penalty: np.ndarray) -> np.ndarray:
        """Returns the sums of `_scaled`, as float64 in host memory."""
        count = len(voxels)
        if self._arrays.fixed_shapes:
            fill = (0, len(rotated) - count)
            voxels, penalty = np.pad(voxels, fill), np.pad(penalty, fill)
        _, sums = self._scaled(rotated, voxels, penalty)
        return np.asarray(sums[:count], np.float64)

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
