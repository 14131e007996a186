"""What every read-out asks of its features and labels."""

from abc import ABC, abstractmethod
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from ipcl_jax.errors import InputError


def check_features(features: Array, groups: Array | None = None, first: int = 0) -> None:
    """Refuses features that are not finite numbers.

    Args:
        features: `[N, ...]`.
        groups: `[N]`; rows of group -1 are never used, and may hold anything.
        first: row of the first one, for the message.

    Raises:
        InputError: with how many images are concerned, and the first of them.
    """
    bad = np.asarray(_unsound(features, groups))
    if bad.any():
        raise InputError(
            f"Features of {bad.sum()} images are not finite numbers; the first is in row {first + bad.argmax()}. "
            "Leave these images out, or extract them again."
        )


@jax.jit
def _unsound(features: Array, groups: Array | None) -> Array:
    bad = ~jnp.isfinite(features).reshape(len(features), -1).all(1)
    return bad if groups is None else bad & (groups >= 0)


def check_rdms(rdms: np.ndarray, where: str, error: type[InputError] = InputError) -> None:
    """Refuses what is no dissimilarity matrix.

    Args:
        rdms: `[..., N, N]` floats.
        where: what they are, for the message.
        error: the error to raise.

    Raises:
        InputError: if they are not finite, symmetric, and zero on the diagonal.
    """
    if not np.isfinite(rdms).all():
        raise error(f"{where} holds dissimilarities that are not finite numbers.")
    least = 1e-6 * np.abs(rdms).max(initial=0)
    if (np.abs(rdms - rdms.swapaxes(-1, -2)) > least).any():
        raise error(f"{where} is not symmetric, so it holds no RDMs.")
    if (np.abs(np.einsum("...ii->...i", rdms)) > least).any():
        raise error(f"{where} is not zero on its diagonal, so it holds no RDMs (similarities, perhaps?).")


class NotFitted(InputError, AttributeError):
    """A read-out is asked before `fit`; like scikit-learn's NotFittedError a ValueError and an AttributeError."""


def check_fitted(readout: object, attribute: str) -> None:
    """Refuses a read-out without what `fit` leaves.

    Raises:
        NotFitted: if it lacks the attribute.
    """
    if not hasattr(readout, attribute):
        raise NotFitted(f"This {type(readout).__name__} is not fitted yet; call fit(X, y) first.")


def check_count(name: str, value: Any, most: int | None = None, of: str = "") -> int:
    """Refuses what is no whole number from 1.

    Args:
        name: of the argument.
        value: of it.
        most: the largest that can be.
        of: what that is the number of.

    Raises:
        InputError: for another value.
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < 1 or (most is not None and value > most):
        expected = (
            f"lie between 1 and the number of {of}, {most}" if most is not None else "be 1 or more, and whole"
        )
        raise InputError(f"{name} is {value!r}; it must {expected}.")
    return int(value)


def check_above_zero(name: str, value: Any) -> float:
    """Refuses what is no finite number above 0.

    Raises:
        InputError: for another value.
    """
    if not isinstance(value, int | float | np.integer | np.floating) or not 0 < value < np.inf:
        raise InputError(f"{name} is {value!r}; it must be a number above 0.")
    return float(value)


def check_rows(features: Any, width: int | None = None) -> Any:
    """Features that are an array of one row or more; what has a shape stays as it is, and may lie on disk.

    Args:
        features: `[N, ...]`: an array in memory, on a device or on disk, or nested lists.
        width: numbers that each row must have, taken together.

    Raises:
        InputError: for another shape or type.
    """
    features = features if hasattr(features, "shape") else np.asarray(features)
    shape = tuple(features.shape)
    if len(shape) < 2 or not np.prod(shape):
        raise InputError(f"X is of shape {list(shape)}; expected [N, ...], a row of features for each image.")
    if getattr(features.dtype, "kind", "f") in "OSUMmc":
        raise InputError(f"X is of type {features.dtype}; expected numbers.")
    if width is not None and np.prod(shape[1:]) != width:
        raise InputError(
            f"X has {np.prod(shape[1:])} features for each image, and the read-out was fitted to {width}."
        )
    return features


def check_labels(features: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Refuses labels that don't go with their features.

    Args:
        features: `[N, ...]`.
        labels: `[N]` text, or whole numbers.

    Returns:
        The labels.

    Raises:
        InputError: if the numbers differ, a label is missing (NaN, None) or no class, or all are the same.
    """
    labels = _classes(features, labels)
    if len(np.unique(labels)) < 2:
        raise InputError(f"All {len(labels)} images are of one class; a read-out needs two or more.")
    return labels


