"""Loads batches of images with Grain, as uint8 canvases.

An image is decoded once, shrunk if it is large, and copied to its position in the batch; everything else happens on
the accelerator. A batch is a dict of arrays:

  canvas `[B, H, W, 3]` uint8, H <= W: each image in the top left corner; one taller than H is stored in the same
    memory seen as [W, H, 3]. Pixels outside the image are undefined, and not used.
  size `[B, 2]` int32: the image's height and width.
  index `[B]` int32: index in the source of the image on the canvas (a substitute's, for an unreadable image).
  label `[B]` int32: its class, -1 without one.

Differs: the reference crops the original image; here an image larger than the canvas is first shrunk to fit it.
"""

import functools
import math
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import grain
import jax
import numpy as np
from absl import flags

from ipcl_jax.data.canvases import Canvases
from ipcl_jax.data.decode import decode_into, place, unreadable
from ipcl_jax.data.sources import Source
from ipcl_jax.errors import ConfigError, InputError
from ipcl_jax.system.files import error_text
from ipcl_jax.system.signals import end_with_parent

TOLERATED = 0.01
"""Share of a source's images that may be unreadable before training stops."""

_PREFETCH = 2  # batches copied to the devices in advance
_RETRY_PAUSES = (0.1, 1.0, 5.0)  # seconds before each new attempt after a disk, a network or memory failed

Batch = dict[str, np.ndarray]


class UnreadableImages(RuntimeError):
    """More of a source's images are unreadable than training tolerates.

    Attributes:
        paths: a line for each image that was found unreadable: where it is, and why.
    """

    def __init__(self, unreadable: dict[int, str], total: int):
        self.paths = [unreadable[i] for i in sorted(unreadable)]
        shown = "\n  ".join(self.paths[:20])
        more = f"\n  and {len(self.paths) - 20} more" if len(self.paths) > 20 else ""
        super().__init__(
            f"{len(self.paths)} of {total} images can't be read, more than {TOLERATED:.0%}:"
            f"\n  {shown}{more}\n"
            "Replace or remove these files, or check that their disk is still there, and start again."
        )


