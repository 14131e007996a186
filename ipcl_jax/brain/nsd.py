"""The Natural Scenes Dataset (Allen et al. 2022), from its files as they are downloaded.

Source: NSD Data Manual, cvnlab.slite.page; docs/brain.md says which page or file each fact is from.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np

from ipcl_jax.brain.base import BrainData, Responses, Subject
from ipcl_jax.brain.choice import choose_subjects
from ipcl_jax.brain.labels import check_voxels
from ipcl_jax.brain.nsd_regions import open_regions
from ipcl_jax.brain.nsd_sessions import Session, open_sessions, reading
from ipcl_jax.brain.nsd_stimuli import image_name, open_images
from ipcl_jax.brain.trials import TrialMeans
from ipcl_jax.errors import ConfigError, near_miss
from ipcl_jax.system.files import expand_home
from ipcl_jax.system.probe import check_readable

SESSIONS = {f"subj{s:02d}": count for s, count in enumerate((40, 40, 32, 30, 40, 32, 40, 30), 1)}
"""Sessions that each subject completed, of 40 planned."""

_PLANNED = 40
_DESIGN = "nsddata/experiments/nsd/nsd_expdesign.mat"
_PROBED = 8  # trials that show whether a voxel has responses in a session
_COLUMNS = 1024  # voxels in float64 at a time

Space = Literal["volume", "surface"]
Betas = Literal["betas_assumehrf", "betas_fithrf", "betas_fithrf_GLMdenoise_RR"]
Resolution = Literal["func1pt8mm", "func1mm"]


class Design(NamedTuple):
    """Which image each trial shows.

    Attributes:
        order: `[30000]` for each trial, the place of its image among the subject's; from 0.
        images: `[8, 10000]` numbers of each subject's images; from 0.
    """

    order: np.ndarray
    images: np.ndarray


def open_nsd(
    root: str | Path,
    *,
    subjects: Sequence[str] = (),
    regions: Sequence[str] = ("streams",),
    space: Space = "volume",
    stimuli: Sequence[str] | None = None,
    sessions: int | None = None,
    zscore: bool = True,
    betas: Betas = "betas_fithrf_GLMdenoise_RR",
    resolution: Resolution = "func1pt8mm",
) -> BrainData:
    """Opens the Natural Scenes Dataset.

    Responses are percent signal change, z-scored by voxel within each session (over all its trials, as population
    standard deviation), and averaged over an image's repeats. Images are named by their row in `nsd_stimuli.hdf5`:
    `nsd-00013`, from 0.

    Args:
        root: folder with `nsddata` and `nsddata_betas`.
        subjects: such as `subj01`; by default all whose responses are there.
        regions: `ATLAS` for all regions of an atlas, `ATLAS:REGION` for one: `streams`, `prf-visualrois:hV4`.
        space: `volume`, in the subject's own space, or `surface`, on fsaverage.
        stimuli: images, as for `nsd_stimuli.open_images`; by default `nsd_stimuli.hdf5` in `root`.
        sessions: only so many of each subject, from the first; by default all, and all must be there.
        zscore: whether to z-score. Without, the ceiling takes differences between sessions for noise.
        betas: version of the responses.
        resolution: of the volume.

    Returns:
        Data whose voxels are numbered as `nsd_sessions` says. Voxels without responses in the first trials of a session
        (outside of what was imaged: constant, or not a number) are left out of all regions, and a note says how many.

    Raises:
        ConfigError: if files are missing, damaged or do not fit together, or for an unknown subject, region or option.
        MissingPackage: without nibabel.
    """
    for option, value, kind in ("space", space, Space), ("betas", betas, Betas), ("resolution", resolution, Resolution):
        if value not in get_args(kind):
            raise ConfigError(f"{option} is {value!r}.{near_miss(str(value), get_args(kind))}")
    root = expand_home(root)
    names = _choose_subjects(root, subjects)
    if sessions is not None and not 1 <= sessions <= min(SESSIONS[name] for name in names):
        fewest = min(names, key=lambda name: SESSIONS[name])
        raise ConfigError(f"sessions is {sessions}; {fewest} has {SESSIONS[fewest]}.")
    design = read_design(root / _DESIGN)
    opened, notes = [], []
    for name in names:
        part = "fsaverage" if space == "surface" else resolution
        folder = root / "nsddata_betas/ppdata" / name / part / betas
        files = open_sessions(folder, sessions or SESSIONS[name], space)
        _check_trials(files[0], design)
        found = open_regions(root, name, regions, space=space, resolution=resolution, shape=files[0].shape)
        found, more = _with_responses(name, files, found)
        notes += more
        seen = design.images[int(name[4:]) - 1][design.order[: len(files) * files[0].trials]]
        opened.append(NsdSubject(name, files, seen, found, zscore=zscore))
    numbers = np.unique(np.concatenate([subject.numbers for subject in opened]))
    return BrainData("nsd", tuple(opened), open_images(stimuli, root, numbers.tolist()), notes=tuple(notes))


def _choose_subjects(root: Path, subjects: Sequence[str]) -> tuple[str, ...]:
    folder = root / "nsddata_betas/ppdata"
    found = [name for name in SESSIONS if (folder / name).is_dir()]
    if not found:
        raise ConfigError(f"There are no subjects in {folder}, which should hold folders such as subj01.")
    return choose_subjects(subjects, found, where=str(folder))


def read_design(path: Path) -> Design:
    """Reads `nsd_expdesign.mat`, whose numbers count from 1.

    Raises:
        ConfigError: if it is missing or holds something else.
    """
    import scipy.io

    if not path.is_file():
        raise ConfigError(f"There is no file {path}, which says when each image was shown.")
    check_readable(path, "mat", whole=True)
    with reading(path):
        found = scipy.io.loadmat(path, variable_names=("masterordering", "subjectim"))
    order, images = (np.asarray(found.get(name, ())) for name in ("masterordering", "subjectim"))
    if order.ndim != 2 or len(order) != 1 or images.ndim != 2 or len(images) != len(SESSIONS):
        raise ConfigError(
            f"{path}: masterordering is {list(order.shape)} and subjectim {list(images.shape)}, expected [1, trials] "
            f"and [{len(SESSIONS)}, images]."
        )
    order = order[0]
    for name, values, largest in (("masterordering", order, images.shape[1]), ("subjectim", images, None)):
        if (values != np.rint(values)).any() or values.min() < 1 or (largest and values.max() > largest):
            raise ConfigError(
                f"{path}: {name} has values from {values.min()} to {values.max()}, expected whole numbers from 1"
                + (f" to {largest}." if largest else ".")
            )
    if any(len(np.unique(row)) < len(row) for row in images):
        raise ConfigError(f"{path}: subjectim names an image twice for one subject.")
    return Design(order.astype(np.int64) - 1, images.astype(np.int64) - 1)


def _check_trials(session: Session, design: Design) -> None:
    if session.trials * _PLANNED != len(design.order):
        raise ConfigError(
            f"{session.path} has {session.trials} trials; the design has {len(design.order)} in {_PLANNED} sessions, "
            f"{len(design.order) / _PLANNED:g} each. Download the file again."
        )


def _with_responses(
    subject: str, sessions: Sequence[Session], regions: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Leaves out voxels without responses and empty regions; returns regions and messages."""
    voxels = np.unique(np.concatenate([*regions.values(), np.zeros(0, np.int64)]))
    good = np.ones(len(voxels), bool)
    for session in sessions:
        good &= _varies(session.read(voxels, min(_PROBED, session.trials)))
    notes = []
    if not good.all():
        count = f"{(~good).sum():,} of {len(voxels):,}"
        notes.append(f"{subject}: {count} voxels are left out, which have no responses in a session.")
    kept = {name: np.intersect1d(places, voxels[good], assume_unique=True) for name, places in regions.items()}
    empty = [name for name, places in kept.items() if not len(places)]
    if len(empty) == len(kept):
        raise ConfigError(f"{subject} has no voxels in {', '.join(empty)}. Ask for other regions, or subjects.")
    if empty:
        notes.append(f"{subject} has no voxels in {', '.join(empty)}.")
    return {name: places for name, places in kept.items() if len(places)}, notes


