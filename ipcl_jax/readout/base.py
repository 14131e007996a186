"""Checks of features and labels, and other parts shared by all read-outs."""

from abc import ABC, abstractmethod
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from ipcl_jax.errors import InputError


class HasShape(Protocol):
    """An array of any library."""

    @property
    def shape(self) -> tuple[int, ...]:
        """`(N, ...)`."""


class Rows(HasShape, Protocol):
    """An array `[N, ...]` in memory, on a device or on disk (`h5py.Dataset`, `np.memmap`)."""

    def __getitem__(self, rows: slice | np.ndarray) -> ArrayLike:
        """Returns some rows."""


def check_features(features: Array, groups: Array | None = None, first: int = 0) -> None:
    """Raises InputError for features that are not finite.

    Args:
        features: `[N, ...]`.
        groups: `[N]`; rows of group -1 are not used, so they are not checked.
        first: row number of the first, for the message.

    Raises:
        InputError: with the number of images whose features are not finite, and the row of the first.
    """
    bad = np.asarray(_not_finite(features, groups))
    if bad.any():
        raise InputError(
            f"Features of {bad.sum()} images are not finite numbers; the first is in row {first + bad.argmax()}. "
            "Leave these images out, or extract them again."
        )


@jax.jit
def _not_finite(features: Array, groups: Array | None) -> Array:
    bad = ~jnp.isfinite(features).reshape(len(features), -1).all(1)
    return bad if groups is None else bad & (groups >= 0)


def check_rdms(rdms: np.ndarray, where: str, error: type[InputError] = InputError) -> None:
    """Raises an error if matrices are not RDMs.

    Args:
        rdms: `[..., N, N]` floats.
        where: where they come from, for the message.
        error: class of the error to raise.

    Raises:
        InputError: if they are not finite, symmetric, and zero on the diagonal.
    """
    if not np.isfinite(rdms).all():
        raise error(f"{where} holds dissimilarities that are not finite numbers.")
    tolerance = 1e-6 * np.abs(rdms).max(initial=0)
    if (np.abs(rdms - rdms.swapaxes(-1, -2)) > tolerance).any():
        raise error(f"{where} is not symmetric, so it holds no RDMs.")
    if (np.abs(np.einsum("...ii->...i", rdms)) > tolerance).any():
        raise error(f"{where} is not zero on its diagonal, so it holds no RDMs (similarities, perhaps?).")


class NotFitted(InputError, AttributeError):
    """A read-out is used before `fit`; as scikit-learn's NotFittedError, a ValueError and an AttributeError."""


def check_fitted(readout: object, attribute: str) -> None:
    """Raises NotFitted for a read-out before `fit`.

    Args:
        readout: the read-out.
        attribute: name of an attribute that `fit` sets.

    Raises:
        NotFitted: if it lacks the attribute.
    """
    if not hasattr(readout, attribute):
        raise NotFitted(f"This {type(readout).__name__} is not fitted yet; call fit(X, y) first.")


def check_count(name: str, value: Any, most: int | None = None, of: str = "") -> int:
    """Returns an argument as an int, or raises InputError if it isn't an integer above 0.

    Args:
        name: name of the argument, for the message.
        value: its value.
        most: its largest valid value.
        of: what there are `most` of, for the message.

    Raises:
        InputError: for another value.
    """
    is_int = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_int or value < 1 or (most is not None and value > most):
        expected = (
            f"lie between 1 and the number of {of}, {most}" if most is not None else "be 1 or more (a whole number)"
        )
        raise InputError(f"{name} is {value!r}; it must {expected}.")
    return int(value)


def check_above_zero(name: str, value: Any) -> float:
    """Returns an argument as a float, or raises InputError if it is no finite number above 0.

    Raises:
        InputError: for another value.
    """
    if not isinstance(value, int | float | np.integer | np.floating) or not 0 < value < np.inf:
        raise InputError(f"{name} is {value!r}; it must be a number above 0.")
    return float(value)


