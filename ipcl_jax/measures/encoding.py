"""Voxel-wise encoding: how well responses to some images are predicted from those to others.

Each voxel is predicted by ridge regression with a penalty of its own, which has the least leave-one-out error among the
fitted images. The images are dealt out to folds, and each fold is predicted from the others. A score is Pearson's r of
predicted and measured responses, averaged over voxels. Folds, penalties and their units are our choice.

Source: Naselaris et al. 2011.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from ipcl_jax.errors import InputError
from ipcl_jax.measures.base import Best, Layer
from ipcl_jax.measures.options import MeasureOptions
from ipcl_jax.measures.pairing import PairedSplits
from ipcl_jax.measures.region import Region, SideBySide, check_features, check_kernel, is_constant
from ipcl_jax.measures.statistics import choose_by_rest
from ipcl_jax.readout.base import centre
from ipcl_jax.readout.ridge import correlation
from ipcl_jax.readout.ridge_solver import fit_predict


class Encoding(PairedSplits):
    """Cross-validated encoding. Scores are `[G, K, 1]`: the subjects, and the folds of the images.

    Args:
        region: responses of one subject or more to as many images as give each fold 3.
        options: those that begin with `encoding_`, and `seed`.

    Raises:
        InputError: for too few images.
    """

    name: ClassVar[str] = "encoding"
    about: ClassVar[str] = (
        "Each voxel's responses to a fold of the images are predicted by ridge regression fitted to the other"
        " folds."
    )

    def __init__(self, region: Region, options: MeasureOptions):
        count, images = self.folds(options), len(region.images)
        if images < 3 * count:
            raise InputError(f"{self.name} of {images} images in {count} folds; it takes {3 * count}, 3 in each.")
        self.options, self.region, self.ratio = options, region, 1 / (count - 1)
        self.groups, self.sides = region.subjects, ("all",)
        self.splits = tuple(f"fold {number}" for number in range(1, count + 1))
        self.ceiling_kind = region.ceiling_kind
        places = np.random.default_rng(options.seed).permutation(images) % count
        self._together = SideBySide(region.responses)
        self._places = [(np.flatnonzero(places != fold), np.flatnonzero(places == fold)) for fold in range(count)]

    @staticmethod
    def folds(options: MeasureOptions) -> int:
        """Returns the number of folds."""
        return options.encoding_folds

    def predict(self, layer: Layer, responses: np.ndarray, fitted: np.ndarray, tested: np.ndarray) -> np.ndarray:
        """Predicts responses to the tested images `[m, V]` from those to the fitted ones."""
        return predict_tested(layer.kernel, responses, fitted, tested, self.options.encoding_alphas)

    def score(self, layer: Layer) -> np.ndarray:
        """Scores a layer, `[G, K, 1]` mean r over voxels.

        A voxel whose responses or predictions are the same for all images of a fold counts as 0.

        Raises:
            InputError: for a layer of other images, or not finite.
        """
        constant = is_constant(check_kernel(layer, len(self.region.images)))
        if self.needs_features(self.options):
            check_features(layer, self.name)
        found = np.zeros((len(self.groups), len(self.splits), 1))
        if constant:
            return found
        for place, (fitted, tested) in enumerate(self._places):
            predicted = self.predict(layer, self._together.values, fitted, tested)
            scores = voxel_scores(predicted, self._together.values[tested])
            found[:, place, 0] = [one.mean() for one in self._together.split(scores)]
        return found

    def ceiling(self) -> np.ndarray:
        """Returns the mean of the voxels' ceilings, `[G, K]`; NaN if one voxel's is."""
        return self.region.mean_ceiling()[:, None].repeat(len(self.splits), 1)

    def best(self, scores: Mapping[str, np.ndarray]) -> Best:
        """Takes for each fold the layer with the highest mean over the other folds."""
        found = choose_by_rest(np.stack(list(scores.values()))[..., 0])
        return Best(found.scores, np.stack([found.layers] * 2, -1), "the other folds of the images")


def voxel_scores(predicted: np.ndarray, responses: np.ndarray) -> np.ndarray:
    """Correlates predicted and measured responses `[N, V]`, `[V]` float64; 0 where either are the same for all images."""
    # Centred in their own dtype, so that differences within its rounding count as none.
    return correlation(*(centre(values).astype(np.float64) for values in (predicted, responses)))


def predict_tested(
    kernel: np.ndarray, responses: np.ndarray, fitted: np.ndarray, tested: np.ndarray, alphas: Sequence[float]
) -> np.ndarray:
    """Predicts responses to some images by ridge regression on others.

    Args:
        kernel: `[N, N]`, a layer's linear kernel.
        responses: `[N, V]`.
        fitted: numbers of the n fitted images.
        tested: numbers of the m images that are predicted.
        alphas: penalties, in units of the layer's mean variance over the fitted images.

    Returns:
        `[m, V]`, of the responses' dtype; the mean response for a layer that is the same for all fitted images.
    """
    own = np.asarray(kernel[np.ix_(fitted, fitted)])
    unit = np.inf if is_constant(own) else np.trace(own, dtype=np.float64) / len(own) - own.mean(dtype=np.float64)
    cross = np.asarray(kernel[np.ix_(tested, fitted)], np.float64)
    return fit_predict(own.astype(np.float64) / unit, cross / unit, responses[fitted], alphas).predictions
