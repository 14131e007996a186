"""Representational geometry: dissimilarity matrices (RDMs), their comparison with measured RDMs, and CKA.

Source: Kriegeskorte, Mur & Bandettini 2008 (RSA); Nili et al. 2014 (noise ceiling); Kornblith et al. 2019 (CKA);
Nguyen, Raghu & Kornblith 2021 (its debiased form, after Song et al. 2012).
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jax.typing import ArrayLike

from ipcl_jax.errors import InputError, near_miss, require
from ipcl_jax.readout.base import check_rdms, rounding_error
from ipcl_jax.readout.kernels import MEMORY, Metric, kernel_matrix, kernel_of

Comparison = Literal["spearman", "tau-a", "corr", "cosine", "rho-a", "corr_cov", "cosine_cov"]
"""Methods of comparing two RDMs, by rsatoolbox's names; the last two weight dissimilarities by the covariance of
their errors."""


def rdm(features: ArrayLike, metric: Metric = "correlation") -> np.ndarray:
    """Computes the representational dissimilarity matrix of features.

    Args:
        features: `[N, ...]`; each image's are flattened.
        metric: `correlation` 1 - r, `cosine` 1 - cosine, or `euclidean` distance.

    Returns:
        `[N, N]` float32, symmetric, zero on the diagonal.
    """
    return to_rdm(kernel_matrix(features, kernel_of(metric)), metric)


def to_rdm(kernel: np.ndarray, metric: Metric) -> np.ndarray:
    """Converts a kernel `[N, N]` from `kernels` to an RDM; see `rdm`."""
    if metric == "euclidean":
        length = np.diag(kernel)
        found = np.sqrt(np.maximum(length[:, None] + length[None] - 2 * kernel, 0))
    else:
        found = np.clip(1 - kernel, 0, 2)
    np.fill_diagonal(found, 0)
    return found


def upper(rdms: np.ndarray) -> np.ndarray:
    """Returns the entries above the diagonal, row by row: `[..., N, N]` -> `[..., N (N - 1) / 2]`."""
    return rdms[..., *np.triu_indices(rdms.shape[-1], 1)]


@dataclass(frozen=True)
class Agreement:
    """Agreement of models' RDMs with measured RDMs.

    Attributes:
        method: how RDMs were compared.
        scores: for each model, the mean over subjects.
        by_subject: for each model, `[S]`.
        sem: for each model, the standard deviation over bootstrap samples of subjects and stimuli (of stimuli only
            for one subject); None without a bootstrap.
        ceiling: noise ceiling, lower and upper bound of the best possible model's score; None for one subject. The
            lower bound compares each subject with the mean of the others, the upper bound with the mean of all.
    """

    method: Comparison
    scores: dict[str, float]
    by_subject: dict[str, np.ndarray]
    sem: dict[str, float] | None
    ceiling: tuple[float, float] | None


def compare_rdms(
    models: Mapping[str, np.ndarray],
    measured: np.ndarray,
    *,
    method: Comparison = "spearman",
    bootstrap: int = 0,
    seed: int = 0,
) -> Agreement:
    """Compares RDMs of models with measured RDMs, using rsatoolbox.

    Args:
        models: RDMs `[N, N]` by the models' names.
        measured: `[S, N, N]`, one per subject, or `[N, N]` for one subject.
        method: how RDMs are compared.
        bootstrap: number of samples of subjects and stimuli; 0 for no bootstrap.
        seed: seed of the samples.

    Returns:
        Scores, their uncertainty and the noise ceiling. A model whose dissimilarities are all equal scores 0.

    Raises:
        InputError: for a matrix that is no RDM (finite, symmetric, zero on its diagonal), RDMs of different sizes,
            a measured RDM whose dissimilarities are all equal, or an unknown method.
        MissingPackage: without rsatoolbox.
    """
    check_comparison(method)
    if not isinstance(bootstrap, int | np.integer) or bootstrap < 0 or bootstrap == 1:
        raise InputError(f"bootstrap is {bootstrap!r}; it must be 0, or a number of samples, 2 or more.")
    measured = np.asarray(measured)
    if measured.ndim not in (2, 3) or measured.shape[-1] != measured.shape[-2] or not measured.size:
        raise InputError(f"Measured RDMs are of shape {list(measured.shape)}; expected [S, N, N], or [N, N].")
    measured = measured.reshape(-1, *measured.shape[-2:])
    count = measured.shape[-1]
    models = {name: np.asarray(found) for name, found in models.items()}
    if not models:
        raise InputError("There are no models to compare.")
    if wrong := [name for name, found in models.items() if found.shape != (count, count)]:
        raise InputError(
            f"The RDM of {wrong[0]} is {list(models[wrong[0]].shape)}, and measured ones are {[count, count]}."
        )
    if count < 3:
        raise InputError(f"An RDM of {count} images can't be compared; it takes 3.")
    for name, found in (*models.items(), ("the measured data", measured)):
        check_rdms(found, f"The RDM of {name}")
    if constant := [s for s, one in enumerate(measured) if _is_flat(one, method)]:
        raise InputError(
            f"All images are equally far apart in the measured RDM of subject {constant[0]}; there is nothing to compare."
        )
    toolbox = _rsatoolbox()
    flat = [name for name, found in models.items() if _is_flat(found, method)]
    given, models = models, {name: found for name, found in models.items() if name not in flat}
    if not models:  # rsatoolbox needs a model to compute the ceiling
        models = {"": measured[0]}
    data = toolbox.rdm.RDMs(upper(measured))
    fixed = [toolbox.model.ModelFixed(name, upper(found)) for name, found in models.items()]
    found = toolbox.inference.eval_fixed(fixed, data, method=method).evaluations[0]  # [models, S]
    by_subject = dict(zip(models, found, strict=True)) | {name: np.zeros(len(measured)) for name in flat}
    by_subject = {name: by_subject[name] for name in given}
    several = len(measured) > 1
    sem = None
    if bootstrap:
        evaluate = (
            toolbox.inference.eval_dual_bootstrap if several else toolbox.inference.eval_bootstrap_pattern
        )
        with _seeded_and_silent(seed):
            spread = evaluate(fixed, data, method=method, N=bootstrap).get_sem()
        sem = dict(zip(models, np.atleast_1d(spread).tolist(), strict=True)) | dict.fromkeys(flat, 0.0)
        sem = {name: sem[name] for name in given}
    ceiling = None
    if several:
        low, high = toolbox.inference.boot_noise_ceiling(data, method=method)
        ceiling = float(low), float(high)
    means = {name: float(np.mean(values)) for name, values in by_subject.items()}
    if not np.isfinite([*means.values(), *(sem or {}).values(), *(ceiling or ())]).all():
        raise InputError(
            f"Comparing RDMs of {count} images by {method} gives a number that is not finite; take another method, more "
            "images, or no bootstrap."
        )
    return Agreement(method, means, by_subject, sem, ceiling)


def _is_flat(found: np.ndarray, method: Comparison) -> bool:
    """Whether all dissimilarities are equal up to rounding (for a cosine, 0), so that comparisons are undefined."""
    pairs = upper(found)
    return not (abs(pairs) if method.startswith("cosine") else abs(pairs - pairs[0])).max() > rounding_error(
        pairs.astype(np.result_type(pairs, np.float16), copy=False), 0
    )


def check_comparison(method: Comparison) -> None:
    """Raises an error if RDMs can't be compared by this method.

    Raises:
        InputError: for an unknown method.
        MissingPackage: without rsatoolbox.
    """
    if method not in get_args(Comparison):
        raise InputError(f"No comparison {method!r}.{near_miss(method, get_args(Comparison))}")
    _rsatoolbox()


def _rsatoolbox():
    require("Comparing RDMs", "brain", "rsatoolbox")
    import rsatoolbox
    import rsatoolbox.inference
    import rsatoolbox.model
    import rsatoolbox.rdm

    return rsatoolbox


@contextlib.contextmanager
def _seeded_and_silent(seed: int) -> Iterator[None]:
    """Seeds NumPy's global state, from which rsatoolbox draws, and hides its progress bar."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            yield
    finally:
        np.random.set_state(state)


