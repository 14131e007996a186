"""Files of the Natural Scenes Dataset that hold one session's responses, as they are downloaded.

A voxel's number is its place in the file: x + X (y + Y z) in a volume of X x Y x Z voxels, which is the order of both
formats. On the surface, vertices of the left hemisphere come first, then those of the right.

Source: NSD Data Manual, "Functional data (NSD)", cvnlab.slite.page/p/6CusMRYfk0; cvnlab/nsddatapaper, `main/export.m`.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from ipcl_jax.errors import ConfigError, require

_PART = 1 << 26  # bytes read at a time where trials are contiguous


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Makes a ConfigError that names the file of what a library raises for a damaged one."""
    try:
        yield
    except (ConfigError, MemoryError):
        raise
    except Exception as error:  # damaged files raise almost anything
        raise ConfigError(f"{path} can't be read: {str(error) or type(error).__name__}") from error


class Session(ABC):
    """Responses of one session.

    Attributes:
        path: the file; on the surface, that of the left hemisphere.
        shape: voxels of the volume (X, Y, Z), or vertices (left, right).
        size: number of all voxels or vertices.
        trials: number of trials.
        scale: what stored numbers are divided by to give percent signal change.
    """

    path: Path
    shape: tuple[int, ...]
    size: int
    trials: int
    scale: float

    @abstractmethod
    def read(self, voxels: np.ndarray, trials: int | None = None) -> np.ndarray:
        """Reads numbers as they are stored.

        Args:
            voxels: `[V]` int, ascending, each once.
            trials: only so many, from the first.

        Returns:
            `[T, V]` int16 or float32.
        """


