"""A stand-in for BOLD5000's release 2: small volumes under the names, axes and types of its files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel
import numpy as np

SHAPE = (5, 4, 3)
AFFINE = np.array([[-2.0, 0, 0, 70], [0, 2, 0, -90], [0, 0, 2, -50], [0, 0, 0, 1]])
SESSIONS = {"CSI1": 15, "CSI2": 15, "CSI3": 15, "CSI4": 9}
# As OpenNeuro names them.
SIDES = {"CSI1": ("LHEarlyVis", "LHLOC", "LHOPA", "LHPPA", "LHRSC", "RHEarlyVis", "RHLOC", "RHOPA", "RHPPA", "RHRSC"),
         "CSI2": ("LHEarlyVis", "LHLO", "LHOPA", "LHPPA", "LHRSC", "RHEarlyVis", "RHLO", "RHOPA", "RHPPA", "RHRRSC"),
         }  # fmt: skip
OUTSIDE = (4, 3, 2)  # a voxel without responses


def names_of(subject: str) -> list[list[str]]:
    """Names of each session's trials: 6 or 7 a session, of which 2 images come back in every third session."""
    rng, found, count = np.random.default_rng(len(subject) + int(subject[-1])), [], 0
    for session in range(SESSIONS[subject]):
        new = 4 + session % 2
        numbers, count = range(count, count + new), count + new
        shown = [f"n0{1000 + i}_{i}.JPEG" if i % 2 else f"COCO_train2014_{i:012}.jpg" for i in numbers]
        shown += [f"concert{2 * (session % 3) + i}.jpg" for i in range(2)]
        found.append(rng.permutation(shown).tolist())
    return found


def masks_of(subject: str) -> dict[str, np.ndarray]:
    """Masks by their names in the files: each 5 voxels, the first of RHRSC's without responses."""
    rng, found = np.random.default_rng(3), {}
    for name in SIDES.get(subject, SIDES["CSI1"]):
        mask = np.zeros(SHAPE, np.uint8)
        mask.ravel()[rng.permutation(mask.size - 1)[:5]] = 1
        found[name] = mask
    found[SIDES.get(subject, SIDES["CSI1"])[-1]][OUTSIDE] = 1
    return found


def planted(
    subject: str = "CSI1",
    *,
    signal: float = 0.6,
    names: Sequence[Sequence[str]] | None = None,
    truth: Mapping[str, np.ndarray] | None = None,
    step: float = 1.0,
) -> list[np.ndarray]:
    """Responses `[*SHAPE, T]` of each session: of the image, noise, and a mean and a scale of the session's own.

    Args:
        subject: its name.
        signal: share of a trial's variance.
        names: of each session's trials; by default `names_of`.
        truth: `[*SHAPE]` of each image, of variance 1; by default random.
        step: from one session's mean to the next one's.
    """
    rng, images, sessions = np.random.default_rng(5), dict(truth or {}), []
    for session, shown in enumerate(names or names_of(subject)):
        signals = np.stack([images.setdefault(name, rng.normal(size=SHAPE)) for name in shown], -1)
        noisy = np.sqrt(signal) * signals + np.sqrt(1 - signal) * rng.normal(size=signals.shape)
        noisy = (3 + session) * noisy + step * session
        noisy[OUTSIDE] = np.nan
        sessions.append(noisy.astype(np.float32))
    return sessions


def save(path: Path, values: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)


def write(
    folder: Path,
    sessions: list[np.ndarray],
    subject: str = "CSI1",
    *,
    names: Sequence[Sequence[str]] | None = None,
    masks: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """Writes a subject's files; names of trials and masks are `names_of` and `masks_of` where they aren't given."""
    for number, values in enumerate(sessions, 1):
        path = folder / f"{subject}_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_ses-{number:02}.nii.gz"
        save(path, values, np.diag([2.0, 2, 2, 1]))  # the release's affine isn't that of the brain mask
    save(folder / f"{subject}_brainmask.nii.gz", np.ones(SHAPE, np.uint8))
    shown = [name for some in names or names_of(subject) for name in some]
    (folder / f"{subject}_imgnames.txt").write_text("\n".join(shown) + "\n")
    for name, mask in (masks or masks_of(subject)).items():
        save(folder / "spm" / f"sub-{subject}" / f"sub-{subject}_mask-{name}.nii.gz", mask)
    return folder
