"""What a read-out that ranks classes can do by that, as scikit-learn's classifiers do."""

from abc import ABC, abstractmethod
from typing import Protocol

import numpy as np
from jax.typing import ArrayLike

from ipcl_jax.readout.checks import check_asked, check_count, check_fitted, check_rows


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
