"""Chooses between threads and processes for decoding by timing both."""

import os
from time import perf_counter

from ipcl_jax.data.loader import TrainBatches
from ipcl_jax.data.sources import Source

FEW_CORES = 8  # with fewer, threads are faster: they don't copy batches, and few of them wait for a lock
FEW_IMAGES = 50_000  # to load fewer takes no longer than the trial
TRIAL = 3.0  # seconds to time each


def choose_workers(
    source: Source,
    *,
    batch_size: int,
    canvas: tuple[int, int],
    threads: int,
    images: int,
    cores: int | None = None,
) -> tuple[int, str]:
    """Times threads and processes on the images themselves.

    Args:
        source: the images.
        batch_size: images in this process's part of a batch.
        canvas: (H, W), H <= W, in pixels.
        threads: decoding threads.
        images: number of images that this process has still to load.
        cores: by default as many as this process may use.

    Returns:
        The number of decoding processes (0 for threads), and a line for the user: what was timed; empty if nothing was,
        as there are few cores or images.
    """
    cores = cores or len(os.sched_getaffinity(0))
    if cores < FEW_CORES or images < FEW_IMAGES:
        return 0, ""
    processes = cores // 2
    speeds = {}
    for workers in (0, processes):
        with TrainBatches(
            source, batch_size=batch_size, canvas=canvas, seed=0, threads=threads, workers=workers
        ) as batches:
            for _ in range(2 * (workers or threads)):  # batches prefetched before the timing starts
                next(batches)
            start, images = perf_counter(), 0
            while perf_counter() - start < TRIAL:
                images += len(next(batches)["index"])
            speeds[workers] = images / (perf_counter() - start)
    best = max(speeds, key=lambda workers: speeds[workers])
    tried = f"{speeds[0]:,.0f} images/s with {threads} threads, {speeds[processes]:,.0f} with {processes} processes"
    return best, f"Decoding with {f'{best} processes' if best else f'{threads} threads'}: {tried}."