@functools.lru_cache(maxsize=2)
def _epoch_order(total: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(total)


@dataclass(frozen=True)
class _Shuffled:
    """The indices of a step's batch, in one look-up, as Grain's shuffle takes 20 us per image."""

    total: int
    batch_size: int
    seed: int
    rows: slice  # of the batch, for this process

    def __call__(self, step: int) -> np.ndarray:
        epoch, row = divmod(step, self.total // self.batch_size)
        start = row * self.batch_size
        return _epoch_order(self.total, self.seed, epoch)[start : start + self.batch_size][self.rows]


class _Load:
    """Loads a batch from indices `[B]`: returns the batch, which rows hold an image, and the unreadable images."""

    def __init__(self, source: Source, canvas: tuple[int, int], threads: int, *, substitute: bool):
        self._source = source
        self._canvas = canvas
        self._canvases = Canvases(canvas, keep=threads + 8)  # as many as are in use at once
        self._substitute = substitute
        self._pauses: tuple[float, ...] = _RETRY_PAUSES
        self._unreadable: dict[int, str] = {}  # so that each process tries each such file once

    def __setstate__(self, state: dict) -> None:  # in a worker process
        self.__dict__.update(state)
        end_with_parent()

    def __call__(self, indices: np.ndarray) -> tuple[Batch, np.ndarray, list[tuple[int, str]]]:
        index = np.array(indices, np.int32)
        canvas = self._canvases.take(len(index))
        size = np.ones((len(index), 2), np.int32)
        label = np.full(len(index), -1, np.int32)
        valid = np.zeros(len(index), bool)
        unreadable: dict[int, str] = {}
        # The buffer that files are decoded into. libjpeg-turbo bypasses the cache where memory is aligned to 32 bytes;
        # as the pixels are copied right away, a misaligned buffer is a tenth faster.
        scratch = np.empty(4 * math.prod(self._canvas) * 3 + 64, np.uint8)
        scratch = scratch[-scratch.ctypes.data % 64 + 16 :]
        for k, wanted in enumerate(index.tolist()):
            if (found := self._first_readable(wanted, unreadable, scratch)) is not None:
                index[k], image, label[k] = found
                place(image, canvas[k])
                size[k] = image.shape[:2]
                valid[k] = True
        batch = {"canvas": canvas, "size": size, "index": index, "label": label}
        return batch, valid, list(unreadable.items())

    def _first_readable(self, wanted: int, unreadable: dict[int, str], scratch: np.ndarray) -> tuple | None:
        """Returns index, pixels and label of the image, or else of the next readable one (with `substitute`)."""
        total = len(self._source)
        for step in range(total if self._substitute else 1):
            if self._substitute and _too_many(self._unreadable, total):
                unreadable.update(self._unreadable)  # TrainBatches raises at this batch
                return None
            i = (wanted + step) % total
            if (read := self._read(i, scratch)) is not None:
                return i, *read
            unreadable[i] = self._unreadable[i]
        return None

    def _read(self, i: int, scratch: np.ndarray) -> tuple[np.ndarray, int] | None:
        """Returns pixels and label, or None if the image is unreadable; raises temporary errors after some retries."""
        if i in self._unreadable:
            return None
        for pause in (*self._pauses, None):
            try:
                image, label = self._source[i]
                return decode_into(scratch, image, *self._canvas), label
            except Exception as error:  # damaged files raise almost any exception, and must not end the run
                if unreadable(error):
                    self._unreadable[i] = f"{self._source.describe(i)}: {error_text(error)}"
                    return None
                if pause is None:
                    self._pauses = ()  # other batches in progress need not wait again
                    if isinstance(error, OSError) and error.errno is not None and error.filename is None:
                        error.filename = self._source.describe(i)
                    raise
            time.sleep(pause)
        return None


def _too_many(unreadable: dict[int, str], total: int) -> bool:
    return len(unreadable) > TOLERATED * total


def steps_per_epoch(source: Source, batch_size: int) -> int:
    """Counts the batches in one pass over a source.

    Args:
        source: the images.
        batch_size: images in a batch, over all processes.

    Returns:
        The number of full batches; the remaining images are left out, other ones in every epoch.

    Raises:
        ConfigError: if there are too few images for one batch.
        InputError: if batch_size is below 1.
    """
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}, expected 1 or more.")
    if len(source) < batch_size:
        raise ConfigError(
            f"{source.name} has {len(source)} images, fewer than one batch; "
            f"--batch-size is {batch_size} and can be {len(source)} at most."
        )
    return len(source) // batch_size


class TrainBatches:
    """An endless iterator over training batches, shuffled in every epoch.

    The order of an epoch depends only on the seed and the epoch: not on threads, workers or the number of processes,
    whose shards together are the batch that one process would load. The position in training is therefore one integer,
    the step. An unreadable image is replaced by the next readable one of the source.

    Worker processes import the main script again, so it needs an `if __name__ == "__main__"` guard.

    Args:
        source: the images.
        batch_size: images in this process's shard of a batch.
        canvas: (H, W), H <= W, in pixels.
        seed: determines the order of images.
        start_step: batches to skip, to continue where an earlier run stopped.
        threads: number of decoding threads.
        workers: number of decoding processes instead of threads; 0 for none.
        shard: index of this process's shard of each batch, and number of shards.

    Attributes:
        unreadable: index, and location with reason, of each image found unreadable so far.

    Raises:
        ConfigError: if there are fewer images than a batch over all processes.
        InputError: if an argument is out of range.
        UnreadableImages: by `next`, once more than 1 % of the images are unreadable.
        OSError, MemoryError: by `next`, if a disk, a network or memory still fails after a few seconds.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int,
        canvas: tuple[int, int],
        seed: int,
        start_step: int = 0,
        threads: int,
        workers: int = 0,
        shard: tuple[int, int] = (0, 1),
    ):
        _check(canvas, shard, batch_size=batch_size, threads=threads)
        if start_step < 0 or workers < 0:
            raise InputError(f"start_step is {start_step} and workers {workers}, expected 0 or more.")
        part, parts = shard
        steps_per_epoch(source, batch_size * parts)
        self.unreadable: dict[int, str] = {}
        self._total = len(source)
        rows = slice(part * batch_size, (part + 1) * batch_size)
        order = _Shuffled(self._total, batch_size * parts, seed, rows)
        steps = grain.MapDataset.range(start_step, 2**48)  # practically endless
        batches = steps.map(order).map(_Load(source, canvas, threads, substitute=True))
        dataset = batches.to_iter_dataset(_read_options(1 if workers else threads))
        if workers:
            if not flags.FLAGS.is_parsed():  # Grain reads absl's flags, which only absl's app.run parses
                flags.FLAGS.mark_as_parsed()
            dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(workers, per_worker_buffer_size=2))
        self._iterator = iter(dataset)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batch, _, unreadable = next(self._iterator)
        self.unreadable |= unreadable
        if _too_many(self.unreadable, self._total):
            self.close()
            raise UnreadableImages(self.unreadable, self._total)
        return batch

    def close(self) -> None:
        """Ends the threads and processes."""
        self._iterator.close()

    def __enter__(self) -> "TrainBatches":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def eval_batches(
    source: Source,
    *,
    batch_size: int,
    canvas: tuple[int, int],
    threads: int,
    indices: Sequence[int] | None = None,
    shard: tuple[int, int] = (0, 1),
    tolerated: float = 1.0,
) -> Iterator[Batch]:
    """Iterates over every image once, in order, in batches of one shape.

    Args:
        source: the images.
        batch_size: images in a batch, over all processes.
        canvas: (H, W), H <= W, in pixels.
        threads: number of decoding threads.
        indices: of the images to load; by default all.
        shard: index of this process's shard of each batch, and number of shards.
        tolerated: share of the images that may be unreadable.

    Yields:
        Batches with one more array, valid `[B]` bool. It is False where an image is unreadable, and where the last
        batch is padded by repeating its last image.

    Raises:
        InputError: if an argument is out of range, before the first batch is asked for.
        UnreadableImages: if a larger share is unreadable.
        OSError, MemoryError: if a disk, a network or memory still fails after a few seconds.
    """
    _check(canvas, shard, batch_size=batch_size, threads=threads)
    wanted = np.arange(len(source)) if indices is None else _check_indices(indices, len(source))
    return _eval_batches(source, wanted, batch_size, canvas, threads, shard, tolerated)


def _eval_batches(
    source: Source,
    wanted: np.ndarray,
    batch_size: int,
    canvas: tuple[int, int],
    threads: int,
    shard: tuple[int, int],
    tolerated: float,
) -> Iterator[Batch]:
    groups = [wanted[start : start + batch_size] for start in range(0, len(wanted), batch_size)]
    load = _Load(source, canvas, threads, substitute=False)
    part, parts = shard
    rows = slice(part * batch_size // parts, (part + 1) * batch_size // parts)
    padded = [np.pad(group, (0, batch_size - len(group)), mode="edge")[rows] for group in groups]
    iterator = iter(grain.MapDataset.source(padded).map(load).to_iter_dataset(_read_options(threads)))
    unreadable: dict[int, str] = {}
    try:
        for group, (batch, valid, problems) in zip(groups, iterator, strict=True):
            unreadable |= problems
            if len(unreadable) > tolerated * len(wanted):
                raise UnreadableImages(unreadable, len(wanted))
            yield batch | {"valid": valid & (np.arange(batch_size) < len(group))[rows]}
    finally:
        iterator.close()


def _check(canvas: tuple[int, int], shard: tuple[int, int], **at_least_one: int) -> None:
    for name, value in at_least_one.items():
        if value < 1:
            raise InputError(f"{name} is {value}, expected 1 or more.")
    if not 1 <= canvas[0] <= canvas[1]:
        raise InputError(f"canvas is {canvas}, expected its shorter side in pixels and then its longer side.")
    if not 0 <= shard[0] < shard[1]:
        raise InputError(f"shard is {shard}, expected a part, counted from 0, and the number of parts.")


def _check_indices(indices: Sequence[int], total: int) -> np.ndarray:
    """Converts indices to `[N]` int64; raises InputError if one is out of range."""
    checked = np.asarray(indices)
    if checked.ndim != 1 or (checked.size and checked.dtype.kind not in "iu"):
        raise InputError(f"indices are {checked.shape} {checked.dtype}, expected [N] of integers.")
    if checked.size and not 0 <= checked.min() <= checked.max() < total:
        raise InputError(
            f"indices go from {checked.min()} to {checked.max()}, and there are images 0 to {total - 1}."
        )
    return checked.astype(np.int64)


def on_devices(batches: Iterable[Batch], sharding: jax.sharding.Sharding) -> Iterator[dict[str, jax.Array]]:
    """Copies batches to the devices, two batches ahead of the one in use.

    Args:
        batches: this process's shards.
        sharding: of a batch over the devices of all processes.

    Yields:
        The same batches as global arrays.
    """
    pending: deque[dict[str, jax.Array]] = deque()
    for batch in batches:
        pending.append(jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch))
        if len(pending) > _PREFETCH:
            yield pending.popleft()
    yield from pending


def _read_options(threads: int) -> grain.ReadOptions:
    # Each thread makes one batch at a time; buffering two more batches than threads keeps all threads busy.
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 2)
