"""Writes a subject of the Natural Scenes Dataset in full size, or measures how it is read.

    python tests/brain/full_size_nsd.py write FOLDER --voxels 15000 --sessions 40
    python tests/brain/full_size_nsd.py read FOLDER --sessions 40

The volume and the trials have the data set's sizes, and chunks hold one voxel as in its files. Only voxels of the
region `nsdgeneral` are stored, unless `--whole` stores noise in all of them (1.05 GB a session); HDF5 reads the others as 0.
"""

import argparse
import resource
import time
from pathlib import Path

import h5py
import nibabel
import numpy as np
import scipy.io

from ipcl_jax.brain.nsd import open_nsd

VOLUME, TRIALS, IMAGES, STIMULI = (81, 104, 83), 750, 10_000, 73_000


def shell(count: int) -> np.ndarray:
    """Numbers of voxels in a bent sheet, as grey matter is: the `count` nearest to an ellipsoid, ascending."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, size) for size in VOLUME[::-1]), indexing="ij")
    distance = np.abs((x / 0.8) ** 2 + ((y + 0.4) / 0.5) ** 2 + (z / 0.7) ** 2 - 1)
    return np.sort(np.argsort(distance, axis=None, kind="stable")[:count])


def write(root: Path, voxels: int, sessions: int, whole: bool) -> None:
    rng = np.random.default_rng(0)
    places = shell(voxels)
    labels = np.zeros(np.prod(VOLUME), np.int16)
    labels[places] = 1
    roi = root / "nsddata/ppdata/subj01/func1pt8mm/roi"
    design = root / "nsddata/experiments/nsd"
    betas = root / "nsddata_betas/ppdata/subj01/func1pt8mm/betas_fithrf_GLMdenoise_RR"
    stimuli = root / "nsddata_stimuli/stimuli/nsd"
    for folder in (roi, design, betas, stimuli):
        folder.mkdir(parents=True)
    nibabel.save(nibabel.Nifti1Image(labels.reshape(VOLUME, order="F"), np.eye(4)), roi / "nsdgeneral.nii.gz")
    order = rng.permutation(np.repeat(np.arange(1, IMAGES + 1), 3))
    images = np.stack([rng.permutation(STIMULI)[:IMAGES] + 1 for _ in range(8)])
    scipy.io.savemat(design / "nsd_expdesign.mat", {"masterordering": order[None], "subjectim": images})
    with h5py.File(stimuli / "nsd_stimuli.hdf5", "w") as file:
        file.create_dataset("imgBrick", (STIMULI, 425, 425, 3), np.uint8)  # takes no space until it is written
    for session in range(1, sessions + 1):
        started = time.perf_counter()
        with h5py.File(betas / f"betas_session{session:02d}.hdf5", "w") as file:
            shape = (TRIALS, *VOLUME[::-1])
            data = file.create_dataset("betas", shape, np.int16, chunks=(TRIALS, 1, 1, 1))
            for place in range(len(labels)) if whole else places:
                row, x = divmod(int(place), VOLUME[0])
                chunk = rng.integers(-900, 900, TRIALS, dtype=np.int16)
                data.id.write_direct_chunk((0, *divmod(row, VOLUME[1]), x), chunk.tobytes())
        print(f"session {session}: {time.perf_counter() - started:.1f} s", flush=True)


def read(root: Path, sessions: int, images: int) -> None:
    before = peak()
    started = time.perf_counter()
    data = open_nsd(root, regions=["nsdgeneral"], sessions=sessions)
    subject = data.subjects[0]
    opened = time.perf_counter()
    found = subject.read(subject.images[:images], subject.regions["nsdgeneral"])
    print(
        f"{len(found.mean):,} of {len(subject.images):,} images, {len(found.ceiling):,} voxels, {sessions} sessions: "
        f"open {opened - started:.1f} s, read {time.perf_counter() - opened:.1f} s, {before / 1e9:.2f} GB before, "
        f"at most {peak() / 1e9:.2f} GB, of which the result is {found.mean.nbytes / 1e9:.2f} GB"
    )


def peak() -> int:
    """Bytes of memory that this process took at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("write", "read"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--voxels", type=int, default=15_000)
    parser.add_argument("--sessions", type=int, default=40)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--whole", action="store_true")
    given = parser.parse_args()
    if given.action == "write":
        write(given.folder, given.voxels, given.sessions, given.whole)
    else:
        read(given.folder, given.sessions, given.images)
