"""Responses of four subjects to the 4,916 images of BOLD5000, release 2 (Chang et al. 2019, Scientific Data 6:49).

Source: https://github.com/BOLD5000-dataset/BOLD5000 (files, sessions, units, z-scoring), and
`compute_BOLD5000_NCSNR_v5.m` of https://github.com/tarrlab/BOLD5000-GLMs (noise ceiling).
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ipcl_jax.brain.base import BrainData, Responses, Subject
from ipcl_jax.brain.bold5000_masks import read_regions
from ipcl_jax.brain.choice import check_voxels, choose_subjects
from ipcl_jax.brain.folder import DataFolder
from ipcl_jax.brain.names import normalise_name
from ipcl_jax.brain.nifti import open_nifti, read_volumes
from ipcl_jax.brain.pixels import open_pixels
from ipcl_jax.brain.repeats import RepeatMeans, ceiling_r, z_score
from ipcl_jax.errors import ConfigError, require
from ipcl_jax.system.files import error_text

_SESSIONS = {"CSI1": 15, "CSI2": 15, "CSI3": 15, "CSI4": 9}
_VOLUMES = 8  # read at a time: 15 MB in float32


def open_bold5000(
    root: str | os.PathLike,
    *,
    images: Sequence[str],
    subjects: Sequence[str] | None = None,
    regions: Sequence[str] | None = None,
    version: str = "TYPED-FITHRF-GLMDENOISE-RR",
    zscore: bool = True,
    ignore_affines: bool = False,
) -> BrainData:
    """Opens BOLD5000's release 2.

    Args:
        root: folder with `CSI1_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_ses-01.nii.gz` and those of the other sessions,
            `CSI1_imgnames.txt`, `CSI1_brainmask.nii.gz`, masks such as `sub-CSI1_mask-LHPPA.nii.gz`, and those of
            other subjects, at any depth.
        images: the presented stimuli, as for `activations.stimuli.open_stimuli`, with their file names.
        subjects: `CSI1` to `CSI4`; by default all.
        regions: `EarlyVis`, `LOC`, `OPA`, `PPA`, `RSC`, or one hemisphere's, such as `LHPPA`; by default these five.
        version: of the responses, as in their files' names.
        zscore: scale each voxel's trials to mean 0 and variance 1 within each session, as the data's authors recommend.
        ignore_affines: accept masks whose affine differs from the brain mask's, if their size is the same.

    Returns:
        The data. Voxel (x, y, z) of a volume [X, Y, Z] has the number (x Y + y) Z + z. Voxels of a region that were not
        measured in every session (a response of 0 or NaN) are left out, and their number noted.

    Raises:
        ConfigError: if a file is missing, damaged or of another layout, or files of a subject don't belong together.
        MissingPackage: without nibabel.
    """
    require("BOLD5000", "brain", "nibabel")
    folder, people, notes = DataFolder(root, "BOLD5000"), [], []
    for name in choose_subjects(subjects, _SESSIONS):
        names = _read_names(folder.find(f"{name}_imgnames.txt"))
        paths = [
            folder.find(f"{name}_GLMbetas-{version}_ses-{session:02}.nii.gz")
            for session in range(1, _SESSIONS[name] + 1)
        ]
        brain = open_nifti(folder.find(f"{name}_brainmask.nii.gz"), 3)
        trials, measured = [], np.ones(brain.shape, bool)
        for path in paths:
            session = open_nifti(path, 4, brain.shape)
            trials.append(session.shape[3])
            first = read_volumes(path, session, 0, 1)[..., 0]
            measured &= np.isfinite(first) & (first != 0)
        if sum(trials) != len(names):
            raise ConfigError(
                f"{folder.root}: the {len(paths)} sessions of {name} hold {sum(trials)} trials, and "
                f"{name}_imgnames.txt {len(names)} names; they don't belong together."
            )
        inside = {}
        for region, mask in read_regions(folder, name, regions, brain, ignore_affines=ignore_affines).items():
            inside[region] = np.flatnonzero(mask & measured)
            lost, count = int((mask & ~measured).sum()), int(mask.sum())
            if 2 * lost > count:
                raise ConfigError(
                    f"{folder.root}: {lost} of {count} voxels of {name}'s {region} have no responses; its mask does "
                    "not fit the responses."
                )
            if lost:
                notes.append(f"{name}: {lost} of {count} voxels in {region} have no responses and are left out.")
        people.append(_Bold5000Subject(name, names, paths, trials, brain.shape, inside, zscore))
    shown = sorted({image for person in people for image in person.images})
    return BrainData("bold5000", tuple(people), open_pixels(images, shown, "BOLD5000"), notes=tuple(notes))


class _Bold5000Subject(Subject):
    ceiling_kind = "noise ceiling from the variance across repeats, for as many repeats as were averaged"

    def __init__(
        self,
        name: str,
        names: list[str],
        paths: list[Path],
        trials: list[int],
        shape: tuple[int, ...],
        regions: Mapping[str, np.ndarray],
        zscore: bool,
    ):
        self.name, self.regions = name, regions
        self.images = tuple(dict.fromkeys(names))
        place = {image: i for i, image in enumerate(self.images)}
        self._shown = np.split(np.array([place[image] for image in names]), np.cumsum(trials)[:-1])
        self._paths, self._shape, self._zscore = paths, shape, zscore
        self._known = np.unique(np.concatenate(list(regions.values())))

    def read(self, images: Sequence[str], voxels: np.ndarray) -> Responses:
        wanted = self.rows(images)
        voxels = check_voxels(self.name, voxels, self._known)
        repeats = np.bincount(np.concatenate(self._shown))
        # Other images shown more than once also tell how large the noise is.
        others = np.setdiff1d(np.flatnonzero(repeats > 1), wanted)
        used = np.concatenate([wanted, others])
        row_of = dict(zip(used.tolist(), range(len(used)), strict=True))
        means = RepeatMeans(repeats[used], len(voxels))
        total = _TotalVariance(len(voxels))
        for path, shown in zip(self._paths, self._shown, strict=True):
            responses = self._session(path, len(shown), voxels)
            if self._zscore:
                responses = z_score(responses, 0, voxels, str(path))
            total.add(responses)
            for image, response in zip(shown.tolist(), responses, strict=True):
                if image in row_of:
                    means.add(row_of[image], response)
        noise = means.noise
        ceiling = ceiling_r((1 if self._zscore else total.variance) - noise, noise, repeats[wanted])
        return Responses(means.mean[: len(wanted)], ceiling)

    def _session(self, path: Path, trials: int, voxels: np.ndarray) -> np.ndarray:
        """Reads a session's responses `[T, V]` float64."""
        image = open_nifti(path, 4, self._shape)
        if image.shape[3] != trials:
            raise ConfigError(f"{path} has {image.shape[3]} trials, and had {trials} when it was opened.")
        at = np.unravel_index(voxels, self._shape)
        found = np.empty((trials, len(voxels)))
        for first in range(0, trials, _VOLUMES):
            end = min(first + _VOLUMES, trials)
            found[first:end] = read_volumes(path, image, first, end)[at].T
        if not (fine := np.isfinite(found).all(0)).all():
            raise ConfigError(f"{path} has responses that are not finite numbers, such as in voxel {voxels[~fine][0]}.")
        return found


class _TotalVariance:
    """The unbiased variance over all trials, from one session after another (Chan, Golub & LeVeque 1979)."""

    def __init__(self, voxels: int):
        self._count, self._mean, self._squares = 0, np.zeros(voxels), np.zeros(voxels)

    def add(self, responses: np.ndarray) -> None:
        count, mean = len(responses), responses.mean(0)
        both, step = self._count + count, mean - self._mean
        self._squares += ((responses - mean) ** 2).sum(0) + step**2 * self._count * count / both
        self._mean += step * count / both
        self._count = both

    @property
    def variance(self) -> np.ndarray:
        return self._squares / (self._count - 1)


def _read_names(path: Path) -> list[str]:
    """Reads the name of each trial's image; the lists of an earlier release write `rep_` before repeated ones."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} can't be read: {error_text(error)}.") from None
    names = [normalise_name(line).removeprefix("rep_") for line in lines]
    while names and not names[-1]:
        names.pop()
    if not names or not all(names):
        raise ConfigError(f"{path} has empty lines; it should have one name a line, of each trial's image.")
    return names
