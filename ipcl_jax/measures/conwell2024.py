"""Measures of Conwell et al. 2024 (DeepNSD): encoding, voxel-encoding RSA and classic RSA in two halves of the images.

Images of even place (from 0, in the order given) are for training, the others for tests. A layer is reduced by a sparse
random projection and standardised by the training images. Each voxel has the penalty of ridge regression at which its
leave-one-out predictions in the training half correlate best with its responses. Scores of the training half are from
these leave-one-out predictions, and scores of the test half from the fit to all training images:

    conwell2024           Pearson's r of each voxel, averaged
    conwell2024-versa     Pearson's r of the RDMs (1 - Pearson's r) of predicted and measured responses
    conwell2024-classic   the same of the layer's units as they are and measured responses

The layer that is best in the training half is scored in the test half.

Read in the published code (ColinConwell/DeepNSD, `source_code/pressures`: `main_analysis.py`, `ridge_gcv_mod.py`,
`feature_reduction.py`, `mapping_methods.py`), which also projects layers that have fewer units than the projection has
dimensions, and considers only layers of the second half of a model. The article's text was not at hand.

Differs: a voxel whose responses or predictions are constant counts as 0 in the mean, and is left out of RDMs; there it
makes the mean undefined. The published ceilings are not computed: voxels have those of the data, and RDMs the lower bound
of their agreement among subjects.

Source: Conwell et al. 2024.
"""

import functools
import warnings
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar
from weakref import WeakKeyDictionary

import numpy as np

from ipcl_jax.errors import require
from ipcl_jax.measures.base import Best, Layer
from ipcl_jax.measures.encoding import voxel_scores
from ipcl_jax.measures.geometry import correlate, pattern_rdm
from ipcl_jax.measures.options import MeasureOptions
from ipcl_jax.measures.pairing import PairedSubjects
from ipcl_jax.measures.region import Region, SideBySide, check_features, check_kernel, is_constant
from ipcl_jax.measures.rsa import LOWER_BOUND
from ipcl_jax.measures.statistics import choose_by_other_side
from ipcl_jax.readout.ridge_solver import fit_predict

ROWS = 1 << 26  # numbers of a layer that are projected at a time
HALVES = slice(0, None, 2), slice(1, None, 2)  # images for training, for tests


class ConwellHalves(PairedSubjects):
    """A measure in halves of the images. Scores are `[G, 1, 2]`: the subjects; the training and the test half.

    Args:
        region: responses of one subject or more to 8 images or more.
        options: those that begin with `conwell_`.

    Raises:
        InputError: for fewer images, or for RDMs a subject with fewer than 2 voxels that vary.
        MissingPackage: without scikit-learn.
    """

    def __init__(self, region: Region, options: MeasureOptions):
        require(self.name, "brain", "sklearn")
        region.take_at_least(8, self.name)
        self.options, self.images = options, len(region.images)
        self.groups, self.splits, self.sides = region.subjects, ("even and odd images",), ("training", "test")
        self.prepare(region)

    @classmethod
    def needs_features(cls, options: MeasureOptions) -> bool:
        """Returns whether a layer's features are needed: always."""
        return True

    @abstractmethod
    def prepare(self, region: Region) -> None:
        """Computes what is the same for all layers; sets `ceiling_kind`."""

    @abstractmethod
    def score_halves(self, layer: Layer) -> np.ndarray:
        """Scores a layer that varies, `[G, 2]`."""

    def score(self, layer: Layer) -> np.ndarray:
        """Scores a layer, `[G, 1, 2]`; 0 if it is the same for all images.

        Raises:
            InputError: for a layer of other images, or not finite.
        """
        constant = is_constant(check_kernel(layer, self.images))
        check_features(layer, self.name)
        if constant:
            return np.zeros((len(self.groups), 1, 2))
        return self.score_halves(layer)[:, None]

    def best(self, scores: Mapping[str, np.ndarray]) -> Best:
        """Takes the layer that is best in the training half and scores it in the test half."""
        found = choose_by_other_side(np.stack(list(scores.values())))
        return Best(found.scores[..., 1], found.layers[..., [1, 1]], "the training half of the images")