def check_rows(features: Any, width: int | None = None) -> Any:
    """Returns features as an array, or raises InputError; arrays are returned as they are, also those on disk.

    Args:
        features: `[N, ...]`: an array in memory, on a device or on disk, or nested lists.
        width: number of values that each row must have.

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


def check_labels(features: HasShape, labels: ArrayLike) -> np.ndarray:
    """Returns the labels of training images as an array, or raises InputError if they are invalid.

    Args:
        features: `[N, ...]`.
        labels: `[N]` text, or integers.

    Returns:
        The labels, `[N]`.

    Raises:
        InputError: if features and labels differ in number, a label is missing (NaN, None) or neither text nor an
            integer, or all labels are equal.
    """
    checked = _as_labels(features, labels)
    if len(np.unique(checked)) < 2:
        raise InputError(f"All {len(checked)} images are of one class; a read-out needs two or more.")
    return checked


def check_test_labels(features: HasShape, labels: ArrayLike, classes: np.ndarray) -> np.ndarray:
    """Returns the labels of test images as an array, or raises InputError if predictions can't be compared with them.

    Args:
        features: `[M, ...]`.
        labels: `[M]`; classes that `fit` did not see are allowed, and every prediction for them is wrong.
        classes: classes that `fit` saw.

    Returns:
        The labels, `[M]`.

    Raises:
        InputError: if features and labels differ in number, a label is missing, or labels are of another type than
            the classes.
    """
    checked = _as_labels(features, labels)
    kind, fitted = _kind(checked), _kind(classes)
    if kind != fitted:
        raise InputError(
            f"Labels are {kind} (such as {checked[0]}), and fit was given {fitted} (such as {classes[0]})."
        )
    return checked


def _as_labels(features: HasShape, labels: ArrayLike) -> np.ndarray:
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
    if _kind(labels) is None:
        raise InputError(f"Labels are of type {labels.dtype}; expected text or whole numbers.")
    return labels


def _kind(labels: np.ndarray) -> str | None:
    kinds = {"U": "text", "S": "bytes"} | dict.fromkeys("biuf", "numbers")
    return kinds.get(np.asarray(labels.tolist() if labels.dtype.kind == "O" else labels).dtype.kind)


class Classifier(ABC):
    """A read-out that predicts classes."""

    classes_: np.ndarray

    @abstractmethod
    def rank(self, X: Rows, n: int = 5) -> np.ndarray:
        """Returns the n most probable classes of each image, `[M, n]`, best first."""

    def predict(self, X: Rows) -> np.ndarray:
        """Predicts the class of each image, `[M]`."""
        return self.rank(X, 1)[:, 0]

    def score(self, X: Rows, y: ArrayLike, *, top: int = 1) -> float:
        """Returns the share of images whose class is among the `top` most probable.

        Args:
            X: `[M, ...]` features.
            y: `[M]` their classes. A class that `fit` did not see is allowed, and counts as wrong.
            top: number of classes to consider; all of them if it is larger than their number.

        Raises:
            InputError: if X and y don't fit together, y is of another type than the classes, or before `fit`.
        """
        check_fitted(self, "classes_")
        X, top = check_rows(X), check_count("top", top)
        labels = check_test_labels(X, y, self.classes_)
        return float((self.rank(X, top) == labels[:, None]).any(1).mean())


Values = TypeVar("Values", np.ndarray, Array)


def centre(values: Values, axis: int = 0) -> Values:
    """Subtracts the mean along an axis; the result is exactly 0 where values are equal up to rounding.

    The mean of equal numbers is rounded (of 0.1, for example), so their differences from it are small but not 0;
    scaling these to unit length would make them arbitrarily large.

    Args:
        values: floats of any shape, of NumPy or JAX.
        axis: axis of the mean.
    """
    centred = values - values.mean(axis, keepdims=True)
    centred = centred - centred.mean(axis, keepdims=True)  # removes the rounding error of the first mean
    return centred * (abs(centred).max(axis, keepdims=True) > rounding_error(values, axis))


def rounding_error(values: Values, axis: int | tuple[int, ...]) -> Values:
    """Returns a bound of the differences that rounding makes between equal numbers of this size and type."""
    return 4 * float(np.finfo(values.dtype).eps) * abs(values).max(axis, keepdims=True)


def to_unit_length(rows: Array) -> Array:
    """Scales vectors along the last axis to unit length; vectors of zeros stay zeros.

    Each is first divided by its largest magnitude, so that squares neither underflow nor overflow.
    """
    largest = abs(rows).max(-1, keepdims=True)
    rows = rows / (largest + (largest == 0))
    length = jax.numpy.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / (length + (length == 0))
