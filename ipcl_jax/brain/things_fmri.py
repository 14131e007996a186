"""Responses of three subjects to the 8,740 images of THINGS-fMRI (Hebart et al. 2023, eLife 12:e82580).

Source: https://github.com/ViCCo-Group/THINGS-data, `MRI/notebooks/fmri_usage.ipynb` (files and columns) and
`MRI/thingsmri/anc.py` (noise ceiling); the table of single trials, https://doi.org/10.25452/figshare.plus.20492835.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from ipcl_jax.brain.base import BrainData, Responses, Subject
from ipcl_jax.brain.choice import check_voxels, choose_subjects
from ipcl_jax.brain.folder import DataFolder
from ipcl_jax.brain.pandas_store import find_blocks
from ipcl_jax.brain.pixels import open_pixels
from ipcl_jax.brain.repeats import ceiling_r, z_score
from ipcl_jax.brain.things_tables import Trials, Voxels, read_trials, read_voxels
from ipcl_jax.errors import ConfigError, require
from ipcl_jax.system.probe import check_readable

_SUBJECTS = ("sub-01", "sub-02", "sub-03")
# Names on figshare, and on OpenNeuro (ds004192, derivatives/ICA-betas).
_RESPONSES = ("{}_ResponseData.h5", "{}_task-things_voxel-wise-responses.h5")
_STIMULI = ("{}_StimulusMetadata.csv", "{}_task-things_stimulus-metadata.tsv", "{}_task-things_stimulus-metadata.csv")
_VOXELS = ("{}_VoxelMetadata.csv", "{}_task-things_voxel-metadata.tsv", "{}_task-things_voxel-metadata.csv")
_GROUP = "ResponseData"
_ROWS = 256  # of the file, read at a time: 20 MB in float64


def open_things_fmri(
    root: str | os.PathLike,
    *,
    images: Sequence[str],
    subjects: Sequence[str] | None = None,
    regions: Sequence[str] | None = None,
    zscore: bool = True,
) -> BrainData:
    """Opens THINGS-fMRI's table of single trials.

    Args:
        root: folder with `sub-01_ResponseData.h5`, `sub-01_StimulusMetadata.csv`, `sub-01_VoxelMetadata.csv` and those
            of other subjects, at any depth.
        images: the images of THINGS, as for `activations.stimuli.open_stimuli`, with their file names.
        subjects: `sub-01`, `sub-02`, `sub-03`; by default all.
        regions: columns of the voxels' table that are 1 in the region, such as `V1`, `lFFA` or `glasser-V1`; a name
            such as `FFA` stands for `lFFA` and `rFFA` together. By default all but the atlas (`glasser-`), as far as a
            subject has voxels in them.
        zscore: scale each voxel's trials to mean 0 and variance 1 within each session, as the noise ceiling that comes
            with the data was computed.

    Returns:
        The data; the test images are `held_out`. Voxels have the numbers of the files' `voxel_id`.

    Raises:
        ConfigError: if a file is missing, damaged or of another layout, or files of a subject don't belong together.
        MissingPackage: without pandas.
    """
    require("THINGS-fMRI", "brain", "pandas")
    folder, people, notes = DataFolder(root, "THINGS-fMRI"), [], []
    for name in choose_subjects(subjects, _SUBJECTS):
        responses, stimuli, voxels = (
            folder.find(*(form.format(name) for form in forms)) for forms in (_RESPONSES, _STIMULI, _VOXELS)
        )
        table = read_voxels(voxels, name, regions)
        if table.missing:
            notes.append(f"{name} has no voxels in {', '.join(table.missing)}.")
        people.append(_ThingsSubject(name, responses, read_trials(stimuli, name), table, zscore))
        if people[-1].unchecked:
            notes.append(f"{responses} has no readable trial numbers; its columns are taken to be trial_id 0, 1, 2 ...")
    shown = sorted({image for person in people for image in person.images})
    held_out = frozenset[str]().union(*(person.trials.test for person in people))
    if mixed := [name for person in people for name in {*person.images} - person.trials.test if name in held_out]:
        raise ConfigError(f"{folder.root}: {mixed[0]} is a test image of one subject and a training image of another.")
    pixels = open_pixels(images, shown, "THINGS-fMRI")
    return BrainData("things_fmri", tuple(people), pixels, held_out, tuple(notes))


class _ThingsSubject(Subject):
    ceiling_kind = "noise ceiling of the test images (nc_testset), for as many repeats as were averaged"

    def __init__(self, name: str, path: Path, trials: Trials, voxels: Voxels, zscore: bool):
        self.name, self.images, self.regions = name, trials.images, voxels.regions
        self.trials, self._path, self._voxels, self._zscore = trials, path, voxels, zscore
        check_readable(path, "hdf5")
        with h5py.File(path) as file:
            self._layout = _find_layout(path, file, trials)
        rows, self.unchecked = self._layout.ids, self._layout.unchecked
        if not np.array_equal(np.sort(rows), voxels.ids):
            raise ConfigError(
                f"{path} has {len(rows)} voxels with voxel_id {rows.min()} to {rows.max()}, and the table of voxels "
                f"{len(voxels.ids)} with {voxels.ids[0]} to {voxels.ids[-1]}; they don't belong together."
            )
        self._row_of = np.argsort(rows)  # for the voxels in ascending order
        self._known = np.unique(np.concatenate(list(voxels.regions.values())))

    def read(self, images: Sequence[str], voxels: np.ndarray) -> Responses:
        wanted = self.rows(images)
        voxels = check_voxels(self.name, voxels, self._known)
        at = np.searchsorted(self._voxels.ids, voxels)
        trials = [np.flatnonzero(self.trials.shown == image) for image in wanted]
        repeats = np.array([len(some) for some in trials])
        starts = np.concatenate([[0], np.cumsum(repeats)[:-1]])
        mean = np.empty((len(images), len(voxels)), np.float32)
        for places, values in self._blocks(self._row_of[at]):
            if not np.isfinite(values).all():
                raise ConfigError(f"{self._path} has responses that are not finite numbers, in or near voxel "
                                  f"{voxels[places][~np.isfinite(values).all(1)][0]}.")  # fmt: skip
            if self._zscore:
                for session in np.unique(self.trials.sessions):
                    inside = self.trials.sessions == session
                    where = f"{self._path}, session {session}"
                    values[:, inside] = z_score(values[:, inside], 1, voxels[places], where)
            means = np.add.reduceat(values[:, np.concatenate(trials)], starts, axis=1) / repeats
            mean[:, places] = means.T
        ceiling = self._voxels.noise_ceiling[at]
        # A share c of variance is explainable after averaging m trials if signal / noise = c / ((1 - c) m).
        return Responses(mean, ceiling_r(ceiling, (1 - ceiling) * self.trials.test_repeats, repeats))

    def _blocks(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields places in `rows` and the trials of these rows, `[k, T]` float64 in the order of `trials`."""
        order = np.argsort(rows)
        rows, first = rows[order], 0
        with h5py.File(self._path) as file:
            data = file[self._layout.name]
            while first < len(rows):
                end = int(np.searchsorted(rows, rows[first] + _ROWS))
                values = data[rows[first] : rows[end - 1] + 1][rows[first:end] - rows[first]]
                yield order[first:end], values[:, self._layout.columns].astype(np.float64)
                first = end


