"""The bank of a run: the prototypes of an epoch's images, the reference set of the kNN read-out after the epoch.

It is a folder of NumPy files, in which each step writes its row in the background. A checkpoint doesn't hold it: a run
that is resumed finds the rows of the current epoch there, and writes the others again.
"""

import dataclasses
import os
import shutil
import zlib
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from ipcl_jax.errors import ConfigError
from ipcl_jax.run.checkpoints import SaveFailed
from ipcl_jax.system.files import error_text
from ipcl_jax.training.state import Prototypes

_FIELDS = tuple(field.name for field in dataclasses.fields(Prototypes))
_PENDING = 4  # rows that may wait to be written


@dataclass(frozen=True)
class References:
    """Prototypes of the training images of one epoch, one row an image."""

    embeddings: np.ndarray
    """`[N, D]` float32; may be on disk."""
    index: np.ndarray
    """`[N]` int, the image's index in its source; -1 for a row that is missing."""
    label: np.ndarray
    """`[N]` int, its class; -1 without."""


class Bank:
    """Writes the rows of an epoch and reads them back; a context manager.

    Row r of each file is that of the r-th batch of an epoch: `embeddings [steps, B, D]`, `index [steps, B]` and
    `label [steps, B]`; besides, `step [steps]` holds the number of the step that wrote it (0 for none), and
    `checksum [steps]` the CRC-32 of the row. Files with other shapes are replaced.

    Args:
        folder: of the files; created if it doesn't exist.
        shapes: shapes and dtypes of a row.
        steps_per_epoch: number of rows.

    Attributes:
        is_new: whether there were no files that fit.

    Raises:
        ConfigError: if the disk has no room for the files.
    """

    def __init__(self, folder: Path, shapes: Prototypes, steps_per_epoch: int):
        self._folder, self._steps = Path(folder), steps_per_epoch
        leaves = {name: getattr(shapes, name) for name in _FIELDS}
        self._layout = {name: (leaf.shape, np.dtype(leaf.dtype)) for name, leaf in leaves.items()}
        self._layout |= {"step": ((), np.dtype(np.int64)), "checksum": ((), np.dtype(np.uint32))}
        self._pending: deque[Future] = deque()
        self.is_new = not all(self._fits(name) for name in self._layout)
        if self.is_new:
            self.clear()
        self._offsets = {name: self._map(name).offset for name in self._layout}
        self._files = {name: os.open(self._path(name), os.O_WRONLY) for name in self._layout}
        self._writers = ThreadPoolExecutor(2)  # of which one may wait for the disk
        self._synced: Future | None = None

    def clear(self) -> None:
        """Creates the files, or empties them."""
        self._folder.mkdir(parents=True, exist_ok=True)
        size = self._steps * sum(dtype.itemsize * int(np.prod(shape)) for shape, dtype in self._layout.values())
        free = shutil.disk_usage(self._folder).free
        if free < size:
            raise ConfigError(
                f"The embeddings of an epoch take {size / 1e6:,.0f} MB in {self._folder}, where {free / 1e6:,.0f} MB "
                "are free. Make room, or give another --out."
            )
        for name, (shape, dtype) in self._layout.items():
            np.lib.format.open_memmap(self._path(name), "w+", dtype, (self._steps, *shape))

    def put(self, step: int, row: Prototypes) -> None:
        """Writes the row of a step in the background, as soon as the device has computed it.

        Args:
            step: the step's number, from 1.
            row: its prototypes, on the device or the host.

        Raises:
            SaveFailed: if an earlier row could not be written.
        """
        while len(self._pending) >= _PENDING or (self._pending and self._pending[0].done()):
            self._finish(self._pending.popleft())
        self._pending.append(self._writers.submit(self._write, step, row))

    def wait(self) -> None:
        """Waits until all rows are written, so that they survive this process; starts to write them to disk.

        Raises:
            SaveFailed: if a row could not be written, or what was written before could not be written to disk.
        """
        while self._pending:
            self._finish(self._pending.popleft())
        if self._synced is not None:
            self._finish(self._synced)
        self._synced = self._writers.submit(self._sync)

    def adopt(self, done: int, rows: Prototypes) -> None:
        """Takes over the rows `[steps, ...]` of a run that kept them in its checkpoints until step `done`."""
        whole, rest = divmod(done, self._steps)
        for number in np.flatnonzero((np.asarray(rows.index) >= 0).all(1)).tolist():
            step = (whole - (number >= rest)) * self._steps + number + 1
            if step > 0:
                self.put(step, jax.tree.map(lambda leaf, number=number: leaf[number], rows))
        self.wait()

    def of_epoch(self, epoch: int) -> References:
        """Reads the rows of an epoch; those that are damaged, or that another epoch wrote, are marked as missing.

        Args:
            epoch: its number, from 1.
        """
        self.wait()
        found = {name: self._map(name) for name in self._layout}
        expected = (epoch - 1) * self._steps + 1 + np.arange(self._steps)
        held = found["step"] == expected
        for number in np.flatnonzero(held):
            row = {name: found[name][number] for name in _FIELDS}
            held[number] = _checksum(expected[number], row) == found["checksum"][number]
        batch, width = found["embeddings"].shape[1:]
        return References(
            embeddings=found["embeddings"].reshape(-1, width),
            index=np.where(held[:, None], found["index"], -1).reshape(-1),
            label=np.where(held[:, None], found["label"], -1).reshape(-1),
        )

    def _write(self, step: int, row: Prototypes) -> None:
        values = {name: np.asarray(getattr(row, name), self._layout[name][1]) for name in _FIELDS}
        values |= {"checksum": np.array(_checksum(step, values), np.uint32), "step": np.array(step, np.int64)}
        for name, value in values.items():
            data = value.tobytes()
            place = self._offsets[name] + (step - 1) % self._steps * len(data)
            if os.pwrite(self._files[name], data, place) != len(data):
                raise OSError(f"{self._path(name)} takes no more bytes")

    def _sync(self) -> None:
        for file in self._files.values():
            os.fsync(file)

    def _finish(self, written: Future) -> None:
        try:
            written.result()
        except OSError as error:
            raise SaveFailed(
                f"The embeddings of a step can't be written to {self._folder}: {error_text(error)}. Make room, or "
                "check the disk, and give the same command."
            ) from error

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.npy"

    def _map(self, name: str) -> np.memmap:
        return np.lib.format.open_memmap(self._path(name), "r")

    def _fits(self, name: str) -> bool:
        shape, dtype = self._layout[name]
        try:
            found = self._map(name)
        except (OSError, ValueError):
            return False
        return found.shape == (self._steps, *shape) and found.dtype == dtype

    def __enter__(self) -> "Bank":
        return self

    def __exit__(self, *_) -> None:
        self._writers.shutdown(cancel_futures=True)
        for file in self._files.values():
            os.close(file)


class NoBank:
    """Replaces `Bank` in processes that don't write, and for tasks without prototypes; its methods do nothing."""

    def put(self, step: int, row: Prototypes) -> None:
        """See `Bank.put`; doesn't wait for the device."""

    def wait(self) -> None:
        """See `Bank.wait`."""

    def of_epoch(self, epoch: int) -> None:
        """Returns None, as nothing is kept."""

    def __enter__(self) -> "NoBank":
        return self

    def __exit__(self, *_) -> None:
        pass


def _checksum(step: int, row: Mapping[str, np.ndarray]) -> int:
    checksum = zlib.crc32(np.int64(step).tobytes())
    for name in _FIELDS:
        checksum = zlib.crc32(row[name].tobytes(), checksum)
    return checksum
