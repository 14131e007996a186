"""The paper's measure: voxel-encoding RSA, compared in halves of the subjects; and its classic RSA.

Each subject's responses to an image are predicted by ridge regression fitted to all other images. The predictions make
an RDM (1 - Pearson's r). For every split of the subjects in halves, the mean predicted RDM of a half is compared with
the mean measured RDM of the same half, by Pearson's r of their entries below the diagonal.

Not stated in the paper, and so our choice (see `MeasureOptions`): the penalties, one penalty for all voxels of a
subject, units that are not standardised, Fisher's z for intervals and tests, and that both halves of a split count.

An image's prediction contains the mean of the other images' responses, which is lower the higher the image's own
response is. Therefore even predictions by these means alone have the geometry of the responses, and score high. A layer
that is the same for all images scores 0 here by rule; one whose units vary so little that the penalties shrink its weights
to nothing does not. `Konkle2022.without_layer` returns what the means alone score.

Source: Konkle & Alvarez 2022, Methods.
"""

from typing import ClassVar

import numpy as np

from ipcl_jax.errors import require
from ipcl_jax.measures.base import Layer
from ipcl_jax.measures.geometry import pattern_rdm
from ipcl_jax.measures.options import MeasureOptions
from ipcl_jax.measures.region import check_features
from ipcl_jax.measures.subject_halves import SubjectHalves
from ipcl_jax.readout.ridge_solver import leave_one_out


class Konkle2022(SubjectHalves):
    """Voxel-encoding RSA of the paper; see `SubjectHalves` for its arguments."""

    name: ClassVar[str] = "konkle2022"
    about: ClassVar[str] = (
        "Konkle & Alvarez 2022: ridge regression predicts the responses to each image from those to the "
        "others; RDMs of the predictions are compared with measured ones, averaged over halves of the "
        "subjects."
    )

    @classmethod
    def needs_features(cls, options: MeasureOptions) -> bool:
        """Returns whether a layer's features are needed: to standardise them."""
        return options.konkle_standardise != "none"

    def rdms(self, layer: Layer) -> np.ndarray:
        """Computes each subject's RDM of predicted responses, `[S, P]`.

        Raises:
            MissingPackage: without scikit-learn, if units are standardised over the fitted images.
        """
        options = self.options
        if options.konkle_standardise == "fitted":
            predicted = self._predict_fitted(layer)
        else:
            kernel = layer.kernel
            if options.konkle_standardise == "all":
                features = check_features(layer, self.name)
                units = standardise(features, np.ones(len(features), bool))
                kernel = units @ units.T
            predicted = [
                leave_one_out(kernel, values, options.konkle_alphas, per_voxel=options.konkle_per_voxel).predictions
                for values in self.responses.values()
            ]
        return np.stack([pattern_rdm(values) for values in predicted])

    def without_layer(self) -> np.ndarray:
        """Scores predictions of each image by the mean response to all others, `[1, K, 2]`; see above."""
        means = [(values.sum(0) - values) / (len(values) - 1) for values in self.responses.values()]
        return self.compare_rdms(np.stack([pattern_rdm(values) for values in means]))

    def _predict_fitted(self, layer: Layer) -> list[np.ndarray]:
        """Predicts each image from units that are standardised over the others, by scikit-learn's ridge regression."""
        require("konkle2022 with units standardised over the fitted images", "brain", "sklearn")
        from sklearn.linear_model import RidgeCV

        predicted = [np.empty_like(values) for values in self.responses.values()]
        features = check_features(layer, self.name)
        for image in range(len(features)):
            others = np.arange(len(features)) != image
            units = standardise(features, others)
            # Coordinates [N, N] with the same products as the units give the same fit.
            values, vectors = np.linalg.eigh(units @ units.T)
            coordinates = vectors * np.sqrt(np.maximum(values, 0))
            for found, responses in zip(predicted, self.responses.values(), strict=True):
                ridge = RidgeCV(self.options.konkle_alphas, alpha_per_target=self.options.konkle_per_voxel)
                ridge.fit(coordinates[others], responses[others])
                found[image] = ridge.predict(coordinates[image : image + 1])[0]
        return predicted


class Konkle2022Classic(SubjectHalves):
    """Classic RSA of the paper: the same comparison, with the RDM of the layer's units as they are."""

    name: ClassVar[str] = "konkle2022-classic"
    about: ClassVar[str] = (
        "Konkle & Alvarez 2022, classic RSA: the RDM of a layer's units is compared with measured ones, "
        "averaged over halves of the subjects."
    )

    @classmethod
    def needs_features(cls, options: MeasureOptions) -> bool:
        """Returns whether a layer's features are needed: always."""
        return True

    def rdms(self, layer: Layer) -> np.ndarray:
        """Computes the layer's RDM, `[1, P]`."""
        return pattern_rdm(check_features(layer, self.name))[None]


def standardise(features: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """Scales units `[N, D]` to mean 0 and deviation 1 over the fitted images.

    Args:
        features: `[N, D]`.
        fitted: `[N]` bool.

    Returns:
        `[N, D]` float64; 0 for units that are the same for all fitted images.
    """
    values = np.asarray(features, np.float64)
    mean, deviation = values[fitted].mean(0), values[fitted].std(0)
    varies = deviation > 4 * np.finfo(np.float64).eps * abs(mean)
    return (values - mean) * (varies / np.where(varies, deviation, 1))
