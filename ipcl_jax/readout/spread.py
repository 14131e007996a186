"""Measures of how embeddings are spread, which detect their collapse.

The loss alone doesn't show a collapse, in which all images have the same embedding.
"""

from collections.abc import Mapping

import numpy as np

from ipcl_jax.errors import InputError
from ipcl_jax.readout.knn import nearest


def instance_retrieval(pairs: np.ndarray) -> float:
    """Computes how often a view's nearest other view is of the same image.

    Args:
        pairs: `[M, 2, D]` embeddings of two views of each image.

    Returns:
        Share of the 2M views, in [0, 1]; chance level is 1 / (2M - 1).

    Raises:
        InputError: for a single image.
    """
    _check_several(pairs)
    views = pairs.reshape(-1, pairs.shape[-1])  # the views of an image are rows 2i and 2i + 1
    own = np.arange(len(views))
    _, other = nearest(views, views, k=1, groups=(own, own))
    return float((other[:, 0] == (own ^ 1)).mean())


def mean_cosine(embeddings: np.ndarray) -> float:
    """Computes the mean cosine between different images.

    Args:
        embeddings: `[M, D]`, M >= 2.

    Returns:
        A number in [-1, 1]: near 0 for evenly spread directions, 1 if all embeddings are equal.

    Raises:
        InputError: for a single image.
    """
    _check_several(embeddings)
    unit = _unit(embeddings)
    count = len(unit)
    # The squared length of the sum is the sum over all pairs, including the M pairs of an image with itself.
    return float((np.square(unit.sum(0)).sum() - np.square(unit).sum()) / (count * (count - 1)))


def effective_rank(embeddings: np.ndarray) -> float:
    """Computes the effective number of dimensions of embeddings: exp of the entropy of their singular values.

    Args:
        embeddings: `[M, D]`; they are scaled to unit length and centred first.

    Returns:
        Between 1 and min(M - 1, D); 1 if all embeddings are equal.

    Raises:
        InputError: for a single image.

    Source: Roy & Vetterli 2007, The effective rank.
    """
    _check_several(embeddings)
    unit = _unit(embeddings)
    values = np.linalg.svd(unit - unit.mean(0), compute_uv=False)
    total = values.sum()
    # Embeddings that differ only by rounding count as equal. The norm of rounding errors grows with their number.
    tolerance = 4 * np.finfo(np.result_type(embeddings, np.float16)).eps * np.sqrt(len(unit))
    if np.linalg.norm(values) <= tolerance:
        return 1.0
    share = values[values > 0] / total
    return float(np.exp(-(share * np.log(share)).sum()))


def collapse_warning(metrics: Mapping[str, float | None]) -> str | None:
    """Returns a warning if the embeddings have collapsed.

    Args:
        metrics: mean_cosine and effective_rank, if known.

    Returns:
        What was found, and how to fix it; None if the embeddings haven't collapsed.
    """
    cosine, rank = metrics.get("mean_cosine"), metrics.get("effective_rank")
    if (cosine is None or cosine <= 0.95) and (rank is None or rank >= 2):
        return None
    found = [f"a mean cosine of {cosine:.3f}"] if cosine is not None else []
    found += [f"an effective rank of {rank:.1f}"] if rank is not None else []
    return (
        f"The embeddings have nearly collapsed: {' and '.join(found)} between different images. Early in "
        "training this can be temporary. If it persists, lower --optim.lr, lengthen its warm-up "
        "(--schedule.pct-start) or raise --accumulate."
    )


def _check_several(embeddings: np.ndarray) -> None:
    if len(embeddings) < 2:
        raise InputError(f"The spread of {len(embeddings)} embeddings is undefined; give two or more.")


def _unit(embeddings: np.ndarray) -> np.ndarray:
    embeddings = np.asarray(embeddings, np.float64)
    length = np.linalg.norm(embeddings, axis=-1, keepdims=True)
    return embeddings / np.where(length > 0, length, 1.0)
