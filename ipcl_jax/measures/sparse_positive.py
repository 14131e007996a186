"""Sparse positive encoding: each voxel is a sum of few units, with weights that are not negative.

The published code (jacob-prince/ContrastiveCoding, `ANALYSES/encoding.py`) fits a voxel by scikit-learn's
`Lasso(positive=True, alpha=0.1, selection="random", tol=1e-3, random_state=365)` to the layer's units as they are, with an
intercept. Responses are averages of z-scored sessions; the penalty means another thing for responses of other units.

Differs: the minimum itself is found, unless `sparse_solver` is `published`. Its scores don't depend on a seed, and
predictions differ from the published solver's by about 0.01 standard deviations of a response. The publication fits 1,000 images of a subject and tests 515 others; here images are cross-validated in folds.
It fits units that are selective for a category, or a whole layer; here it is the whole layer.

Source: Prince, Alvarez & Konkle 2024.
"""

from typing import ClassVar

import numpy as np

from ipcl_jax.errors import require
from ipcl_jax.measures.base import Layer
from ipcl_jax.measures.encoding import Encoding
from ipcl_jax.measures.lasso import fit_lasso
from ipcl_jax.measures.options import MeasureOptions
from ipcl_jax.measures.region import Region


class SparsePositive(Encoding):
    """Cross-validated sparse positive encoding; arguments, scores, choice and ceiling are those of `Encoding`.

    Raises:
        MissingPackage: without scikit-learn, for the published solver.
    """

    name: ClassVar[str] = "sparse-positive"
    about: ClassVar[str] = (
        "Prince et al. 2024: each voxel's responses are predicted as a sum of few units with positive "
        "weights, cross-validated over images."
    )

    def __init__(self, region: Region, options: MeasureOptions):
        if options.sparse_solver == "published":
            require("sparse-positive by the published solver", "brain", "sklearn")
        super().__init__(region, options)

    @classmethod
    def needs_features(cls, options: MeasureOptions) -> bool:
        """Returns whether a layer's features are needed: always."""
        return True

    @staticmethod
    def folds(options: MeasureOptions) -> int:
        """Returns the number of folds."""
        return options.sparse_folds

    def predict(self, layer: Layer, responses: np.ndarray, fitted: np.ndarray, tested: np.ndarray) -> np.ndarray:
        """Predicts a subject's responses to the tested images `[m, V]` from those to the fitted ones."""
        features, options = np.asarray(layer.features), self.options
        if options.sparse_solver == "exact":
            return fit_lasso(features[fitted], responses[fitted], options.sparse_alpha).predict(features[tested])
        from sklearn.linear_model import Lasso

        lasso = Lasso(
            options.sparse_alpha, positive=True, selection="random", tol=options.sparse_tol, random_state=options.sparse_seed
        )
        lasso.fit(features[fitted], responses[fitted])
        return lasso.predict(features[tested]).reshape(len(tested), -1)
