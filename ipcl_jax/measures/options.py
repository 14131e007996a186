"""Options of all measures; each name begins with the measure that it belongs to."""

from dataclasses import dataclass
from typing import Literal

from ipcl_jax.checked_config import Checked
from ipcl_jax.readout.kernels import Metric
from ipcl_jax.readout.ridge import ALPHAS
from ipcl_jax.readout.rsa import Comparison

Standardise = Literal["none", "all", "fitted"]


@dataclass(frozen=True, kw_only=True)
class MeasureOptions(Checked):
    """Options of the measures. A default that a publication does not state is called ours."""

    section = "measures."

    seed: int = 0
    """Seed of folds and halves of images, and of halves of subjects where not all are taken."""

    konkle_alphas: tuple[float, ...] = (0.1, 1.0, 10.0)
    """Penalties of ridge regression in konkle2022. The paper does not state them; scikit-learn's default is our choice."""
    konkle_per_voxel: bool = False
    """Choose a penalty for each voxel, not one for all voxels of a subject. Not stated either; the default is ours."""
    konkle_standardise: Standardise = "none"
    """Scale each unit to mean 0 and deviation 1 over all images, or over the fitted images of each fit. Not stated
    either; `none` is our choice."""
    konkle_splits: int = 1000
    """Largest number of splits of the subjects in halves. If there are more (of 13 subjects or more), this many
    different ones are drawn by the seed. The paper takes all, 35 and 126."""

    conwell_alphas: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5)
    """Penalties of ridge regression in conwell2024, as in the published code; the text goes up to 1e7."""
    conwell_dimensions: int = 5920
    """Dimensions of the random projection: as published, for 1,000 images and distortions of 0.1."""
    conwell_narrow: Literal["project", "keep"] = "project"
    """Whether layers with no more units than `conwell_dimensions` are projected too, as in the published code."""

    sparse_alpha: float = 0.1
    """Penalty of sparse-positive, as published; it counts in the units of the features and responses."""
    sparse_tol: float = 1e-3
    """Tolerance of its optimisation, as published."""
    sparse_seed: int = 365
    """Seed of the order in which its weights are updated, as published."""
    sparse_folds: int = 5
    """Folds of the images, each predicted from the others. The publication has images of its own for tests; folds are
    our choice."""

    encoding_folds: int = 5
    """Folds of the images in encoding, each predicted from the others; 3 images or more in each."""
    encoding_alphas: tuple[float, ...] = ALPHAS
    """Penalties for each voxel in encoding and versa, in units of the layer's mean variance over the fitted images."""
    versa_splits: int = 4
    """Number of random splits of the images in halves in versa."""
    comparison: Comparison = "spearman"
    """How versa and rsa compare RDMs."""
    metric: Metric = "correlation"
    """Dissimilarity of two images in a layer in rsa; measured RDMs are 1 - Pearson's r."""

    def _check(self) -> None:
        alphas = "konkle_alphas conwell_alphas encoding_alphas"
        self._each(
            alphas, lambda values: min(values, default=0) > 0, "one or more must be given, each above 0"
        )
        self._positive("konkle_splits conwell_dimensions sparse_alpha sparse_tol versa_splits")
        self._each(
            "sparse_folds encoding_folds", lambda count: count > 1, "two folds or more can be cross-validated"
        )
        self._each("seed sparse_seed", lambda seed: 0 <= seed < 2**32, "it must lie between 0 and 2^32 - 1")
