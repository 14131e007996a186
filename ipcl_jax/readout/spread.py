"""How embeddings are laid out: do siblings find each other, and does the space have room?

Instance discrimination fails quietly when every image moves to one point, so these numbers
belong beside the loss.
"""

from collections.abc import Mapping

import numpy as np
from jax.typing import ArrayLike

from ipcl_jax.errors import InputError
from ipcl_jax.readout.knn import nearest


def instance_retrieval(pairs: ArrayLike) -> float:
    """How often a view's nearest other view is its sibling.

    Args:
        pairs: `[M, 2, D]` embeddings of two views of each image.

    Returns:
        Share of the 2M views, in [0, 1]; chance is 1 / (2M - 1).

    Raises:
        InputError: for a single image, whose views have no others to be told from.
    """
    _check_several(pairs)
    views = pairs.reshape(-1, pairs.shape[-1])  # siblings are rows 2i and 2i + 1
    own = np.arange(len(views))
    _, other = nearest(views, views, k=1, groups=(own, own))
    return float((other[:, 0] == (own ^ 1)).mean())


def mean_cosine(embeddings: np.ndarray) -> float:
    """Mean cosine between different images.

    Args:
        embeddings: `[M, D]`, M >= 2.

    Returns:
        A number in [-1, 1]: near 0 for directions spread out evenly, 1 if all are one point.

    Raises:
        InputError: for a single image.
    """
    _check_several(embeddings)
    unit = _unit(embeddings)
    count = len(unit)
    # The sum over all pairs is the squared length of the sum, with the M pairs of an image and itself.
    return float((np.square(unit.sum(0)).sum() - np.square(unit).sum()) / (count * (count - 1)))


def effective_rank(embeddings: np.ndarray) -> float:
    """Number of directions that embeddings use: exp of the entropy of their singular values.

    Args:
        embeddings: `[M, D]`; they are scaled to unit length and centred first.

    Returns:
        Between 1 and min(M - 1, D); 1 too if all embeddings are one point.

    Raises:
        InputError: for a single image.

    Source: Roy & Vetterli 2007, The effective rank.
    """
    _check_several(embeddings)
    unit = _unit(embeddings)
    values = np.linalg.svd(unit - unit.mean(0), compute_uv=False)
    total = values.sum()
    # Embeddings that differ by rounding are one point. What rounding makes of them grows with their number.
    least = 4 * np.finfo(np.result_type(embeddings, np.float16)).eps * np.sqrt(len(unit))
    if np.linalg.norm(values) <= least:
        return 1.0
    share = values[values > 0] / total
    return float(np.exp(-(share * np.log(share)).sum()))


def collapse_warning(metrics: Mapping[str, float | None]) -> str | None:
    """A plain warning if the embeddings have drawn together.

    Args:
        metrics: with mean_cosine and effective_rank, where known.

    Returns:
        What was found and what to do about it; None if all is well.
    """
    cosine, rank = metrics.get("mean_cosine"), metrics.get("effective_rank")
    if (cosine is None or cosine <= 0.95) and (rank is None or rank >= 2):
        return None
    found = [f"a mean cosine of {cosine:.3f}"] if cosine is not None else []
    found += [f"an effective rank of {rank:.1f}"] if rank is not None else []
    return (
        f"The embeddings have nearly collapsed: {' and '.join(found)} between different images. Early in "
        "training this can pass. If it stays, lower --optim.lr, lengthen its rise "
        "(--schedule.pct-start) or raise --accumulate."
    )


def _check_several(embeddings: ArrayLike) -> None:
    if len(embeddings) < 2:
        raise InputError(f"How embeddings spread can't be told from {len(embeddings)}; it takes two or more.")


def _unit(embeddings: np.ndarray) -> np.ndarray:
    embeddings = np.asarray(embeddings, np.float64)
    length = np.linalg.norm(embeddings, axis=-1, keepdims=True)
    return embeddings / np.where(length > 0, length, 1.0)
