"""Regions of BOLD5000: masks of each hemisphere, whose names differ between subjects."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ipcl_jax.brain.choice import choose_regions
from ipcl_jax.brain.folder import DataFolder
from ipcl_jax.brain.nifti import open_nifti
from ipcl_jax.errors import ConfigError

if TYPE_CHECKING:
    import nibabel

_REGIONS = ("EarlyVis", "LOC", "OPA", "PPA", "RSC")
# In OpenNeuro's ds001499, derivatives/spm: sub-CSI2_mask-LHLO, sub-CSI3_mask-RHLO, sub-CSI2_mask-RHRRSC.
_OTHER_NAMES = {"LO": "LOC", "RRSC": "RSC"}


def read_regions(
    folder: DataFolder,
    subject: str,
    regions: Sequence[str] | None,
    brain: "nibabel.Nifti1Image",
    *,
    ignore_affines: bool,
) -> dict[str, np.ndarray]:
    """Reads masks, and joins those of both hemispheres.

    Args:
        folder: the data set.
        subject: its name.
        regions: as for `open_bold5000`.
        brain: the brain mask, on the grid of the responses.
        ignore_affines: as for `open_bold5000`.

    Returns:
        By region, `[X, Y, Z]` bool.

    Raises:
        ConfigError: if a mask is missing, found twice, on another grid, or no mask.
    """
    paths: dict[str, Path] = {}
    for path, match in folder.matching(rf"(?:.*[_-])?{subject}_mask-(LH|RH)(\w+)\.nii(?:\.gz)?"):
        side, name = match.groups()
        name = side + _OTHER_NAMES.get(name, name)
        if name in paths:
            raise ConfigError(f"There are two masks of {subject}'s {name}: {paths[name]} and {path}; remove one.")
        paths[name] = path
    found = {}
    for region in choose_regions(regions or _REGIONS, dict.fromkeys((*_REGIONS, *sorted(paths)))):
        parts = [region] if region in paths else [f"LH{region}", f"RH{region}"]
        if missing := [part for part in parts if part not in paths]:
            raise ConfigError(
                f"{folder.root} has no sub-{subject}_mask-{missing[0]}.nii.gz; download it from OpenNeuro's ds001499, "
                "derivatives/spm, or give other regions."
            )
        masks = [_read_mask(paths[part], brain, ignore_affines=ignore_affines) for part in parts]
        found[region] = np.logical_or.reduce(masks)
    return found


def _read_mask(path: Path, brain: "nibabel.Nifti1Image", *, ignore_affines: bool) -> np.ndarray:
    image = open_nifti(path, 3, brain.shape)
    if not ignore_affines and not np.allclose(image.affine, brain.affine, atol=0.1):  # a twentieth of a voxel
        raise ConfigError(
            f"{path} has another affine than the brain mask, so that its voxels may be others; resample it to the "
            "brain mask, or give ignore_affines=True if the affine alone is wrong."
        )
    try:
        values = np.nan_to_num(np.asarray(image.dataobj))
    except Exception as error:  # damaged files raise almost anything
        raise ConfigError(f"{path} is damaged after its header: {error}") from error
    kinds = np.unique(values)
    if len(kinds) != 2 or kinds[0] != 0:
        raise ConfigError(f"{path} is no mask: it has {len(kinds)} different values, expected 0 and one other.")
    return values != 0
