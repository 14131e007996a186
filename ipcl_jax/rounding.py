"""Activations in the dtype in which they are kept; what that would lose is refused."""

from collections.abc import Sequence

import numpy as np

from ipcl_jax.errors import InputError


class BeyondRange(InputError, OverflowError):
    """A value can't be kept in the dtype that was chosen."""


def rounded(
    rows: np.ndarray, dtype: np.dtype, *, layer: str, images: Sequence[str], unreadable: Sequence[int] = ()
) -> np.ndarray:
    """Rounds activations of a layer for storage.

    Each value then differs from what was computed by at most 2^-11 (float16) of the largest one in its row.

    Args:
        rows: `[n, ...]` float32.
        dtype: float32 or float16.
        layer: its name, for messages.
        images: n names, for messages.
        unreadable: rows whose images can't be read; whatever they hold becomes NaN.

    Returns:
        `[n, ...]` of that dtype; the same array if nothing had to be changed.

    Raises:
        InputError: if a value isn't a finite number.
        BeyondRange: if a row's largest value rounds to infinity, or is below the smallest number that `dtype` holds with
            all its digits.
    """
    flat, unreadable = rows.reshape(len(rows), -1), list(unreadable)
    peaks = np.maximum(flat.max(1), -flat.min(1))  # largest magnitudes; NaN where there is one
    peaks[unreadable] = 0
    if len(wrong := np.flatnonzero(~np.isfinite(peaks))):
        raise InputError(
            f"{layer} of {images[wrong[0]]} is not a finite number everywhere; the model's weights are damaged, or "
            "training it went wrong."
        )
    if dtype != rows.dtype:
        kept = np.finfo(dtype)
        with np.errstate(over="ignore", under="ignore"):
            too_large = np.isinf(peaks.astype(dtype))
        too_small = (peaks > 0) & (peaks < kept.tiny)
        for wrong, reason in ((np.flatnonzero(too_large), "much"), (np.flatnonzero(too_small), "little")):
            if len(wrong):
                raise BeyondRange(
                    f"{images[wrong[0]]}: {layer} reaches {peaks[wrong[0]]:.3g}, too {reason} for {dtype}; use float32."
                )
    if not unreadable:
        return rows.astype(dtype, copy=False)
    with np.errstate(all="ignore"):  # for what the lost rows hold
        kept_rows = rows.astype(dtype)
    kept_rows[unreadable] = np.nan
    return kept_rows
