"""Ridge regression of voxels on a kernel of images, with penalties chosen by leave-one-out.

Kernels are products of all pairs of images' features, so a layer can have any number of features; which vector was
subtracted from all features makes no difference, since the intercept is not penalised.

Source: Hoerl & Kennard 1970 (ridge); leave-one-out errors and their use as in scikit-learn's RidgeCV.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ipcl_jax.errors import InputError
from ipcl_jax.readout.base import centre
from ipcl_jax.readout.ridge_blocks import MEMORY, check_alphas, solve
from ipcl_jax.readout.ridge_penalties import By


class Fit(NamedTuple):
    """Voxels' predicted responses, and how they were fitted.

    Attributes:
        predictions: `[m, V]`, float32 for float32 responses, otherwise float64.
        alpha: `[V]` float64, penalty of each voxel.
        held_out: `[V]` float64, leave-one-out score of each voxel with that penalty: mean squared error, or r.
    """

    predictions: np.ndarray
    alpha: np.ndarray
    held_out: np.ndarray


class LeftOut(NamedTuple):
    """Responses to images, each predicted from all others.

    Attributes:
        predictions: `[N, V]` float64.
        alpha: `[N]`, or `[N, V]` where each voxel has its own: penalties of the fits without that image.
    """

    predictions: np.ndarray
    alpha: np.ndarray


def fit_predict(
    own: np.ndarray,
    cross: np.ndarray,
    responses: Any,
    alphas: Sequence[float],
    *,
    by: By = "error",
    per_voxel: bool = True,
    memory: int = MEMORY,
) -> Fit:
    """Fits ridge regression to the responses of V voxels to n images, and predicts those to m others.

    It equals scikit-learn's `RidgeCV(alphas, alpha_per_target=per_voxel)` on features. Products are float32 for float32
    responses, but for voxels where rounding might change the choice of a penalty or its score by more than 5e-6 of an
    error or 1e-6 in r, as where there is no noise: those are computed in float64.

    Args:
        own: `[n, n]` kernel of the fitted images.
        cross: `[m, n]` kernel of the others with the fitted images.
        responses: `[n, V]`, in memory or an HDF5 dataset, which is read a block of voxels at a time.
        alphas: penalties, in units of the kernel.
        by: what the best penalty has: the least mean squared leave-one-out error within the n images, or the highest r
            between leave-one-out predictions and responses (0 for a voxel that is constant).
        per_voxel: choose for each voxel, or else once for all by the mean over voxels.
        memory: bytes for voxels that are computed at a time, beside the kernels, responses and results.

    Returns:
        Predictions, penalties and leave-one-out scores.

    Raises:
        InputError: if shapes don't fit together, a value isn't finite, or a penalty isn't above 0.
    """
    count = len(own)
    _check_responses(responses, count)
    _check_kernel("own", own, (count, count))
    _check_kernel("cross", cross, (len(cross), count))
    kernel = np.array(own, np.float64)
    means = kernel.mean(0)
    cross = np.asarray(cross, np.float64)
    cross = cross - cross.mean(1, keepdims=True)
    cross -= means - means.mean()
    kernel -= means
    kernel -= means[:, None]
    kernel += means.mean()
    found = solve(kernel, cross, responses, alphas, by=by, per_voxel=per_voxel, memory=memory)
    predictions = found.products
    predictions += found.means.astype(predictions.dtype)
    return Fit(predictions, found.alpha, found.held_out)


def leave_one_out(
    kernel: np.ndarray,
    responses: np.ndarray,
    alphas: Sequence[float],
    *,
    per_voxel: bool = False,
    memory: int = MEMORY,
) -> LeftOut:
    """Predicts the responses to each image by ridge regression on all others.

    The fit without an image chooses its penalty by leave-one-out among the N - 1 others, by the least mean squared error.
    So it equals N fits of scikit-learn's `RidgeCV(alphas, alpha_per_target=per_voxel)`. In float64.

    Without a set F of images, residuals on F are A_FF^-1 (A y)_F, with A the matrix that gives dual weights. With F one
    image these are the predictions, and with F two, the errors by which the penalty is chosen.

    Args:
        kernel: `[N, N]`.
        responses: `[N, V]`.
        alphas: penalties, in units of the kernel.
        per_voxel: choose for each voxel, or else once for all by the mean over voxels.
        memory: bytes for voxels that are computed at a time, beside the responses and results.

    Raises:
        InputError: for fewer than 3 images, if shapes don't fit together, a value isn't finite, or a penalty isn't
            above 0.
    """
    responses = np.asarray(responses)
    count, penalties = len(kernel), check_alphas(alphas)
    _check_responses(responses, count, least=3)
    _check_kernel("of the images", kernel, (count, count))
    if not np.isfinite(responses).all():
        raise InputError("Responses hold values that are not finite numbers.")
    fits = _fits_without_one(np.asarray(kernel, np.float64), penalties)
    step = max(1, memory // (8 * count * (len(penalties) + 6)))
    blocks = [slice(start, start + step) for start in range(0, responses.shape[1], step)]
    predictions = np.empty(responses.shape)
    if per_voxel:
        chosen = np.empty(responses.shape, int)
    else:
        errors = sum(_errors(fits, responses[:, block]).sum(2) for block in blocks)  # [A, N]
        chosen = np.argmin(errors, 0)[:, None]
    for block in blocks:
        if per_voxel:
            chosen[:, block] = _errors(fits, responses[:, block]).argmin(0)
        values = centre(responses[:, block].astype(np.float64))
        residuals = np.stack([one.weights @ values / one.diagonal[:, None] for one in fits])  # [A, N, v]
        places = chosen[:, block] if per_voxel else chosen
        predictions[:, block] = responses[:, block] - np.take_along_axis(residuals, places[None], 0)[0]
    return LeftOut(predictions, penalties[chosen if per_voxel else chosen[:, 0]])


class _WithoutOne(NamedTuple):
    """Matrices of one penalty, by which errors without one image, and without two, are computed.

    Attributes:
        weights: `[N, N]`, A.
        diagonal: `[N]`, that of A.
        squares, products, lengths: `[N, N]`, `[N, N]`, `[N]`. Where image i is left out, the sum of squared
            leave-one-out errors of the others is `squares[i] @ u^2 - 2 u_i products[i] @ u + lengths[i] u_i^2`, u = A y.
    """

    weights: np.ndarray
    diagonal: np.ndarray
    squares: np.ndarray
    products: np.ndarray
    lengths: np.ndarray


def _fits_without_one(kernel: np.ndarray, penalties: np.ndarray) -> list[_WithoutOne]:
    kernel = kernel - kernel.mean(0)
    kernel -= kernel.mean(1, keepdims=True)
    count, found = len(kernel), []
    level = np.trace(kernel) / count
    for penalty in penalties:
        # A constant added to a centred kernel touches the constant vector only, which is then taken out again.
        inverse = np.linalg.inv(kernel + level / count + penalty * np.eye(count))
        weights = (inverse + inverse.T) / 2 - 1 / ((level + penalty) * count)
        diagonal = np.diag(weights).copy()
        share = weights / diagonal[:, None]  # [i, j]: A_ji / A_ii
        others = diagonal[None] - share * weights
        np.fill_diagonal(others, np.inf)
        squares = others**-2
        products = squares * share
        found.append(_WithoutOne(weights, diagonal, squares, products, (products * share).sum(1)))
    return found


def _errors(fits: Sequence[_WithoutOne], responses: np.ndarray) -> np.ndarray:
    """Returns sums of squared leave-one-out errors without each image, `[A, N, v]`."""
    values = centre(responses.astype(np.float64))
    found = []
    for one in fits:
        rest = one.weights @ values
        found.append(
            one.squares @ rest**2 - 2 * rest * (one.products @ rest) + one.lengths[:, None] * rest**2
        )
    return np.stack(found)


def _check_kernel(name: str, kernel: np.ndarray, shape: tuple[int, int]) -> None:
    if np.shape(kernel) != shape:
        raise InputError(f"Kernel {name} is of shape {list(np.shape(kernel))}; expected {list(shape)}.")
    if not np.isfinite(kernel).all():
        raise InputError(f"Kernel {name} holds values that are not finite numbers.")


def _check_responses(responses: Any, count: int, least: int = 2) -> None:
    shape = tuple(responses.shape)
    if len(shape) != 2 or shape[0] != count or not shape[1] or count < least:
        raise InputError(
            f"The kernel is of {count} images and responses are of shape {list(shape)}; expected [{count}, V], of "
            f"{least} images or more."
        )
