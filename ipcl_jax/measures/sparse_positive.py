"""Sparse positive encoding: each voxel is a sum of few units, with weights that are not negative.

A voxel is fitted by scikit-learn's `Lasso(positive=True, alpha=0.1, selection="random", tol=1e-3, random_state=365)` to
the layer's units as they are, with an intercept, as in the published code (ContrastiveCoding, `ANALYSES/encoding.py`).
There, responses are averages of z-scored sessions; the penalty means another thing for responses of other units.

Differs: the publication fits 1,000 images of a subject and tests 515 others; here images are cross-validated in folds.
It fits units that are selective for a category, or a whole layer; here it is the whole layer.

Source: Prince, Alvarez & Konkle 2024.
"""

from typing import ClassVar

import numpy as np

from ipcl_jax.errors import require
from ipcl_jax.measures.base import Layer
from ipcl_jax.measures.encoding import Encoding
from ipcl_jax.measures.options import MeasureOptions
from ipcl_jax.measures.region import Region


class SparsePositive(Encoding):
    """Cross-validated sparse positive encoding; arguments, scores, choice and ceiling are those of `Encoding`.

    Raises:
        MissingPackage: without scikit-learn.
    """

    name: ClassVar[str] = "sparse-positive"

    def __init__(self, region: Region, options: MeasureOptions):
        require("sparse-positive", "brain", "sklearn")
        super().__init__(region, options)

    @staticmethod
    def folds(options: MeasureOptions) -> int:
        """Returns the number of folds."""
        return options.sparse_folds

    def predict(self, layer: Layer, responses: np.ndarray, fitted: np.ndarray, tested: np.ndarray) -> np.ndarray:
        """Predicts a subject's responses to the tested images `[m, V]` from those to the fitted ones."""
        from sklearn.linear_model import Lasso

        lasso = Lasso(
            alpha=self.options.sparse_alpha, positive=True, selection="random", tol=self.options.sparse_tol,
            random_state=self.options.sparse_seed,
        )  # fmt: skip
        lasso.fit(layer.features[fitted], responses[fitted])
        return lasso.predict(layer.features[tested]).reshape(len(tested), -1)
