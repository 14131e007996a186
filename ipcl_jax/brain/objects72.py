"""Responses to 72 inanimate objects, the data of Konkle & Alvarez 2022.

Source: the lab's code, which reads the file with `scipy.io.loadmat(simplify_cells=True)` and keeps voxels whose
`Reliability` is above 0.3 (harvard-visionlab: `datasets`, `konkle_72objects`, and `step01_compute_neural_rdms.py`).
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import scipy.io

from ipcl_jax.brain.base import BrainData, Responses, Subject
from ipcl_jax.brain.choice import check_voxels, choose_regions, choose_subjects
from ipcl_jax.brain.folder import DataFolder
from ipcl_jax.brain.pixels import open_pixels
from ipcl_jax.errors import ConfigError
from ipcl_jax.system.files import expand_home
from ipcl_jax.system.probe import check_readable


def open_objects72(
    root: str | os.PathLike,
    *,
    images: Sequence[str],
    subjects: Sequence[str] | None = None,
    regions: Sequence[str] | None = None,
    parts: Literal["SECTORS", "GRADIENT"] = "SECTORS",
    min_reliability: float = 0.3,
    min_voxels: int = 50,
    skip: Sequence[int] = (1,),
) -> BrainData:
    """Opens the responses to 72 objects.

    Args:
        root: `ExploringObjectsData_SECTORS.mat` or `_GRADIENT.mat`, or the folder that holds it.
        images: the 72 pictures, as for `activations.stimuli.open_stimuli`; their names are the file's conditions.
        subjects: `subject01`, `subject02` and so on, in the file's order; by default all but those of `skip`.
        regions: names as in the file; by default all.
        parts: how cortex is divided, which is also the name of the file's struct: by sectors (EarlyV, pOTC, aOTC) or
            along a gradient.
        min_reliability: voxels are kept if the file's `Reliability` is above; -1 keeps all but those without one.
        min_voxels: regions with fewer voxels are kept and noted, as in the lab's code.
        skip: places in the file, from 0, of subjects to leave out. The lab's code leaves out the second, 1.

    Returns:
        The data. Voxels are numbered region after region in the file's order, before any is left out. The file doesn't
        say what its `Reliability` is, so that ceilings are NaN.

    Raises:
        ConfigError: if the file is missing, damaged or of another layout, or has no such subject, region or image.
    """
    path = expand_home(root)
    if not path.is_file():
        path = DataFolder(path, "the 72 objects").find(f"ExploringObjectsData_{parts}.mat")
    data = _read(path, parts)
    conditions = _conditions(path, data["conditions"])
    betas, reliability = data["Betas"], data["Reliability"]
    chosen = choose_regions(regions, betas)
    counts = {region: len(_cells(path, f"Betas.{region}", betas[region])) for region in betas}
    if len(set(counts.values())) > 1:
        raise ConfigError(f"{path} has different numbers of subjects by region: {counts}.")
    everyone = [f"subject{place + 1:02}" for place in range(next(iter(counts.values())))]
    left_out = [everyone[place] for place in skip if 0 <= place < len(everyone)]
    if refused := [name for name in subjects or () if name in left_out]:
        raise ConfigError(f"{refused[0]} is left out by skip={tuple(skip)}; give skip=() to include it.")
    notes = [f"{name} is left out (skip={tuple(skip)})." for name in left_out]
    people = []
    for name in choose_subjects(subjects, [name for name in everyone if name not in left_out]):
        place, first, voxels, rows = everyone.index(name), 0, {}, []
        for region in betas:
            where = f"{path}: Betas.{region} of {name}"
            array = _array(where, _cells(path, region, betas[region])[place], len(conditions))
            known = _cells(path, region, reliability.get(region, ()))
            reliable = np.atleast_1d(np.asarray(known[place] if place < len(known) else (), np.float64))
            if reliable.shape != array.shape[:1]:
                raise ConfigError(f"{where} has {len(array)} voxels, and its Reliability is {list(reliable.shape)}.")
            if region in chosen:
                kept = np.flatnonzero(reliable > min_reliability)  # not those without a number
                if not kept.size:
                    raise ConfigError(f"{where} has no voxel with a Reliability above {min_reliability}; lower it.")
                if kept.size < min_voxels:
                    notes.append(f"{name} has only {kept.size} voxels in {region} (min_voxels={min_voxels}).")
                if not np.isfinite(array[kept]).all():
                    raise ConfigError(f"{where} has responses that are not finite numbers.")
                voxels[region] = first + kept
                rows.append(array[kept])
            first += len(array)
        people.append(_Objects72Subject(name, conditions, {region: voxels[region] for region in chosen}, rows, voxels))
    return BrainData("objects72", tuple(people), open_pixels(images, conditions, "the 72 objects"), notes=tuple(notes))


class _Objects72Subject(Subject):
    ceiling_kind = ""

    def __init__(
        self,
        name: str,
        images: tuple[str, ...],
        regions: Mapping[str, np.ndarray],
        rows: list[np.ndarray],
        in_order: Mapping[str, np.ndarray],
    ):
        self.name, self.images, self.regions = name, images, regions
        self._voxels = np.concatenate(list(in_order.values()))  # ascending, as regions follow one another
        self._responses = np.concatenate(rows).T  # [72, V]

    def read(self, images: Sequence[str], voxels: np.ndarray) -> Responses:
        voxels = check_voxels(self.name, voxels, self._voxels)
        columns = np.searchsorted(self._voxels, voxels)
        mean = self._responses[np.ix_(self.rows(images), columns)]
        return Responses(mean, np.full(len(voxels), np.nan, np.float32))


def _read(path: Path, parts: str) -> Mapping[str, Any]:
    """Reads the file's struct."""
    if h5py.is_hdf5(path):
        raise ConfigError(f"{path} is of MATLAB's version 7.3; load it in MATLAB and save it with the option -v7.")
    check_readable(path, "mat", whole=True)
    file = scipy.io.loadmat(path, simplify_cells=True)
    if parts not in file:
        names = [name for name in file if not name.startswith("__")]
        raise ConfigError(f"{path} has no struct {parts}; it has {', '.join(names) or 'nothing'} (option parts).")
    data = file[parts]
    for field, kind in (("conditions", "names"), ("Betas", "a struct"), ("Reliability", "a struct")):
        known = isinstance(data, dict) and field in data
        if not known or (kind == "a struct" and not isinstance(data[field], dict)):
            raise ConfigError(f"{path} has no field {parts}.{field} with {kind}; this is another layout.")
    if not data["Betas"]:
        raise ConfigError(f"{path} has no region in {parts}.Betas.")
    return data


