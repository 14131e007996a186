"""A stand-in for THINGS-fMRI's table of single trials, small, written by pandas as the data set's files are."""

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

TRAIN = tuple(f"{concept}_{place:02}s.jpg" for concept in ("dog", "mango", "spatula") for place in range(1, 5))
TEST = tuple(f"candelabra_{place:02}b.jpg" for place in range(1, 6))
REPEATS, VOXELS = 3, 23


class Planted(NamedTuple):
    """What a stand-in holds.

    Attributes:
        responses: `[VOXELS, T]`, by `voxel_id` and `trial_id`.
        stimuli: the table of the T trials, by `trial_id`.
        voxels: the table of the voxels, by `voxel_id`.
    """

    responses: np.ndarray
    stimuli: pd.DataFrame
    voxels: pd.DataFrame


def planted(subject: int = 1) -> Planted:
    """Sessions of 4 training images and the 5 test images, each session with a mean and a scale of its own."""
    rng = np.random.default_rng(subject)
    trials = []
    for session in range(REPEATS):
        shown = [(name, "train") for name in TRAIN[session * 4 : session * 4 + 4]] + [(name, "test") for name in TEST]
        trials += [(kind, session + 1, 1, subject, name, name[:-8]) for name, kind in rng.permutation(shown).tolist()
                   for kind in [kind]]  # fmt: skip
    columns = ["trial_type", "session", "run", "subject_id", "stimulus", "concept"]
    stimuli = pd.DataFrame(trials, columns=columns)
    stimuli.insert(4, "trial_id", np.arange(len(stimuli)))
    session = stimuli["session"].to_numpy()
    responses = rng.normal(size=(VOXELS, len(stimuli))) * (1 + session) + 5 * session
    ids = np.arange(VOXELS)
    voxels = pd.DataFrame({
        "voxel_id": ids, "subject_id": subject, "voxel_x": ids, "nc_singletrial": 0.0,
        "nc_testset": rng.uniform(0, 100, VOXELS), "prf-size": rng.uniform(size=VOXELS),
        "V1": ids < 6, "lFFA": (ids > 7) & (ids < 10), "rFFA": (ids > 12) & (ids < 15), "lSTS": False, "rSTS": False,
        "glasser-V1": ids % 2, "glasser-p9-\n46v": ids % 3 == 0,
    })  # fmt: skip
    return Planted(responses, stimuli, voxels.astype({name: int for name in voxels.select_dtypes(bool).columns}))


def write(folder: Path, data: Planted, subject: str = "sub-01", *, permuted: bool = False) -> Path:
    """Writes a subject's three files; `permuted`: rows and columns of each in another order."""
    rng = np.random.default_rng(9)
    stimuli, voxels = data.stimuli, data.voxels
    table = pd.DataFrame(data.responses)
    table.insert(0, "voxel_id", np.arange(len(table)))
    if permuted:
        stimuli, voxels, table = (some.sample(frac=1, random_state=seed) for seed, some in
                                  enumerate((stimuli, voxels, table)))  # fmt: skip
        table = table[["voxel_id", *rng.permutation(data.responses.shape[1]).tolist()]]
    folder.mkdir(parents=True, exist_ok=True)
    stimuli.to_csv(folder / f"{subject}_StimulusMetadata.csv", index=False)
    voxels.to_csv(folder / f"{subject}_VoxelMetadata.csv", index=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas' of columns of two types, whose labels it pickles
        table.to_hdf(folder / f"{subject}_ResponseData.h5", key="ResponseData")
    return folder
