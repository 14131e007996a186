"""Reading of NIfTI files in parts."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ipcl_jax.errors import ConfigError

if TYPE_CHECKING:
    import nibabel


def open_nifti(path: Path, axes: int, shape: tuple[int, ...] | None = None) -> "nibabel.Nifti1Image":
    """Reads a file's header.

    Args:
        path: a `.nii` or `.nii.gz` file.
        axes: number of axes: 3 for a volume, 4 for a series of them.
        shape: what the first three axes should be; None for any.

    Returns:
        The image, whose file stays open so that a compressed one is decompressed once if it is read in order.

    Raises:
        ConfigError: if it isn't such a file.
    """
    import nibabel

    try:
        image = nibabel.load(path, mmap=False, keep_file_open=True)
    except Exception as error:  # damaged files raise almost anything
        raise ConfigError(f"{path} can't be read as NIfTI: {error}") from error
    if not isinstance(image, nibabel.Nifti1Image):
        raise ConfigError(f"{path} is a {type(image).__name__}, expected NIfTI.")
    if len(image.shape) != axes or shape not in (None, image.shape[:3]):
        sizes = ", ".join(map(str, shape or ("X", "Y", "Z"))) + (", trials" if axes == 4 else "")
        raise ConfigError(f"{path} is {list(image.shape)}, expected [{sizes}].")
    return image


def read_volumes(path: Path, image: "nibabel.Nifti1Image", first: int, end: int) -> np.ndarray:
    """Reads volumes `first` to `end` - 1 of a series, `[X, Y, Z, end - first]`.

    Raises:
        ConfigError: if the file is damaged.
    """
    try:
        return np.asarray(image.dataobj[..., first:end])
    except Exception as error:  # damaged files raise almost anything
        raise ConfigError(f"{path} is damaged after its header: {error}") from error
