"""k-nearest-neighbour read-out: similar training images vote for a test image's class.

Neighbours are exact. References may lie on disk: they pass through the device in blocks, and what is kept of
each block is its best.

Source: Wu et al. 2018 (weighted kNN); Konkle & Alvarez 2022, Methods; the reference's `knn_eval.py`.
"""

import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from ipcl_jax.errors import InputError, near_miss
from ipcl_jax.readout.base import (
    Classifier,
    Rows,
    check_above_zero,
    check_count,
    check_features,
    check_fitted,
    check_labels,
    check_rows,
    without_length,
)

Normalize = Literal["all", "channels"]

BLOCK = 1 << 28  # bytes of references, and of similarities, on the device at a time
_GROUP = 32  # neighbouring references of which only the best is looked at first
NOWHERE = -1  # group of references that are nobody's neighbours


def unit_length(features: Array, normalize: Normalize = "all") -> Array:
    """Features as vectors whose products are similarities; one of zeros stays as it is.

    Args:
        features: `[N, ...]`.
        normalize: `all` scales each image's vector to unit length, so that products are cosines in [-1, 1];
            `channels` scales the last axis, at each place of a convolutional layer by itself, so that
            products are sums of the places' cosines.

    Returns:
        `[N, D]` float32.
    """
    features = features.astype(jnp.float32)
    if normalize == "all":
        features = features.reshape(len(features), -1)
    return without_length(features).reshape(len(features), -1)