class Conwell2024(ConwellHalves):
    """Encoding: the mean over voxels of Pearson's r; see `ConwellHalves`."""

    name: ClassVar[str] = "conwell2024"
    about: ClassVar[str] = (
        "Conwell et al. 2024: ridge regression on randomly projected units, fitted to half of the images, "
        "predicts each voxel's responses to the other half."
    )

    def prepare(self, region: Region) -> None:
        """Notes responses and ceilings."""
        self._responses, self._ceiling, self.ceiling_kind = region.responses, region.mean_ceiling(), region.ceiling_kind

    def score_halves(self, layer: Layer) -> np.ndarray:
        """Scores a layer, `[G, 2]`."""
        predicted = predict_halves(layer, self._responses, self.options)
        return np.array([
            [voxel_scores(half, values[rows]).mean() for half, rows in zip(predicted[name], HALVES, strict=True)]
            for name, values in self._responses.items()
        ])  # fmt: skip

    def ceiling(self) -> np.ndarray:
        """Returns the mean of the voxels' ceilings, `[G, 1]`; NaN if one voxel's is."""
        return self._ceiling[:, None]


class _Geometry(ConwellHalves):
    """RSA in halves of the images; RDMs are compared by Pearson's r."""

    def prepare(self, region: Region) -> None:
        """Computes measured RDMs of both halves."""
        self._responses = region.varying()
        self._measured = {
            name: [pattern_rdm(values[rows]) for rows in HALVES] for name, values in self._responses.items()
        }
        self.ceiling_kind = LOWER_BOUND if len(self.groups) > 1 else ""

    def ceiling(self) -> np.ndarray:
        """Correlates each subject's RDM of the test half with the mean of the others', `[G, 1]`; NaN for one subject."""
        if len(self.groups) < 2:
            return np.full((1, 1), np.nan)
        measured = np.stack([halves[1] for halves in self._measured.values()])
        others = measured.sum(0) - measured
        return np.array([[correlate(*pair)] for pair in zip(measured, others, strict=True)])


class Conwell2024Versa(_Geometry):
    """RSA of predicted and measured responses; see `ConwellHalves`."""

    name: ClassVar[str] = "conwell2024-versa"
    about: ClassVar[str] = (
        "Conwell et al. 2024, voxel-encoding RSA: RDMs of the responses predicted for half of the images are "
        "compared with measured ones."
    )

    def score_halves(self, layer: Layer) -> np.ndarray:
        """Scores a layer, `[G, 2]`."""
        predicted = predict_halves(layer, self._responses, self.options)
        return np.array([
            [correlate(pattern_rdm(half), measured) for half, measured in zip(predicted[name], halves, strict=True)]
            for name, halves in self._measured.items()
        ])  # fmt: skip


class Conwell2024Classic(_Geometry):
    """RSA of a layer's units and measured responses; see `ConwellHalves`."""

    name: ClassVar[str] = "conwell2024-classic"
    about: ClassVar[str] = (
        "Conwell et al. 2024, classic RSA: the RDM of a layer's units is compared with measured ones, in half"
        " of the images."
    )

    def score_halves(self, layer: Layer) -> np.ndarray:
        """Scores a layer, `[G, 2]`."""
        units = [pattern_rdm(check_features(layer, self.name)[rows]) for rows in HALVES]
        return np.array([
            [correlate(*pair) for pair in zip(units, halves, strict=True)] for halves in self._measured.values()
        ])  # fmt: skip