class _Layout(NamedTuple):
    """Where a file has what: its array of responses, the column of each trial, and the `voxel_id` of each row.

    `unchecked`: the labels of the columns can't be read, so that columns are taken to be numbered from 0.
    """

    name: str
    columns: np.ndarray
    ids: np.ndarray
    unchecked: bool


def _find_layout(path: Path, file: h5py.File, trials: Trials) -> _Layout:
    if not isinstance(file.get(_GROUP), h5py.Group):
        raise ConfigError(f"{path} has no table {_GROUP}; it has {', '.join(file) or 'nothing'}.")
    rows, responses, unchecked = None, [], False
    for values, labels in find_blocks(path, file[_GROUP]):
        if labels and "voxel_id" in labels:
            rows = values[:, labels.index("voxel_id")]
        if labels is None or len(labels) > 1 or labels != ["voxel_id"]:
            responses.append((values, labels))
    if rows is None or len(responses) != 1 or len(set(rows)) < len(rows) or (rows != rows.astype(np.int64)).any():
        raise ConfigError(f"{path}: {_GROUP} lacks a column voxel_id of different numbers, or one array of responses.")
    values, labels = responses[0]
    if labels is None:  # in another form than known files have
        labels, unchecked = [*range(values.shape[1])], True
    column = {label: place for place, label in enumerate(labels) if label != "voxel_id"}
    if set(column) != set(trials.ids.tolist()):
        raise ConfigError(
            f"{path} has {len(column)} trials and the table of stimuli {len(trials.ids)}, or their trial_id differ; "
            "they don't belong together."
        )
    return _Layout(
        values.name, np.array([column[trial] for trial in trials.ids.tolist()]), rows.astype(np.int64), unchecked
    )