def nearest(
    queries: Rows,
    references: Rows,
    *,
    k: int,
    normalize: Normalize = "all",
    groups: tuple[ArrayLike, ArrayLike] | None = None,
    block: int = BLOCK,
) -> tuple[np.ndarray, np.ndarray]:
    """The k references most similar to each query, exactly.

    Args:
        queries: `[M, ...]` features.
        references: `[N, ...]` features.
        k: neighbours, at most N.
        normalize: see `unit_length`.
        groups: of the queries `[M]` and of the references `[N]`, int from 0: those of the same number
            are not neighbours. References of group -1 are nobody's.
        block: bytes of references, and of similarities, that are on the device at a time.

    Returns:
        Similarities `[M, k]` float32, falling, and the references' rows `[M, k]` int32; of equally similar
        ones the lower row comes first. Where fewer than k are left by `groups`, the rest is -inf and row -1.

    Raises:
        InputError: if k is larger than N or below 1, widths differ, or a feature isn't a finite number.
    """
    queries, references = check_rows(queries), check_rows(references)
    of_query, of_reference = tuple(queries.shape[1:]), tuple(references.shape[1:])
    k = check_count("k", k, references.shape[0], "references")
    if normalize not in get_args(Normalize):
        raise InputError(f"No normalize {normalize!r}.{near_miss(str(normalize), get_args(Normalize))}")
    if of_query != of_reference:
        raise InputError(f"Queries have shape {list(of_query)} each, and references {list(of_reference)}.")
    own, others = groups or (None, None)
    found = []
    # Queries that don't fit beside a block of references make a round of their own.
    for _, some, own_groups in _blocks(queries, own, 4 * block):
        some = unit_length(some, normalize)
        best = jnp.full((len(some), k), -jnp.inf), jnp.full((len(some), k), -1, jnp.int32)
        for first, part, their_groups in _blocks(references, others, block):
            unit = unit_length(part, normalize)
            chunk = max(1, min(len(some), block // (4 * max(len(unit), some.shape[1]))))
            best = _improve(best, some, unit, first, own_groups, their_groups, chunk=chunk)
            del part, unit  # before the next one comes
        found.append(jax.device_get(best))
    similarities, rows = (np.concatenate(column) for column in zip(*found, strict=True))
    return similarities, np.where(np.isneginf(similarities), -1, rows)


def _blocks(features: Rows, groups: ArrayLike | None, size: int) -> Iterator[tuple[int, Array, Array | None]]:
    """First row, features and groups of each block, which is read while the one before is worked on."""
    total = features.shape[0]
    width = int(np.prod(features.shape[1:]))
    rows = max(1, size // (4 * width))
    groups = None if groups is None else np.asarray(groups, np.int32)

    def read(first: int) -> tuple[int, Array, Array | None]:
        some = slice(first, min(first + rows, total))
        own = None if groups is None else jnp.asarray(groups[some])
        return first, jnp.asarray(features[some]), own

    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(read, 0)
        for first in range(0, total, rows):
            block = coming.result()
            if first + rows < total:
                coming = reader.submit(read, first + rows)
            check_features(block[1], block[2], first)
            yield block


@functools.partial(jax.jit, static_argnames="chunk", donate_argnums=0)
def _improve(
    best: tuple[Array, Array],
    queries: Array,
    references: Array,
    first: int,
    query_groups: Array | None,
    reference_groups: Array | None,
    *,
    chunk: int,
) -> tuple[Array, Array]:
    """The best neighbours after another block of references, whose first row is `first`."""
    k = best[0].shape[1]

    def one(query: tuple) -> tuple[Array, Array]:
        similarities, rows, vector, group = query
        found = jnp.matmul(references, vector, precision="highest")  # [N]
        if group is not None:
            apart = (reference_groups == group) | (reference_groups == NOWHERE)
            found = jnp.where(apart, -jnp.inf, found)
        new, places = _largest(found, min(k, len(references)))
        both = jnp.concatenate([similarities, new]), jnp.concatenate([rows, first + places])
        values, order = jax.lax.top_k(both[0], k)  # earlier rows first where equal
        return values, both[1][order]

    return jax.lax.map(one, (*best, queries, query_groups), batch_size=chunk)


def _largest(values: Array, k: int) -> tuple[Array, Array]:
    """`jax.lax.top_k` of many numbers `[N]`, by way of groups.

    The k largest lie in the k groups whose largest are largest (and of equal ones, in those that come
    first), so only these groups are sorted.
    """
    count = len(values)
    if count <= 4 * _GROUP * k:
        return jax.lax.top_k(values, k)
    padded = jnp.pad(values, (0, -count % _GROUP), constant_values=-jnp.inf).reshape(-1, _GROUP)
    groups = jnp.sort(jax.lax.top_k(padded.max(1), k)[1])  # [k], in order of their rows
    largest, places = jax.lax.top_k(padded[groups].reshape(-1), k)
    return largest, groups[places // _GROUP] * _GROUP + places % _GROUP


def vote(similarities: Array, labels: Array, temperature: float, *, n_classes: int, n: int = 5) -> Array:
    """Classes of each query, best first: each neighbour votes with exp(similarity / temperature).

    Args:
        similarities: `[M, k]` of the neighbours; -inf has no vote.
        labels: `[M, k]` int, their classes from 0.
        temperature: divides similarities.
        n_classes: number C of classes.
        n: how many to rank.

    Returns:
        `[M, min(n, C)]` int32; of classes with equal votes the lower number comes first.

    Differs: votes are counted relative to the nearest neighbour's. The ranking is the same, and no
    vote is infinite where similarities are large, as sums over places can be.

    Raises:
        InputError: for a temperature that isn't above 0.
    """
    return _vote(similarities, labels, check_above_zero("temperature", temperature), n_classes=n_classes, n=n)


@functools.partial(jax.jit, static_argnames=("n_classes", "n"))
def _vote(similarities: Array, labels: Array, temperature: float, *, n_classes: int, n: int) -> Array:
    relative = jnp.exp((similarities - similarities.max(1, keepdims=True)) / temperature)

    def tally(votes: Array, labels: Array) -> Array:
        return jax.lax.top_k(jnp.zeros(n_classes).at[labels].add(votes), min(n, n_classes))[1]

    return jax.vmap(tally)(relative, labels)


class Score(NamedTuple):
    """How often the classes that neighbours vote for are right, as shares in [0, 1]."""

    k: int
    temperature: float
    top1: float
    top5: float


def knn_scores(
    queries: Rows,
    labels: ArrayLike,
    references: Rows,
    reference_labels: ArrayLike,
    *,
    n_classes: int,
    k: int | Sequence[int] = 200,
    temperature: float | Sequence[float] = 0.07,
    **options,
) -> list[Score]:
    """Accuracy of the read-out for every k and temperature; neighbours are looked for once.

    Args:
        queries: `[M, ...]` features of the test images.
        labels: `[M]` int, their classes from 0.
        references: `[N, ...]` features of the training images.
        reference_labels: `[N]` int, likewise.
        n_classes: number of classes.
        k: neighbours that vote.
        temperature: of their votes.
        options: `normalize`, `groups` and `block` of `nearest`.

    Returns:
        A score for each k and temperature, k by k.

    Raises:
        InputError: as `nearest`; for labels that aren't `[M]` and `[N]` ints, classes that don't exist among those
            that vote, a temperature that isn't above 0, or an image that `groups` leave without neighbours.
    """
    counts, temperatures = (np.atleast_1d(value).tolist() for value in (k, temperature))
    counts = [check_count("k", count, references.shape[0], "references") for count in counts]
    temperatures = [check_above_zero("temperature", tau) for tau in temperatures]
    labels, reference_labels = np.asarray(labels), np.asarray(reference_labels)
    for name, found, of in (("labels", labels, queries), ("reference_labels", reference_labels, references)):
        if found.shape != (of.shape[0],) or found.dtype.kind not in "iu":
            raise InputError(
                f"{name} are {list(found.shape)} {found.dtype}; expected [{of.shape[0]}] whole numbers, one an image."
            )
    similarities, rows = nearest(queries, references, k=max(counts), **options)
    if (rows[:, 0] < 0).any():
        raise InputError(f"{(rows[:, 0] < 0).sum()} images have no neighbour that may vote.")
    voters = reference_labels[rows]
    if strange := voters[(rows >= 0) & ((voters < 0) | (voters >= n_classes))].tolist():
        raise InputError(f"An image of class {strange[0]} votes; classes go from 0 to {n_classes - 1}.")
    scores = []
    for count in counts:
        for tau in temperatures:
            ranked = vote(similarities[:, :count], voters[:, :count], tau, n_classes=n_classes)
            hits = np.asarray(ranked) == labels[:, None]
            scores.append(Score(count, tau, float(hits[:, 0].mean()), float(hits.any(1).mean())))
    return scores


def stratified_folds(labels: ArrayLike, n_folds: int, *, seed: int) -> np.ndarray:
    """Deals images out to folds, each class as evenly as it goes.

    Args:
        labels: `[N]` classes.
        n_folds: number of folds.
        seed: of the draw.

    Returns:
        `[N]` int32, the fold of each image.
    """
    labels = np.asarray(labels)
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    folds = np.empty(len(labels), np.int32)
    folds[by_class] = np.arange(len(labels)) % n_folds
    return folds


@dataclass
class KNNReadout(Classifier):
    """The read-out as scikit-learn's classifiers are used.

        KNNReadout(k=200, temperature=0.07).fit(X, y).score(X2, y2)

    Args:
        k: neighbours that vote.
        temperature: divides similarities before the exponential.
        normalize: see `unit_length`. Differs: the reference scales each place of a convolutional layer by
            itself, which `channels` does.

    Attributes:
        classes_: `[C]`, the sorted classes that `fit` saw.
    """

    k: int = 200
    temperature: float = 0.07
    normalize: Normalize = "all"

    def fit(self, X: Rows, y: ArrayLike) -> "KNNReadout":
        """Takes the training images.

        Args:
            X: `[N, ...]` features; they may lie on disk (`h5py.Dataset`, `np.memmap`).
            y: `[N]` their classes, of any type that can be sorted.

        Returns:
            This object.

        Raises:
            InputError: if X and y don't go together, there is one class only, k is larger than N, or temperature
                isn't above 0.
        """
        X = check_rows(X)
        y = check_labels(X, y)
        check_count("k", self.k, len(y), "images")
        check_above_zero("temperature", self.temperature)
        self.classes_, self._labels = np.unique(y, return_inverse=True)
        self._references = X
        return self

    def kneighbors(self, X: Rows) -> tuple[np.ndarray, np.ndarray]:
        """The k training images most similar to each image: similarities and rows; see `nearest`."""
        check_fitted(self, "classes_")
        return nearest(X, self._references, k=self.k, normalize=self.normalize)

    def rank(self, X: Rows, n: int = 5) -> np.ndarray:
        """The n likeliest classes of each image, `[M, n]`, best first."""
        similarities, rows = self.kneighbors(X)
        ranked = vote(similarities, self._labels[rows], self.temperature, n_classes=len(self.classes_), n=n)
        return self.classes_[np.asarray(ranked)]