def predict_halves(
    layer: Layer, responses: Mapping[str, np.ndarray], options: MeasureOptions
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Predicts each subject's responses in both halves of the images.

    Args:
        layer: of N images.
        responses: `[N, V]` of each subject, by name.
        options: those that begin with `conwell_`.

    Returns:
        For each subject the leave-one-out predictions of the training half, and the predictions of the test half.
    """
    training = HALVES[0]
    own, cross = half_kernels(layer, options)
    together = SideBySide(responses)
    fitted = together.values[training]
    fit = fit_predict(own, cross, fitted, options.conwell_alphas, by="correlation")
    halves = (together.split(half) for half in (predict_left_out(own, fitted, fit.alpha), fit.predictions))
    return dict(zip(responses, zip(*halves, strict=True), strict=True))


_kernels: WeakKeyDictionary[Layer, dict[tuple[int, str], tuple[np.ndarray, np.ndarray]]] = WeakKeyDictionary()


def half_kernels(layer: Layer, options: MeasureOptions) -> tuple[np.ndarray, np.ndarray]:
    """Projects and standardises a layer; what is found is kept while the layer exists.

    Returns:
        Products of the n training images, `[n, n]` float64, and of the m test images with them, `[m, n]`.
    """
    kept, key = _kernels.setdefault(layer, {}), (options.conwell_dimensions, options.conwell_narrow)
    if key not in kept:
        features = check_features(layer, "conwell2024")
        units = project(features, options.conwell_dimensions, keep_narrow=options.conwell_narrow == "keep")
        training, tests = HALVES
        deviation = units[training].std(0)
        # As scikit-learn's StandardScaler, which leaves the scale of units that are constant in training.
        constant = deviation <= 10 * np.finfo(np.float64).eps * abs(units).max(0)
        units = (units - units[training].mean(0)) / np.where(constant, 1, deviation)
        kept[key] = units[training] @ units[training].T, units[tests] @ units[training].T
    return kept[key]


def predict_left_out(kernel: np.ndarray, responses: np.ndarray, alphas: np.ndarray) -> np.ndarray:
    """Predicts responses to each image by ridge regression on all others, with given penalties.

    Args:
        kernel: `[n, n]` linear kernel.
        responses: `[n, V]`.
        alphas: `[V]`.

    Returns:
        `[n, V]` float64.
    """
    means, count = kernel.mean(0), len(kernel)
    values, vectors = np.linalg.eigh(kernel - means - means[:, None] + means.mean())
    found = responses.astype(np.float64)
    rotated = vectors.T @ (found - found.mean(0))
    for alpha in np.unique(alphas):
        voxels, scale = alphas == alpha, 1 / (np.maximum(values, 0) + alpha)
        # The intercept is fitted without the image too, which subtracts 1 / (alpha n) from the diagonal.
        diagonal = vectors**2 @ scale - 1 / (alpha * count)
        found[:, voxels] -= vectors @ (scale[:, None] * rotated[:, voxels]) / diagonal[:, None]
    return found


def project(features: np.ndarray, dimensions: int, *, keep_narrow: bool = False) -> np.ndarray:
    """Reduces units by scikit-learn's sparse random projection with seed 0.

    Args:
        features: `[N, D]`.
        dimensions: number of dimensions of the result.
        keep_narrow: return layers with no more units than that as they are.

    Returns:
        `[N, dimensions]` float64.
    """
    count, width = features.shape
    if keep_narrow and width <= dimensions:
        return np.asarray(features, np.float64)
    matrix, found = _projection(width, dimensions), np.empty((count, dimensions))
    step = max(1, ROWS // width)
    for start in range(0, count, step):
        rows = features[start : start + step]
        found[start : start + step] = (matrix @ np.ascontiguousarray(rows.T, np.float64)).T  # fast in this order
    return found


@functools.lru_cache(maxsize=16)  # the widths of a model's layers; each matrix is 40 MB or less for those of AlexNet
def _projection(width: int, dimensions: int):
    """Returns the sparse projection matrix `[dimensions, width]`."""
    from sklearn.exceptions import DataDimensionalityWarning
    from sklearn.random_projection import SparseRandomProjection

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataDimensionalityWarning)  # of narrow layers
        # Of what is fitted, only the shape counts.
        fitted = SparseRandomProjection(dimensions, random_state=0).fit(np.broadcast_to(0.0, (2, width)))
    return fitted.components_
