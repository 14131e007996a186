"""All measures by name."""

from collections.abc import Mapping, Sequence

import numpy as np

from ipcl_jax.errors import InputError, near_miss
from ipcl_jax.measures.base import Measure
from ipcl_jax.measures.conwell2024 import Conwell2024, Conwell2024Classic, Conwell2024Versa
from ipcl_jax.measures.encoding import Encoding
from ipcl_jax.measures.konkle2022 import Konkle2022, Konkle2022Classic
from ipcl_jax.measures.options import MeasureOptions
from ipcl_jax.measures.region import Region
from ipcl_jax.measures.rsa import RSA
from ipcl_jax.measures.sparse_positive import SparsePositive
from ipcl_jax.measures.versa import Versa

_KINDS = {
    kind.name: kind
    for kind in (
        Konkle2022, Konkle2022Classic, Conwell2024, Conwell2024Versa, Conwell2024Classic, SparsePositive, Encoding,
        Versa, RSA,
    )
}  # fmt: skip

MEASURES = tuple(_KINDS)
"""Names of all measures."""


def needs_features(name: str, options: MeasureOptions) -> bool:
    """Returns whether a measure needs the features of layers, or else their kernels alone.

    Raises:
        InputError: for an unknown name.
    """
    return _kind(name).needs_features(options)


def open_measure(
    name: str,
    responses: Mapping[str, np.ndarray],
    ceilings: Mapping[str, np.ndarray | None],
    images: Sequence[str],
    options: MeasureOptions,
    ceiling_kind: str = "",
) -> Measure:
    """Makes a measure of a region.

    Args:
        name: one of `MEASURES`.
        responses: `[N, V]` of each subject, by name, all to the same N images; the number of voxels may differ.
        ceilings: `[V]` of each subject, from 0 to 1, NaN where the data can't tell; or None.
        images: names of the N images, each once.
        options: options of all measures.
        ceiling_kind: how `ceilings` are computed, for a table.

    Raises:
        InputError: for an unknown name, responses or ceilings of another shape, of different numbers of images, or not
            finite, an image named twice, or fewer images, subjects or voxels than the measure takes.
        MissingPackage: without a package that the measure needs.
    """
    return _kind(name)(Region(responses, ceilings, images, ceiling_kind), options)


def about_measure(name: str) -> str:
    """Says in a sentence what a measure, one of `MEASURES`, measures.

    Raises:
        InputError: for an unknown name.
    """
    return _kind(name).about


def _kind(name: str):
    if name not in _KINDS:
        raise InputError(f"No measure {name!r}.{near_miss(name, MEASURES)}")
    return _KINDS[name]
