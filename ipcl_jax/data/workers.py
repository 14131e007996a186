"""Threads or processes to decode with: whichever is faster here."""

import os
from time import perf_counter

from ipcl_jax.data.loader import TrainBatches
from ipcl_jax.data.sources import Source

FEW_CORES = 8  # below, processes lose: they copy what threads share, and no lock holds so few threads up
TRIAL = 3.0  # seconds of each


def choose_workers(
    source: Source, *, batch_size: int, canvas: tuple[int, int], threads: int, cores: int | None = None
) -> tuple[int, str]:
    """Tries both on the images themselves.

    Args:
        source: the images.
        batch_size: images in a batch of this process.
        canvas: (H, W), H <= W, in pixels.
        threads: decoding threads.
        cores: of this machine; by default as many as this process may use.

    Returns:
        Processes to decode with, 0 for threads, and a line that says why.
    """
    cores = cores or len(os.sched_getaffinity(0))
    if cores < FEW_CORES:
        return 0, f"Decoding with {threads} threads: {cores} cores are too few for processes to pay."
    processes = cores // 2
    speeds = {}
    for workers in (0, processes):
        with TrainBatches(
            source, batch_size=batch_size, canvas=canvas, seed=0, threads=threads, workers=workers
        ) as batches:
            for _ in range(2 * (workers or threads)):  # what was made ahead does not count
                next(batches)
            start, images = perf_counter(), 0
            while perf_counter() - start < TRIAL:
                images += len(next(batches)["index"])
            speeds[workers] = images / (perf_counter() - start)
    best = max(speeds, key=speeds.get)
    tried = f"{speeds[0]:,.0f} images/s with {threads} threads, {speeds[processes]:,.0f} with {processes} processes"
    return best, f"Decoding with {f'{best} processes' if best else f'{threads} threads'}: {tried}."