def _varies(stored: np.ndarray) -> np.ndarray:
    """Which voxels of `[T, V]` are finite and not constant."""
    low, high = stored.min(0), stored.max(0)  # NaN where one is
    return (low < high) & np.isfinite(low) & np.isfinite(high)


class NsdSubject(Subject):
    """One subject's sessions.

    Args:
        name: of the subject.
        sessions: their files.
        numbers: `[trials]` number of each trial's image, from 0, for all sessions.
        regions: as for `Subject`.
        zscore: whether to z-score each voxel within each session.
    """

    def __init__(
        self,
        name: str,
        sessions: Sequence[Session],
        numbers: np.ndarray,
        regions: dict[str, np.ndarray],
        *,
        zscore: bool,
    ):
        self.name, self.regions = name, regions
        self.numbers, self._shown, self._repeats = np.unique(numbers, return_inverse=True, return_counts=True)
        self.images = tuple(image_name(number) for number in self.numbers)
        self.ceiling_kind = "noise ceiling from an image's repeats (ncsnr)" if (self._repeats > 1).any() else ""
        self._sessions, self._zscore = sessions, zscore

    def read(self, images: Sequence[str], voxels: np.ndarray) -> Responses:
        rows = self.rows(images)
        voxels = check_voxels(voxels, self._sessions[0].size, self.name)
        place = np.full(len(self.images), -1, np.int64)
        place[rows] = np.arange(len(rows))
        shown = place[self._shown].reshape(len(self._sessions), -1)
        means = TrialMeans(self._repeats[rows], len(voxels))
        for session, shown_here in zip(self._sessions, shown, strict=True):
            stored = session.read(voxels)
            good = _varies(stored)
            if not good.all():
                raise ConfigError(
                    f"{session.path}: {(~good).sum():,} of {len(voxels):,} voxels are constant or not finite, such as "
                    f"voxel {voxels[~good][0]}. Leave them out."
                )
            for first in range(0, len(voxels), _COLUMNS):
                trials = stored[:, first : first + _COLUMNS].astype(np.float64) / session.scale
                if self._zscore:
                    trials = (trials - trials.mean(0)) / trials.std(0)
                means.add(first, trials, shown_here)
        return means.finish()
