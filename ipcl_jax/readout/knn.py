"""k-nearest-neighbour read-out: the most similar training images vote for a test image's class.

The search is exact. References can be on disk; they are copied to the device in blocks, and the best neighbours
so far are kept.

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
    to_unit_length,
)

Normalize = Literal["all", "channels"]

BLOCK = 1 << 28  # bytes of references, and of similarities, on the device at a time
_GROUP = 32  # adjacent references of which first only the best is considered
EXCLUDED = -1  # group of references that are never neighbours


def unit_length(features: Array, normalize: Normalize = "all") -> Array:
    """Scales features to vectors whose inner products are similarities; zeros stay zeros.

    Args:
        features: `[N, ...]`.
        normalize: `all` scales each image's vector to unit length, so that products are cosines in [-1, 1];
            `channels` scales the last axis, separately at each position of a convolutional layer, so that
            products are sums of the positions' cosines.

    Returns:
        `[N, D]` float32.
    """
    features = features.astype(jnp.float32)
    if normalize == "all":
        features = features.reshape(len(features), -1)
    return to_unit_length(features).reshape(len(features), -1)


def nearest(
    queries: Rows,
    references: Rows,
    *,
    k: int,
    normalize: Normalize = "all",
    groups: tuple[ArrayLike, ArrayLike] | None = None,
    block: int = BLOCK,
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the k references most similar to each query, exactly.

    Args:
        queries: `[M, ...]` features.
        references: `[N, ...]` features.
        k: number of neighbours, at most N.
        normalize: see `unit_length`.
        groups: of the queries `[M]` and of the references `[N]`, int from 0: references in a query's own group
            are not its neighbours. References in group -1 are never neighbours.
        block: bytes of references, and of similarities, on the device at a time.

    Returns:
        Similarities `[M, k]` float32, in descending order, and the references' rows `[M, k]` int32; of equal
        similarities the lower row comes first. If `groups` leaves fewer than k, the others are -inf and row -1.

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
    # Queries are processed in blocks too, each of which passes over all references.
    for _, some, own_groups in _blocks(queries, own, 4 * block):
        some = unit_length(some, normalize)
        best = jnp.full((len(some), k), -jnp.inf), jnp.full((len(some), k), -1, jnp.int32)
        for first, part, their_groups in _blocks(references, others, block):
            unit = unit_length(part, normalize)
            chunk = max(1, min(len(some), block // (4 * max(len(unit), some.shape[1]))))
            best = _update_best(best, some, unit, first, own_groups, their_groups, chunk=chunk)
            del part, unit  # frees memory before the next block
        found.append(jax.device_get(best))
    similarities, rows = (np.concatenate(column) for column in zip(*found, strict=True))
    return similarities, np.where(np.isneginf(similarities), -1, rows)


def _blocks(features: Rows, groups: ArrayLike | None, size: int) -> Iterator[tuple[int, Array, Array | None]]:
    """Yields first row, features and groups of each block; the next one is read in a thread meanwhile."""
    total = features.shape[0]
    width = int(np.prod(features.shape[1:]))
    rows = max(1, size // (4 * width))
    groups = None if groups is None else np.asarray(groups, np.int32)

    def read(first: int) -> tuple[int, Array, Array | None]:
        some = slice(first, min(first + rows, total))
        own = None if groups is None else jnp.asarray(groups[some])
        return first, jnp.asarray(features[some]), own

    with ThreadPoolExecutor(1) as reader:
        following = reader.submit(read, 0)
        for first in range(0, total, rows):
            block = following.result()
            if first + rows < total:
                following = reader.submit(read, first + rows)
            check_features(block[1], block[2], first)
            yield block


@functools.partial(jax.jit, static_argnames="chunk", donate_argnums=0)
def _update_best(
    best: tuple[Array, Array],
    queries: Array,
    references: Array,
    first: int,
    query_groups: Array | None,
    reference_groups: Array | None,
    *,
    chunk: int,
) -> tuple[Array, Array]:
    """Updates the best neighbours with a block of references, whose first row is `first`."""
    k = best[0].shape[1]

    def one(query: tuple) -> tuple[Array, Array]:
        similarities, rows, vector, group = query
        found = jnp.matmul(references, vector, precision="highest")  # [N]
        if group is not None:
            excluded = (reference_groups == group) | (reference_groups == EXCLUDED)
            found = jnp.where(excluded, -jnp.inf, found)
        new, places = _top_k(found, min(k, len(references)))
        both = jnp.concatenate([similarities, new]), jnp.concatenate([rows, first + places])
        values, order = jax.lax.top_k(both[0], k)  # earlier rows first where equal
        return values, both[1][order]

    return jax.lax.map(one, (*best, queries, query_groups), batch_size=chunk)


def _top_k(values: Array, k: int) -> tuple[Array, Array]:
    """Computes `jax.lax.top_k` of many numbers `[N]`, split into groups.

    The k largest numbers are in the k groups with the largest maxima (of groups with equal maxima, in the first), so
    only these groups are sorted.
    """
    count = len(values)
    if count <= 4 * _GROUP * k:
        return jax.lax.top_k(values, k)
    padded = jnp.pad(values, (0, -count % _GROUP), constant_values=-jnp.inf).reshape(-1, _GROUP)
    groups = jnp.sort(jax.lax.top_k(padded.max(1), k)[1])  # [k], in order of their rows
    largest, places = jax.lax.top_k(padded[groups].reshape(-1), k)
    return largest, groups[places // _GROUP] * _GROUP + places % _GROUP


def vote(
    similarities: Array | np.ndarray, labels: Array | np.ndarray, temperature: float, *, n_classes: int, n: int = 5
) -> Array:
    """Ranks the classes of each query: each neighbour votes with weight exp(similarity / temperature).

    Args:
        similarities: `[M, k]` of the neighbours; -inf has weight 0.
        labels: `[M, k]` int, their classes from 0.
        temperature: divides similarities.
        n_classes: number C of classes.
        n: number of classes to return.

    Returns:
        `[M, min(n, C)]` int32, best first; of classes with equal votes the lower number comes first.

    Differs: weights are relative to the nearest neighbour's. The ranking is the same, and weights don't overflow for
    large similarities, such as sums over positions.

    Raises:
        InputError: for a temperature that isn't above 0.
    """
    return _vote(similarities, labels, check_above_zero("temperature", temperature), n_classes=n_classes, n=n)


@functools.partial(jax.jit, static_argnames=("n_classes", "n"))
def _vote(
    similarities: Array | np.ndarray, labels: Array | np.ndarray, temperature: float, *, n_classes: int, n: int
) -> Array:
    relative = jnp.exp((similarities - similarities.max(1, keepdims=True)) / temperature)

    def top_classes(votes: Array, labels: Array) -> Array:
        return jax.lax.top_k(jnp.zeros(n_classes).at[labels].add(votes), min(n, n_classes))[1]

    return jax.vmap(top_classes)(relative, jnp.asarray(labels))


class Score(NamedTuple):
    """Accuracy for one k and temperature, as shares of images in [0, 1]."""

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
    """Computes the read-out's accuracy for every k and temperature, from one search of neighbours.

    Args:
        queries: `[M, ...]` features of the test images.
        labels: `[M]` int, their classes from 0.
        references: `[N, ...]` features of the training images.
        reference_labels: `[N]` int, their classes.
        n_classes: number of classes.
        k: number or numbers of neighbours that vote.
        temperature: temperature or temperatures of the votes.
        options: `normalize`, `groups` and `block` of `nearest`.

    Returns:
        A score for each k and temperature, in the order of k, then of temperature.

    Raises:
        InputError: as `nearest`; for labels that aren't `[M]` and `[N]` ints, neighbours of a class outside
            0 to n_classes - 1, a temperature that isn't above 0, or an image for which `groups` leaves no neighbours.
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
    """Assigns images to folds, each class as evenly as possible.

    Args:
        labels: `[N]` classes.
        n_folds: number of folds.
        seed: seed of the random assignment.

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
    """The k-nearest-neighbour read-out, with the interface of scikit-learn's classifiers.

        KNNReadout(k=200, temperature=0.07).fit(X, y).score(X2, y2)

    Args:
        k: number of neighbours that vote.
        temperature: divides similarities before the exponential.
        normalize: see `unit_length`. Differs: the reference scales each position of a convolutional layer
            separately, as `channels` does.

    Attributes:
        classes_: `[C]`, the sorted classes that `fit` saw.
    """

    k: int = 200
    temperature: float = 0.07
    normalize: Normalize = "all"

    def fit(self, X: Rows, y: ArrayLike) -> "KNNReadout":
        """Stores the training images, without copying their features.

        Args:
            X: `[N, ...]` features; they can be on disk (`h5py.Dataset`, `np.memmap`).
            y: `[N]` their classes, text or integers.

        Returns:
            This object.

        Raises:
            InputError: if X and y don't fit together, there is only one class, k is larger than N, or temperature
                isn't above 0.
        """
        X = check_rows(X)
        labels = check_labels(X, y)
        check_count("k", self.k, len(labels), "images")
        check_above_zero("temperature", self.temperature)
        self.classes_, self._labels = np.unique(labels, return_inverse=True)
        self._references = X
        return self

    def kneighbors(self, X: Rows) -> tuple[np.ndarray, np.ndarray]:
        """Finds the k training images most similar to each image: similarities and rows, as `nearest`."""
        check_fitted(self, "classes_")
        return nearest(X, self._references, k=self.k, normalize=self.normalize)

    def rank(self, X: Rows, n: int = 5) -> np.ndarray:
        """Returns the n most probable classes of each image, `[M, n]`, best first."""
        similarities, rows = self.kneighbors(X)
        ranked = vote(similarities, self._labels[rows], self.temperature, n_classes=len(self.classes_), n=n)
        return self.classes_[np.asarray(ranked)]
