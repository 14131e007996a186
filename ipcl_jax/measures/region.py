"""Responses of a region as measures take them, and the checks of responses and layers that all measures share."""

from collections.abc import Mapping, Sequence

import numpy as np

from ipcl_jax.errors import InputError
from ipcl_jax.measures.base import Layer
from ipcl_jax.readout.base import centre


class Region:
    """Responses of all subjects in one region to the same N images.

    Args:
        responses: `[N, V]` of each subject, by name; the number of voxels may differ.
        ceilings: `[V]` of each subject, from 0 to 1: the correlation that is expected of a perfect model, NaN where
            the data can't tell. None, or no entry, for a subject without.
        images: names of the N images, each once.
        ceiling_kind: how `ceilings` are computed, for a table.

    Attributes:
        responses: `[N, V]` by subject, float32 if they were given so, otherwise float64.
        ceilings: `[V]` float64 or None, by subject.
        images: names of the images.
        subjects: names of the subjects.
        ceiling_kind: as given.

    Raises:
        InputError: for responses that are not `[N, V]` or not finite, another number of images, an image named twice,
            or a ceiling of another shape or range.
    """

    def __init__(
        self,
        responses: Mapping[str, np.ndarray],
        ceilings: Mapping[str, np.ndarray | None],
        images: Sequence[str],
        ceiling_kind: str = "",
    ):
        self.images, self.subjects, self.ceiling_kind = tuple(images), tuple(responses), ceiling_kind
        if not self.subjects:
            raise InputError("There are no responses; a measure takes those of one subject or more.")
        if len(set(self.images)) < len(self.images):
            twice = next(name for name in self.images if self.images.count(name) > 1)
            raise InputError(f"Image {twice} is named twice; average its responses, and name each image once.")
        self.responses = {name: self._checked(name, values) for name, values in responses.items()}
        self.ceilings = {name: self._checked_ceiling(name, ceilings.get(name)) for name in self.subjects}

    def _checked(self, name: str, values: np.ndarray) -> np.ndarray:
        shape = np.shape(values)
        if len(shape) != 2 or not shape[1]:
            raise InputError(f"The responses of {name} are of shape {list(shape)}; expected [N, V].")
        if shape[0] != len(self.images):
            raise InputError(f"The responses of {name} are to {shape[0]} images, and {len(self.images)} are named.")
        values = np.asarray(values)
        if values.dtype != np.float32:
            values = values.astype(np.float64)
        if not np.isfinite(values).all():
            raise InputError(f"The responses of {name} hold values that are not finite numbers.")
        return values

    def _checked_ceiling(self, name: str, values: np.ndarray | None) -> np.ndarray | None:
        if values is None:
            return None
        voxels = self.responses[name].shape[1]
        values = np.asarray(values, np.float64)
        if values.shape != (voxels,):
            raise InputError(f"The ceilings of {name} are of shape {list(values.shape)}; expected {[voxels]}.")
        if not (np.isnan(values) | ((values >= 0) & (values <= 1))).all():
            raise InputError(f"The ceilings of {name} are not all between 0 and 1 (or NaN); give correlations.")
        return values

    def take_at_least(self, images: int, measure: str) -> None:
        """Raises InputError if there are fewer images than a measure takes."""
        if len(self.images) < images:
            raise InputError(f"{measure} of {len(self.images)} images; it takes {images}.")

    def varying(self) -> dict[str, np.ndarray]:
        """Leaves out voxels whose responses are the same for all images.

        Returns:
            `[N, V]` of each subject, by name.

        Raises:
            InputError: if fewer than 2 voxels of a subject vary, from which no RDM can be computed.
        """
        found = {name: values[:, centre(values).any(0)] for name, values in self.responses.items()}
        for name, values in found.items():
            if values.shape[1] < 2:
                raise InputError(f"{values.shape[1]} voxels of {name} vary among the images; an RDM takes 2.")
        return found

    def mean_ceiling(self) -> np.ndarray:
        """Averages each subject's ceilings over voxels, `[S]`; NaN if there are none or one is NaN."""
        return np.array([np.nan if values is None else values.mean() for values in self.ceilings.values()])


class SideBySide:
    """Voxels of all subjects side by side, so that one decomposition of a layer serves them all.

    Args:
        responses: `[N, V]` of each subject, by name.

    Attributes:
        values: `[N, sum of V]`.
    """

    def __init__(self, responses: Mapping[str, np.ndarray]):
        subjects = list(responses.values())
        self.values = subjects[0] if len(subjects) == 1 else np.concatenate(subjects, axis=1)
        self._ends = np.cumsum([values.shape[1] for values in subjects])[:-1]

    def split(self, values: np.ndarray) -> list[np.ndarray]:
        """Divides values `[..., sum of V]` by subject, `[..., V]` each."""
        return np.split(values, self._ends, axis=-1)


def is_constant(kernel: np.ndarray) -> bool:
    """Whether a layer is the same for all images, up to the rounding error of its kernel `[N, N]`."""
    error = np.finfo(np.result_type(kernel, np.float16)).eps
    size = np.trace(kernel, dtype=np.float64) / len(kernel)
    return not size - kernel.mean(dtype=np.float64) > 4 * error * size


def check_kernel(layer: Layer, images: int) -> np.ndarray:
    """Returns a layer's kernel `[N, N]`.

    Raises:
        InputError: if it is not of this number of images, or not finite.
    """
    if layer.kernel.shape != (images, images):
        raise InputError(
            f"The layer's kernel is of shape {list(layer.kernel.shape)}; expected {[images, images]}, of the images of "
            "the responses."
        )
    if not np.isfinite(layer.kernel).all():
        raise InputError("The layer's kernel holds values that are not finite numbers.")
    return layer.kernel


def check_features(layer: Layer, measure: str) -> np.ndarray:
    """Returns a layer's features `[N, D]`.

    Raises:
        InputError: if there are none, or they are not of the kernel's images, or not finite.
    """
    features = layer.features
    if features is None:
        raise InputError(f"{measure} needs the features of the layer, and only their kernel was computed.")
    if features.ndim != 2 or len(features) != len(layer.kernel):
        raise InputError(
            f"The layer's features are of shape {list(features.shape)}; expected [N, D] of {len(layer.kernel)} images."
        )
    if not np.isfinite(features).all():
        raise InputError("The layer's features hold values that are not finite numbers.")
    return features
