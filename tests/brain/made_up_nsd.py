"""Small files with the names, axes, types and scales of the Natural Scenes Dataset, and what was planted in them.

All axes differ in length, so that swapped ones don't fit. The volume in a voxel's order (x varies fastest) and the
surface (left, then right hemisphere) hold the same numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import nibabel
import numpy as np
import scipy.io

VOLUME = (5, 7, 4)  # X, Y, Z
SURFACE = (61, 79)  # vertices of the left and right hemisphere; as many as voxels
VOXELS = 140
SHARED = 4  # images that all subjects see
BETAS = "betas_fithrf_GLMdenoise_RR"
ATLAS = {0: "Unknown", 1: "early", 2: "midventral", 5: "ventral", 6: "lateral"}  # no voxel is lateral


@dataclass(frozen=True)
class MadeUp:
    """What was planted.

    Attributes:
        root: the data set's folder.
        stored: for each subject `[S, T, V]` int16, as in the files.
        numbers: for each subject `[S, T]`, the image of each trial, from 0.
        labels: `[V]` labels of the atlas `streams`.
        signal: `[N, V]`, each image's, before noise and units, where it isn't given.
    """

    root: Path
    stored: dict[str, np.ndarray]
    numbers: dict[str, np.ndarray]
    labels: np.ndarray
    signal: np.ndarray


def design(trials: int, seed: int, shared: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """`masterordering` [1, 40 T] and `subjectim` [8, 40 T / 3], from 1; in every three sessions images come thrice.

    The `SHARED` images that all subjects see are any, and if `shared` is given, the first so many.
    """
    rng = np.random.default_rng(seed)
    own = 40 * trials // 3
    groups = [np.arange(start, min(start + trials, own)) for start in range(0, own, trials)]
    order = np.concatenate([rng.permutation(np.repeat(group, 3)) for group in groups])
    if shared is None:
        shared = SHARED
        images = rng.permutation(shared + 8 * (own - shared))
    else:
        images = np.concatenate([rng.permutation(shared), shared + rng.permutation(8 * (own - shared))])
    rows = [
        np.concatenate([images[:shared], images[shared + s * (own - shared) :][: own - shared]]) for s in range(8)
    ]
    return order[None] + 1, np.array(rows) + 1


def picture(number: int) -> np.ndarray:
    """`[6, 8, 3]`, whose colours are the image's number."""
    return np.full((6, 8, 3), (number // 256, number % 256, 77), np.uint8)


def write(
    root: Path,
    *,
    subjects: tuple[str, ...] = ("subj01",),
    sessions: int = 3,
    trials: int = 12,
    ncsnr: np.ndarray | float = 1.0,
    formats: tuple[str, ...] = ("hdf5",),
    seed: int = 0,
    pictures: np.ndarray | None = None,
    shared: Mapping[str, np.ndarray] | None = None,
    labels: np.ndarray | None = None,
) -> MadeUp:
    """Writes a data set; responses are a signal of the image plus noise, in another unit in each session and voxel.

    Args:
        root: folder to write into.
        subjects: names of the subjects.
        sessions: number of sessions that each has.
        trials: of a session.
        ncsnr: standard deviation of the signal, or `[V]`; that of the noise is 1.
        formats: of the files with responses.
        seed: of everything that is random.
        pictures: `[n, H, W, 3]` uint8, the first rows of the stimuli, of which other rows are then black; by default
            those of `picture`.
        shared: each subject's `[n, V]` signal of the first n images, which then are those that all subjects see; by
            default a random one.
        labels: `[V]` of the atlas; random by default.
    """
    rng = np.random.default_rng(seed + 1)
    order, images = design(trials, seed, None if shared is None else len(shared[subjects[0]]))
    folder = root / "nsddata/experiments/nsd"
    folder.mkdir(parents=True)
    scipy.io.savemat(folder / "nsd_expdesign.mat", {"masterordering": order, "subjectim": images})
    folder = root / "nsddata_stimuli/stimuli/nsd"
    folder.mkdir(parents=True)
    with h5py.File(folder / "nsd_stimuli.hdf5", "w") as file:
        if pictures is None:
            file["imgBrick"] = np.stack([picture(number) for number in range(images.max())])
        else:
            shape = (images.max(), *pictures.shape[1:])
            file.create_dataset("imgBrick", shape, np.uint8, chunks=(1, *shape[1:]))[: len(pictures)] = pictures
    if labels is None:
        labels = rng.choice([-1, 0, 1, 2, 5], VOXELS)
    write_atlas(root, labels, subjects)
    signal = rng.standard_normal((images.max(), VOXELS))
    all_stored, all_numbers = {}, {}
    for subject in subjects:
        seen = images[int(subject[4:]) - 1][order[0] - 1] - 1
        numbers = seen[: sessions * trials].reshape(sessions, trials)
        own = signal if shared is None else shared[subject]
        responses = own[numbers] * ncsnr + rng.standard_normal((sessions, trials, VOXELS))
        unit, zero = rng.uniform(0.5, 4, (sessions, 1, VOXELS)), rng.uniform(-8, 8, (sessions, 1, VOXELS))
        stored = np.clip(np.round(300 * (responses * unit + zero)), -32768, 32767).astype(np.int16)
        for number, session in enumerate(stored, 1):
            write_session(root, subject, number, session, formats)
        all_stored[subject], all_numbers[subject] = stored, numbers
    return MadeUp(root, all_stored, all_numbers, labels, signal)


def volume(flat: np.ndarray) -> np.ndarray:
    """`[..., V]` -> [X, Y, Z, ...], as in a NIfTI file."""
    return np.moveaxis(flat.reshape(*flat.shape[:-1], *VOLUME[::-1]), (-1, -2, -3), (0, 1, 2))


def write_session(root: Path, subject: str, number: int, stored: np.ndarray, formats: tuple[str, ...]) -> None:
    """Writes one session, `[T, V]` int16 (or float32 percent signal change, on the surface only)."""
    folder = root / "nsddata_betas/ppdata" / subject
    name = f"betas_session{number:02d}"
    for format in formats:
        place = folder / ("fsaverage" if format == "mgh" else "func1pt8mm") / BETAS
        place.mkdir(parents=True, exist_ok=True)
        if format == "hdf5":
            with h5py.File(place / f"{name}.hdf5", "w") as file:
                data = stored.reshape(len(stored), *VOLUME[::-1])
                file.create_dataset("betas", data=data, chunks=(len(stored), 1, 1, 1))
        elif format == "nii.gz":
            nibabel.save(nibabel.Nifti1Image(volume(stored), np.eye(4)), place / f"{name}.nii.gz")
        else:
            values = stored / np.float32(300) if stored.dtype == np.int16 else stored
            for side, part in zip(("lh", "rh"), np.split(values.astype(">f4"), [SURFACE[0]], axis=1), strict=True):
                save_surface(place / f"{side}.{name}.mgh", part.T[:, None, None])


def save_surface(path: Path, values: np.ndarray) -> None:
    nibabel.save(nibabel.freesurfer.MGHImage(np.ascontiguousarray(values), np.eye(4)), path)


def write_atlas(root: Path, labels: np.ndarray, subjects: tuple[str, ...], name: str = "streams") -> None:
    """Writes `[V]` labels for the volume and the surface, and their names."""
    table = "".join(f"{label} {region}\t\n" for label, region in ATLAS.items())
    for subject in (*subjects, "fsaverage"):
        folder = root / "nsddata/freesurfer" / subject / "label"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.mgz.ctab").write_text(table)
    for side, part in zip(("lh", "rh"), np.split(labels.astype(np.int32), [SURFACE[0]]), strict=True):
        save_surface(folder / f"{side}.{name}.mgz", part[:, None, None])
    for subject in subjects:
        folder = root / "nsddata/ppdata" / subject / "func1pt8mm/roi"
        folder.mkdir(parents=True, exist_ok=True)
        for side in ("", "lh.", "rh."):
            left = np.arange(VOXELS) < VOXELS // 2
            here = np.where((side == "") | (left == (side == "lh.")), labels, -1)
            nibabel.save(nibabel.Nifti1Image(volume(here.astype(np.int16)), np.eye(4)), folder / f"{side}{name}.nii.gz")