def check_asked(features: ArrayLike, labels: ArrayLike, classes: np.ndarray) -> np.ndarray:
    """Refuses labels that a read-out's answers can't be compared with.

    Args:
        features: `[M, ...]`.
        labels: `[M]`; those that `fit` did not see are allowed, and no answer is right for them.
        classes: that `fit` saw.

    Returns:
        The labels.

    Raises:
        InputError: if the numbers differ, a label is missing, or they are of another type than the classes.
    """
    labels = _classes(features, labels)
    if _family(labels) != _family(classes):
        raise InputError(
            f"Labels are {_family(labels)} (such as {labels[0]}), and fit was given {_family(classes)} (such as {classes[0]})."
        )
    return labels


def _classes(features: ArrayLike, labels: ArrayLike) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.shape != (features.shape[0],):
        raise InputError(
            f"There are {features.shape[0]} images and labels of shape {list(labels.shape)}; expected one label for "
            "each image, [N]."
        )
    if labels.dtype.kind == "O":
        if len({isinstance(label, str) for label in labels}) > 1 or any(label is None for label in labels):
            raise InputError("Labels are of different types; expected all text, or all whole numbers.")
        labels = np.asarray(labels.tolist())
    if labels.dtype.kind == "f" and not (np.isfinite(labels) & (labels == np.round(labels))).all():
        bad = np.flatnonzero(~(np.isfinite(labels) & (labels == np.round(labels))))[0]
        raise InputError(
            f"Label {bad} is {labels[bad]!r}, which is no class; expected text or whole numbers."
        )
    if _family(labels) is None:
        raise InputError(f"Labels are of type {labels.dtype}; expected text or whole numbers.")
    return labels


def _family(labels: np.ndarray) -> str | None:
    families = {"U": "text", "S": "bytes"} | dict.fromkeys("biuf", "numbers")
    return families.get(np.asarray(labels.tolist() if labels.dtype.kind == "O" else labels).dtype.kind)


class Rows(Protocol):
    """An array `[N, ...]` in memory, on a device or on disk (`h5py.Dataset`, `np.memmap`)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """`(N, ...)`."""

    def __getitem__(self, rows: slice | np.ndarray) -> ArrayLike:
        """Some rows."""


class Classifier(ABC):
    """A read-out of classes."""

    classes_: np.ndarray

    @abstractmethod
    def rank(self, X: Rows, n: int = 5) -> np.ndarray:
        """The n likeliest classes of each image, `[M, n]`, best first."""

    def predict(self, X: Rows) -> np.ndarray:
        """The likeliest class of each image, `[M]`."""
        return self.rank(X, 1)[:, 0]

    def score(self, X: Rows, y: ArrayLike, *, top: int = 1) -> float:
        """Share of images whose class is among the `top` likeliest.

        Args:
            X: `[M, ...]` features.
            y: `[M]` their classes. One that `fit` did not see is allowed, and counts as not found.
            top: how many to look among; more than there are classes are all of them.

        Raises:
            InputError: if X and y don't go together, y is of another type than the classes, or `fit` comes first.
        """
        check_fitted(self, "classes_")
        X, top = check_rows(X), check_count("top", top)
        y = check_asked(X, y, self.classes_)
        return float((self.rank(X, top) == y[:, None]).any(1).mean())


Values = TypeVar("Values", np.ndarray, Array)


def centred(values: Values, axis: int = 0) -> Values:
    """Values less their mean along an axis; exactly 0 where they are the same up to rounding.

    The mean of equal numbers is rounded (of 0.1, say), so that what is left of them is small but not 0, and a
    division by its length would make numbers of any size of it.

    Args:
        values: floats of any shape, NumPy's or JAX's.
        axis: along which the mean is taken.
    """
    apart = values - values.mean(axis, keepdims=True)
    apart = apart - apart.mean(axis, keepdims=True)  # the first mean is rounded at the size of the values
    return apart * (abs(apart).max(axis, keepdims=True) > rounding(values, axis))


def rounding(values: Values, axis: int | tuple[int, ...]) -> Values:
    """The difference that rounding can make between equal numbers of this size and type."""
    return 4 * float(np.finfo(values.dtype).eps) * abs(values).max(axis, keepdims=True)


def without_length(rows: Array) -> Array:
    """Vectors along the last axis at unit length; one of zeros stays as it is.

    Each is brought to the size of 1 before it is squared, so that neither small nor large ones are lost.
    """
    largest = abs(rows).max(-1, keepdims=True)
    rows = rows / (largest + (largest == 0))
    length = jax.numpy.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / (length + (length == 0))
