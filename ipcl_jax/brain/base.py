"""What every set of brain data gives: subjects, the images they saw, their regions, and responses read on demand."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ipcl_jax.activations.stimuli import StimulusSet
from ipcl_jax.errors import InputError, near_miss


class Responses(NamedTuple):
    """Responses of one subject.

    Attributes:
        mean: `[n, V]` float32, mean over an image's repeats.
        ceiling: `[V]` float32, the correlation with `mean` that is expected of a perfect model; NaN where the data
            can't tell (single repeats).
    """

    mean: np.ndarray
    ceiling: np.ndarray


class Subject(ABC):
    """A subject's responses, which stay on disk until they are read.

    Attributes:
        name: as the data set names the subject, such as `subj01`.
        images: names of the images that the subject saw, each once, in a fixed order.
        regions: for each region, by name, the voxels in it, `[V]` int64, ascending, from 0. A voxel may lie in several.
        ceiling_kind: how `Responses.ceiling` is computed, in a few words for a table; empty if it can't be.
    """

    name: str
    images: tuple[str, ...]
    regions: Mapping[str, np.ndarray]
    ceiling_kind: str

    @abstractmethod
    def read(self, images: Sequence[str], voxels: np.ndarray) -> Responses:
        """Reads responses to some images in some voxels.

        Files are read in parts, so that little more memory is used than for the result. One call should ask for all
        voxels that fit: each passes over the files once.

        Args:
            images: names from `images`, each once, in any order.
            voxels: `[V]` numbers of voxels, ascending, each once.

        Returns:
            Rows in the order of `images`, columns in that of `voxels`.

        Raises:
            InputError: for an unknown image or voxel.
            ConfigError: if a file is missing, damaged or holds another shape, or a response isn't a finite number;
                the message names the file.
        """

    def rows(self, images: Sequence[str]) -> np.ndarray:
        """Returns the place of each image in `self.images`, `[n]`.

        Raises:
            InputError: for an image that the subject did not see, or one named twice.
        """
        place = {name: row for row, name in enumerate(self.images)}
        if unknown := [name for name in images if name not in place]:
            raise InputError(
                f"{self.name} did not see {unknown[0]}.{near_miss(unknown[0], self.images)} "
                f"{len(unknown)} of {len(images)} images are not among the subject's {len(self.images)}."
            )
        if len(set(images)) < len(images):
            raise InputError(f"{len(images) - len(set(images))} images are named twice.")
        return np.array([place[name] for name in images], np.int64)


@dataclass(frozen=True)
class BrainData:
    """A set of brain data.

    Attributes:
        name: of the set, such as `nsd`.
        subjects: those asked for, in the order asked for.
        stimuli: images of the set, readable as pixels; its names include those of every subject's images.
        held_out: names of images that the set keeps for tests (of THINGS-fMRI); empty if it keeps none.
        notes: messages for the user, such as images that were left out.
        reading: options that change the responses, such as `zscore`, by name.
    """

    name: str
    subjects: tuple[Subject, ...]
    stimuli: StimulusSet
    held_out: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    reading: Mapping[str, object] = field(default_factory=dict)

    @property
    def shared(self) -> tuple[str, ...]:
        """Names of the images that all subjects saw, in the first subject's order."""
        others = [set(subject.images) for subject in self.subjects[1:]]
        return tuple(name for name in self.subjects[0].images if all(name in seen for seen in others))