def _conditions(path: Path, names: object) -> tuple[str, ...]:
    listed = np.atleast_1d(np.asarray(names, dtype=object)).ravel()
    if not all(isinstance(name, str) for name in listed):
        raise ConfigError(f"{path}: conditions holds something else than names.")
    found = tuple(name.strip() for name in listed)
    if twice := [name for name in found if found.count(name) > 1]:
        raise ConfigError(f"{path} has the condition {twice[0]!r} twice.")
    return found


def _cells(path: Path, field: str, value: object) -> list[Any]:
    """Returns what a cell array holds, a subject after another."""
    if isinstance(value, np.ndarray) and value.dtype == object:
        return list(value.ravel())
    if isinstance(value, list | tuple):
        return list(value)
    raise ConfigError(f"{path}: {field} is not a cell array with a cell for each subject; this is another layout.")


def _array(where: str, value: object, images: int) -> np.ndarray:
    """Checks a subject's responses `[V, images]` and returns them as float32."""
    array = np.asarray(value)
    if array.ndim == 1 and array.shape == (images,):
        array = array[None]  # a region of one voxel, which SciPy flattens
    if array.dtype.kind not in "fiu" or array.ndim != 2 or array.shape[1] != images:
        raise ConfigError(
            f"{where} is {array.dtype} {list(array.shape)}, expected numbers [voxels, {images}], an image a column."
        )
    return array.astype(np.float32)
