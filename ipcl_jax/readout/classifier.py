"""What a read-out that ranks classes can do by that, as scikit-learn's classifiers do."""

from abc import ABC, abstractmethod
from typing import Protocol

import numpy as np
from jax.typing import ArrayLike


class Rows(Protocol):
    """An array `[N, ...]` in memory, on a device or on disk (`h5py.Dataset`, `np.memmap`)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """`(N, ...)`."""

    def __getitem__(self, rows: slice | np.ndarray) -> ArrayLike:
        """Some rows."""


class Classifier(ABC):
    """A read-out of classes."""

    @abstractmethod
    def rank(self, X: Rows, n: int = 5) -> np.ndarray:
        """The n likeliest classes of each image, `[M, n]`, best first."""

    def predict(self, X: Rows) -> np.ndarray:
        """The likeliest class of each image, `[M]`."""
        return self.rank(X, 1)[:, 0]

    def score(self, X: Rows, y: ArrayLike, *, top: int = 1) -> float:
        """Share of images whose class is among the `top` likeliest."""
        return float((self.rank(X, top) == np.asarray(y)[:, None]).any(1).mean())