class HDF5Session(Session):
    """`betas_session01.hdf5`: `betas` is int16 and, in h5py's order, [trials, Z, Y, X]; a chunk holds one voxel."""

    scale = 300.0

    def __init__(self, path: Path):
        self.path = path
        with reading(path), h5py.File(path) as file:
            data = file.get("betas")
            found = f"{data.dtype} {list(data.shape)}" if isinstance(data, h5py.Dataset) else "none"
            if not isinstance(data, h5py.Dataset) or data.ndim != 4 or data.dtype != np.int16:
                raise ConfigError(f"{path}: the dataset betas is {found}, expected int16 [trials, Z, Y, X].")
            self.trials, *shape = data.shape
            self.shape, self.size = tuple(shape[::-1]), int(np.prod(shape))

    def read(self, voxels: np.ndarray, trials: int | None = None) -> np.ndarray:
        found = np.empty((trials or self.trials, len(voxels)), np.int16)
        if not len(voxels):
            return found
        with reading(self.path), h5py.File(self.path) as file:
            data = file["betas"]
            if data.chunks and data.chunks[0] == self.trials:
                for z, y, x, place in _runs(voxels, self.shape):
                    found[:, place] = data[: len(found), z, y, x]
            else:
                plane = self.shape[0] * self.shape[1]
                first, last = voxels[0] // plane, voxels[-1] // plane + 1
                step = max(1, _PART // (2 * plane * int(last - first)))
                for start in range(0, len(found), step):
                    part = data[start : min(start + step, len(found)), first:last]
                    found[start : start + step] = part.reshape(len(part), -1)[:, voxels - first * plane]
        return found


def _runs(voxels: np.ndarray, shape: tuple[int, ...]) -> Iterator[tuple[int, int, slice, slice]]:
    """Yields consecutive voxels of one row: z, y, the range of x, and their place in `voxels`."""
    begins = np.diff(voxels, prepend=voxels[0] - 2) != 1
    begins |= voxels % shape[0] == 0
    starts = np.flatnonzero(begins)
    for start, stop in zip(starts, [*starts[1:], len(voxels)], strict=True):
        row, x = divmod(int(voxels[start]), shape[0])
        z, y = divmod(row, shape[1])
        yield z, y, slice(x, x + int(stop - start)), slice(int(start), int(stop))


class NiftiSession(Session):
    """`betas_session01.nii.gz`: int16 [X, Y, Z, trials]."""

    scale = 300.0

    def __init__(self, path: Path):
        self.path = path
        with reading(path):
            image = load_image(path)
            dtype, shape = image.get_data_dtype(), image.shape
            if len(shape) != 4 or dtype.kind != "i" or dtype.itemsize != 2:
                raise ConfigError(f"{path} is {dtype} {list(shape)}, expected int16 [X, Y, Z, trials].")
            if (image.dataobj.slope, image.dataobj.inter) != (1, 0):
                raise ConfigError(
                    f"{path} scales its numbers by {image.dataobj.slope:g} and adds {image.dataobj.inter:g}; the data "
                    "set's own files don't, so it isn't clear what the numbers mean. Download the file again."
                )
            *volume, self.trials = shape
            self.shape, self.size = tuple(volume), int(np.prod(volume))

    def read(self, voxels: np.ndarray, trials: int | None = None) -> np.ndarray:
        found = np.empty((trials or self.trials, len(voxels)), np.int16)
        with reading(self.path):
            _read_by_trials(load_image(self.path), voxels, found)
        return found


class SurfaceSession(Session):
    """`lh.betas_session01.mgh` and `rh.betas_session01.mgh`: float32 [vertices, 1, 1, trials]."""

    scale = 1.0

    def __init__(self, left: Path, right: Path):
        self.path, self._paths = left, (left, right)
        shapes = []
        for path in self._paths:
            with reading(path):
                image = load_image(path)
                dtype, shape = image.get_data_dtype(), image.shape
                if len(shape) != 4 or shape[1:3] != (1, 1) or dtype.kind != "f" or dtype.itemsize != 4:
                    raise ConfigError(
                        f"{path} is {dtype} {list(shape)}, expected float32 [vertices, 1, 1, trials]."
                    )
                shapes.append(shape)
        (n_left, *_, self.trials), (n_right, *_, trials) = shapes
        if trials != self.trials:
            raise ConfigError(f"{left} has {self.trials} trials, and {right} has {trials}.")
        self.shape, self.size = (n_left, n_right), n_left + n_right

    def read(self, voxels: np.ndarray, trials: int | None = None) -> np.ndarray:
        found = np.empty((trials or self.trials, len(voxels)), np.float32)
        right = int(np.searchsorted(voxels, self.shape[0]))
        halves = (voxels[:right], found[:, :right]), (voxels[right:] - self.shape[0], found[:, right:])
        for path, (vertices, part) in zip(self._paths, halves, strict=True):
            if len(vertices):
                with reading(path):
                    _read_by_trials(load_image(path), vertices, part)
        return found


def load_image(path: Path):
    """Opens a NIfTI or FreeSurfer file with nibabel; a compressed file stays open, so that it is read only once.

    Raises:
        MissingPackage: without nibabel.
    """
    require("Reading the Natural Scenes Dataset", "brain", "nibabel")
    import nibabel

    return nibabel.load(path, keep_file_open=True)


def _read_by_trials(image, voxels: np.ndarray, found: np.ndarray) -> None:
    """Fills `found`, `[T, V]`, from an image whose last axis is trials and whose first varies fastest."""
    size = int(np.prod(image.shape[:3]))
    step = max(1, _PART // (size * image.get_data_dtype().itemsize))
    for start in range(0, len(found), step):
        part = np.asarray(image.dataobj[..., start : min(start + step, len(found))])
        found[start : start + step] = part.reshape(size, -1, order="F")[voxels].T


def open_sessions(folder: Path, count: int, space: str) -> tuple[Session, ...]:
    """Opens the first sessions of a subject.

    Args:
        folder: with the files of one version of the responses.
        count: number of sessions.
        space: `volume`, where HDF5 is preferred to NIfTI, or `surface`.

    Returns:
        All of one shape and number of trials.

    Raises:
        ConfigError: if files are missing or differ in shape.
    """
    if not folder.is_dir():
        raise ConfigError(f"There is no folder {folder}, which should hold the sessions.")
    found: list[tuple[Path, ...]] = []
    missing: list[str] = []
    complete = 0  # sessions before the first that is missing
    for number in range(1, count + 1):
        name = f"betas_session{number:02d}"
        choices: list[tuple[Path, ...]]
        if space == "surface":
            choices = [(folder / f"lh.{name}.mgh", folder / f"rh.{name}.mgh")]
        else:
            choices = [(folder / f"{name}{suffix}",) for suffix in (".hdf5", ".nii.gz", ".nii")]
        there = [files for files in choices if all(path.is_file() for path in files)]
        found += there[:1]
        missing += [] if there else [path.name for path in choices[0] if not path.is_file()]
        complete += not missing
    if missing:
        raise ConfigError(
            f"{folder} lacks {len(missing)} files of {count} sessions: {', '.join(missing)}. Download them"
            + (f", or use the first {complete} of each subject: sessions={complete}." if complete else ".")
        )
    kinds = {".mgh": SurfaceSession, ".hdf5": HDF5Session}
    sessions = tuple(kinds.get(files[0].suffix, NiftiSession)(*files) for files in found)
    for session in sessions[1:]:
        if (session.shape, session.trials) != (sessions[0].shape, sessions[0].trials):
            raise ConfigError(
                f"{session.path} has {session.trials} trials of {list(session.shape)}, and {sessions[0].path} has "
                f"{sessions[0].trials} of {list(sessions[0].shape)}. Download the one that is wrong again."
            )
    return sessions
