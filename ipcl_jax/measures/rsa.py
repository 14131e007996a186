"""Plain RSA: the agreement of a layer's RDM with each subject's.

Source: Kriegeskorte, Mur & Bandettini 2008; Nili et al. 2014 (noise ceiling).
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from ipcl_jax.errors import InputError
from ipcl_jax.measures.base import Best, Layer
from ipcl_jax.measures.geometry import pattern_matrix
from ipcl_jax.measures.options import MeasureOptions
from ipcl_jax.measures.pairing import PairedSubjects
from ipcl_jax.measures.region import Region, check_features, check_kernel, is_constant
from ipcl_jax.measures.statistics import choose_by_others
from ipcl_jax.readout.rsa import Comparison, check_comparison, compare_rdms, rdm, to_rdm

LOWER_BOUND = "lower bound: a subject's RDM and the mean of the others'"


class RSA(PairedSubjects):
    """RSA of a layer. Scores are `[G, 1, 1]`: the subjects, and all images.

    Args:
        region: responses of one subject or more to 8 images or more.
        options: `comparison` and `metric`.

    Raises:
        InputError: for fewer images, or a subject with fewer than 2 voxels that vary, or without geometry.
        MissingPackage: without rsatoolbox.
    """

    name: ClassVar[str] = "rsa"
    about: ClassVar[str] = "The RDM of a layer's units is compared with that of each subject's responses."

    @classmethod
    def needs_features(cls, options: MeasureOptions) -> bool:
        """Returns whether a layer's features are needed: for all but Euclidean distances."""
        return options.metric != "euclidean"

    def __init__(self, region: Region, options: MeasureOptions):
        check_comparison(options.comparison)
        region.take_at_least(8, self.name)
        self.options, self.groups, self.splits, self.sides = options, region.subjects, ("all",), ("all",)
        found = {name: pattern_matrix(values) for name, values in region.varying().items()}
        check_measured(found, options.comparison)
        self._measured = np.stack(list(found.values()))
        self.ceiling_kind = LOWER_BOUND if len(self.groups) > 1 else ""

    def score(self, layer: Layer) -> np.ndarray:
        """Scores a layer, `[G, 1, 1]`; 0 if it is the same for all images, or all images are equally far apart.

        Raises:
            InputError: for a layer of other images, or not finite.
        """
        kernel = check_kernel(layer, self._measured.shape[1])
        if is_constant(kernel):
            return np.zeros((len(self.groups), 1, 1))
        if self.options.metric == "euclidean":
            found = to_rdm(kernel, "euclidean")
        else:
            found = rdm(check_features(layer, self.name), self.options.metric)
        return np.array([[[agreement(found, one, self.options.comparison)]] for one in self._measured])

    def ceiling(self) -> np.ndarray:
        """Compares each subject's RDM with the mean of the others', `[G, 1]`: the mean of subjects; NaN for one."""
        return np.full((len(self.groups), 1), lower_bound(self._measured, self.options.comparison))

    def best(self, scores: Mapping[str, np.ndarray]) -> Best:
        """Takes for each subject the layer with the highest mean over the other subjects; NaN for one subject."""
        found = choose_by_others(np.stack(list(scores.values()))[..., 0])
        how = "the other subjects" if len(self.groups) > 1 else "one subject: no other data to choose on"
        return Best(found.scores, np.stack([found.layers] * 2, -1), how)


def agreement(predicted: np.ndarray, measured: np.ndarray, method: Comparison) -> float:
    """Compares one RDM with another, `[N, N]` each; 0 if all dissimilarities of the first are equal."""
    return compare_rdms({"": predicted}, measured, method=method).scores[""]


def lower_bound(measured: np.ndarray, method: Comparison) -> float:
    """Computes the lower bound of the noise ceiling of `compare_rdms` from RDMs `[S, N, N]`; NaN for one."""
    ceiling = compare_rdms({"": measured[0]}, measured, method=method).ceiling
    return np.nan if ceiling is None else ceiling[0]


def check_measured(measured: Mapping[str, np.ndarray], method: Comparison) -> None:
    """Raises InputError if a subject's RDM can't be compared, because all its dissimilarities are equal."""
    for name, one in measured.items():
        try:
            compare_rdms({"": one}, one, method=method)
        except InputError as error:
            raise InputError(f"The responses of {name}: {error}") from None