def cka(features: ArrayLike, other: ArrayLike, *, debiased: bool = False) -> float:
    """Computes linear centred kernel alignment of two layers, or models, on the same images.

    Args:
        features: `[N, ...]`; each image's are flattened.
        other: `[N, ...]`, of any width.
        debiased: estimate the value for infinitely many images; needs N > 3, and can be below 0.

    Returns:
        1 for features that are equal up to rotation and scale; near 0 (biased: above 0) for unrelated ones; 0 if a
        layer is the same for all images or, debiased, if all images are equally far apart.

    Raises:
        InputError: for different numbers of images, too few, or features that are not finite.
    """
    return kernel_cka(kernel_matrix(features, "linear"), kernel_matrix(other, "linear"), debiased=debiased)


def kernel_cka(kernel: np.ndarray, other: np.ndarray, *, debiased: bool = False) -> float:
    """Computes centred kernel alignment of two linear kernels of the same images; see `cka`.

    Args:
        kernel: `[N, N]`, kernel `linear` of `kernels`.
        other: `[N, N]`, likewise.
        debiased: as for `cka`.

    Raises:
        InputError: for kernels of different sizes or too few images.
    """
    return float(kernel_alignment({"": kernel}, {"": other}, debiased=debiased)[0, 0])


def kernel_alignment(
    kernels: Mapping[str, np.ndarray],
    others: Mapping[str, np.ndarray] | None = None,
    *,
    debiased: bool = False,
    memory: int = MEMORY,
) -> np.ndarray:
    """Computes centred kernel alignment of all pairs of L and M layers; see `cka`.

    Each kernel is centred once; the inner products of all pairs are one matrix product, some images' rows at a time.

    Args:
        kernels: L linear kernels `[N, N]` by layer.
        others: M of them, of the same images; None for the same layers.
        debiased: as for `cka`.
        memory: bytes that rows of centred kernels may take at a time.

    Returns:
        `[L, M]` float64.

    Raises:
        InputError: for kernels of different sizes or too few images.
    """
    rows, columns = list(kernels.values()), list((kernels if others is None else others).values())
    count = len(rows[0])
    if wrong := [one for one in (*rows, *columns) if one.shape != (count, count)]:
        raise InputError(f"Kernels are of {count} and {wrong[0].shape[0]} images.")
    if count < (4 if debiased else 2):
        raise InputError(f"CKA of {count} images; it takes {4 if debiased else 2}.")
    every = rows if others is None else [*rows, *columns]
    shifts = [_centring(np.asarray(kernel), debiased) for kernel in every]
    step = max(1, memory // (8 * count * len(every)))
    products, largest = np.zeros((len(every), len(every))), np.zeros(len(every))
    for start in range(0, count, step):
        part = slice(start, min(start + step, count))
        centred = np.empty((len(every), part.stop - start, count))
        for place, (kernel, shift) in enumerate(zip(every, shifts, strict=True)):
            np.subtract(kernel[part], shift, out=centred[place])
            centred[place] -= shift[part, None]
        if debiased:
            centred[:, np.arange(part.stop - start), np.arange(start, part.stop)] = 0
        largest = np.maximum(largest, np.abs(centred).max((1, 2)))
        flat = centred.reshape(len(every), -1)
        products += flat @ flat.T
    # A layer that is the same for all images, up to rounding, counts as exactly that.
    alive = largest > [rounding_error(np.asarray(kernel), (0, 1)).item() for kernel in every]
    length = np.sqrt(np.diag(products)) * alive
    length = np.outer(length, length)
    found = np.where(length > 0, products, 0) / np.where(length > 0, length, 1)
    return found[: len(rows), len(every) - len(columns) :]


def _centring(kernel: np.ndarray, debiased: bool) -> np.ndarray:
    """Returns the vector `[N]` that centres a symmetric kernel if it is subtracted from all rows and all columns.

    The sum of products of two such kernels is proportional to HSIC.

    Differs: the debiased kernel is centred without its diagonal (Székely & Rizzo 2014), which gives the sum of
    Song et al. without differences of large numbers.
    """
    means = kernel.mean(0, dtype=np.float64)
    shift = means - means.mean() / 2
    if not debiased:
        return shift
    # A centred kernel's columns sum to 0; without the diagonal, to what the diagonal lacks.
    sums = (2 * shift - np.diag(kernel)) / (len(kernel) - 2)
    return shift + sums - sums.sum() / (len(kernel) - 1) / 2
