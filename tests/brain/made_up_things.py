"""A stand-in for THINGS-fMRI's table of single trials, small, written by pandas as the data set's files are."""

import warnings
from collections.abc import Mapping, Sequence
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


def planted(
    subject: int = 1,
    *,
    train: Sequence[str] = TRAIN,
    test: Sequence[str] = TEST,
    signal: Mapping[str, np.ndarray] | None = None,
    noise: float = 1.0,
    columns: Mapping[str, np.ndarray] | None = None,
) -> Planted:
    """Sessions of a third of the training images and all test images, each with a mean and a scale of its own.

    Args:
        subject: its number, and the seed.
        train: names of the training images.
        test: names of the test images.
        signal: `[V]` of each image, to which noise is added in each trial; without, there is noise alone.
        noise: its standard deviation, before the session's scale.
        columns: `[V]`, instead of those of the table of voxels.
    """
    rng = np.random.default_rng(subject)
    trials, third = [], len(train) // REPEATS
    for session in range(REPEATS):
        new = train[session * third : (session + 1) * third]
        shown = [(name, "train") for name in new] + [(name, "test") for name in test]
        trials += [(kind, session + 1, 1, subject, name, name[:-8]) for name, kind in rng.permutation(shown).tolist()
                   for kind in [kind]]  # fmt: skip
    headings = ["trial_type", "session", "run", "subject_id", "stimulus", "concept"]
    stimuli = pd.DataFrame(trials, columns=headings)
    stimuli.insert(4, "trial_id", np.arange(len(stimuli)))
    session = stimuli["session"].to_numpy()
    count = VOXELS if signal is None else len(signal[test[0]])
    responses = noise * rng.normal(size=(count, len(stimuli)))
    if signal is not None:
        responses += np.stack([signal[name] for name in stimuli["stimulus"]], 1)
    responses = responses * (1 + session) + 5 * session
    ids = np.arange(count)
    voxels = pd.DataFrame({
        "voxel_id": ids, "subject_id": subject, "voxel_x": ids, "nc_singletrial": 0.0,
        "nc_testset": rng.uniform(0, 100, count), "prf-size": rng.uniform(size=count),
        "V1": ids < 6, "lFFA": (ids > 7) & (ids < 10), "rFFA": (ids > 12) & (ids < 15), "lSTS": False, "rSTS": False,
        "glasser-V1": ids % 2, "glasser-p9-\n46v": ids % 3 == 0,
    } | dict(columns or {}))  # fmt: skip
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
