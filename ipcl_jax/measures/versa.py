"""Voxel-encoding RSA within subjects: the agreement of RDMs of predicted and of measured responses.

Each voxel's ridge regression on the layer is fitted to half of the images, with a penalty of its own. Its predictions for
the other half give an RDM (1 - Pearson's r), which is compared with the measured one. Then the halves are swapped.

Differs: the paper (`konkle2022`) leaves out one image at a time, and averages RDMs over halves of the subjects.

Source: Konkle & Alvarez 2022 (voxel-encoding RSA); Nili et al. 2014 (noise ceiling).
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from ipcl_jax.measures.base import Best, Layer
from ipcl_jax.measures.encoding import predict_tested
from ipcl_jax.measures.geometry import pattern_matrix
from ipcl_jax.measures.options import MeasureOptions
from ipcl_jax.measures.pairing import PairedSplits
from ipcl_jax.measures.region import Region, SideBySide, check_kernel, is_constant
from ipcl_jax.measures.rsa import LOWER_BOUND, agreement, check_measured, lower_bound
from ipcl_jax.measures.statistics import choose_by_other_side
from ipcl_jax.readout.rsa import check_comparison


class Versa(PairedSplits):
    """Voxel-encoding RSA. Scores are `[G, K, 2]`: the subjects, random splits of the images, and the half predicted.

    Args:
        region: responses of one subject or more to 8 images or more.
        options: `versa_splits`, `encoding_alphas`, `comparison` and `seed`.

    Raises:
        InputError: for fewer images, or a subject with fewer than 2 voxels that vary, or no geometry in a half.
        MissingPackage: without rsatoolbox.
    """

    name: ClassVar[str] = "versa"
    about: ClassVar[str] = (
        "RDMs of the responses that ridge regression predicts for half of the images are compared with "
        "measured ones, within subjects."
    )
    ratio = 1.0  # both halves of the images are of one size

    def __init__(self, region: Region, options: MeasureOptions):
        check_comparison(options.comparison)
        region.take_at_least(8, "Voxel-encoding RSA in halves")
        self.options, self.responses, images = options, region.varying(), len(region.images)
        self._together = SideBySide(self.responses)
        self.groups, self.sides = region.subjects, ("half 1", "half 2")
        self.splits = tuple(f"split {number}" for number in range(1, options.versa_splits + 1))
        rng = np.random.default_rng(options.seed)
        orders = [rng.permutation(images) for _ in self.splits]
        self._halves = [(order[: images // 2], order[images // 2 :]) for order in orders]
        self._measured = np.empty((len(self.splits), 2), object)  # of [G, m, m]
        for split, halves in enumerate(self._halves):
            for side, tested in enumerate(halves):
                found = {name: pattern_matrix(values[tested]) for name, values in self.responses.items()}
                check_measured(found, options.comparison)
                self._measured[split, side] = np.stack(list(found.values()))
        self.ceiling_kind = LOWER_BOUND if len(self.groups) > 1 else ""

    def score(self, layer: Layer) -> np.ndarray:
        """Scores a layer, `[G, K, 2]`: side h is predicted from the other half; 0 if the layer is constant.

        Raises:
            InputError: for a layer of other images, or not finite.
        """
        kernel = check_kernel(layer, len(next(iter(self.responses.values()))))
        found = np.zeros((len(self.groups), len(self.splits), 2))
        if is_constant(kernel):
            return found
        for split, halves in enumerate(self._halves):
            for side, (tested, fitted) in enumerate((halves, halves[::-1])):
                predicted = predict_tested(
                    kernel, self._together.values, fitted, tested, self.options.encoding_alphas
                )
                for group, own in enumerate(self._together.split(predicted)):
                    measured = self._measured[split, side][group]
                    found[group, split, side] = agreement(pattern_matrix(own), measured, self.options.comparison)
        return found

    def ceiling(self) -> np.ndarray:
        """Compares each subject's measured RDM with the mean of the others', `[G, K]`: mean of subjects and halves.

        NaN for one subject.
        """
        bounds = [[lower_bound(half, self.options.comparison) for half in halves] for halves in self._measured]
        return np.mean(bounds, axis=1)[None].repeat(len(self.groups), 0)

    def best(self, scores: Mapping[str, np.ndarray]) -> Best:
        """Takes the layer that is best for one half of the images and scores it for the other, in both directions."""
        found = choose_by_other_side(np.stack(list(scores.values())))
        return Best(found.scores.mean(2), found.layers, "the other half of the images")
