"""Benchmarks of the input: loading images, and making views of them."""

import itertools
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import simplejpeg

from ipcl_jax.augment.views import make_views, sample_view
from ipcl_jax.benchmarks import in_torch
from ipcl_jax.benchmarks.material import canvases, origin, write_jpegs
from ipcl_jax.benchmarks.opening import opening
from ipcl_jax.benchmarks.torch_process import TorchProcess, setting
from ipcl_jax.benchmarks.turns import Against, Measured, compare, finish, prepare_torch, take_turns
from ipcl_jax.config import Views
from ipcl_jax.data.loader import TrainBatches
from ipcl_jax.data.sources import Source, open_source


def loading(
    source: str | None = None,
    dir: str | None = None,
    images: int = 3000,
    files: int = 0,
    threads: int = 2,
    workers: int = 0,
    batch_size: int = 128,
    canvas: tuple[int, int] = (256, 512),
    rounds: int = 7,
    seconds: float = 3.0,
    json: Path | None = None,
) -> Measured:
    """Measures loading, from JPEGs on disk to batches on the device, beside mere decoding of the same files.

    If other programs are running, the processor time of an image is more reliable than the time of the clock; it leaves
    out worker processes.

    Args:
        source: `folder:/path` or `tfds:NAME`; by default JPEGs made of the sample photographs.
        dir: TFDS data folder.
        images: JPEGs to make, if no source is given.
        files: measure instead the time to open a folder of this many files, such as ImageNet's 1281167.
        threads: decoding threads of either.
        workers: decoding processes of the loader, instead of its threads.
        batch_size: images in a batch.
        canvas: shorter and longer side of the canvas in pixels.
        rounds: turns of either.
        seconds: length of a turn.
        json: file to write the measurements to.
    """
    if files:
        return opening(files, json)
    costs: dict[str, list[float]] = {"loader": [], "bare": []}  # us of processor time an image
    with tempfile.TemporaryDirectory() as folder:
        if source is None:
            write_jpegs(Path(folder), images)
        images_read = open_source(source or f"folder:{folder}", "train", dir=dir)
        size = statistics.mean(len(images_read[i][0]) for i in range(0, len(images_read), len(images_read) // 200 + 1))

        def loader() -> float:
            with TrainBatches(
                images_read, batch_size=batch_size, canvas=canvas, seed=0, threads=threads, workers=workers
            ) as batches:
                for _ in range(threads + 8):  # leaves out the time to start
                    next(batches)
                speed, cost = _loading_speed(batches, seconds)
            time.sleep(0.5)  # until its last threads end
            costs["loader"].append(cost)
            return speed

        def bare() -> float:
            speed, cost = _decoding_speed(images_read, threads, seconds)
            costs["bare"].append(cost)
            return speed

        table = Measured("loading", "images/s", ("loader", "bare decoding"), take_turns(rounds, loader, bare))
        table.facts = {
            "JPEGs": f"{len(images_read):,} of {size / 1000:.0f} kB{'' if source else f', {origin()}'}, "
            f"{threads} threads, {workers} workers",
            **{
                f"processor time of an image, {name}, us": statistics.median(cost)
                for name, cost in costs.items()
            },
        }
    return finish(table, json)


def views(
    images: int = 16, rounds: int = 9, against: Against | None = None, json: Path | None = None
) -> Measured:
    """Measures augmented, normalised views a second (set 1, 224 pixels), five of each image.

    Args:
        images: photographs in a batch.
        rounds: turns of either.
        against: torch makes the same views, one after the other; on a CPU with two threads.
        json: file to write the measurements to.
    """
    prepare_torch(against)
    options, key = Views(), jax.random.key(0)
    pixels, batch = canvases(images)
    make = jax.jit(make_views, static_argnums=3)
    rendered = np.asarray(make(key, batch["canvas"], batch["size"], options))

    def work(times: int) -> None:
        for _ in range(times):
            made = make(key, batch["canvas"], batch["size"], options)
        made.block_until_ready()

    def build() -> TorchProcess:
        parameters = view_parameters(key, batch["size"], options)
        return TorchProcess(setting(compiled=False), in_torch.views, pixels, parameters, options)

    table = Measured("views", "views/s", ("ours",), facts={"views of a batch": len(rendered)})
    found = compare(table, rounds, work, len(rendered), against, build)
    if found is not None:
        table.facts["largest difference, in standard deviations"] = float(np.abs(rendered - found).max())
    return finish(table, json)


def view_parameters(key: jax.Array, sizes: jax.Array, options: Views) -> list[dict]:
    """Returns the parameters that `make_views` draws from a key: for every view the fields of ViewParameters."""
    keys = jax.random.split(key, len(sizes) * options.per_image)
    sample = jax.jit(jax.vmap(lambda key, size: sample_view(key, size, options)))
    drawn = sample(keys, np.repeat(sizes, options.per_image, axis=0))
    given = {name: values for name, values in drawn._asdict().items() if values is not None}
    columns = {name: np.asarray(values).tolist() for name, values in given.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _decoding_speed(files: Source, threads: int, seconds: float) -> tuple[float, float]:
    """Returns images/s that threads only read and decode, and us/image of processor time."""
    order = itertools.cycle(np.random.default_rng(0).permutation(len(files)).tolist())
    start, processor = time.perf_counter(), time.process_time()

    def work(_: int) -> int:
        done = 0
        while time.perf_counter() - start < seconds:
            simplejpeg.decode_jpeg(files[next(order)][0], "RGB")
            done += 1
        return done

    with ThreadPoolExecutor(threads) as pool:
        done = sum(pool.map(work, range(threads)))
    return done / (time.perf_counter() - start), 1e6 * (time.process_time() - processor) / done


def _loading_speed(batches: TrainBatches, seconds: float) -> tuple[float, float]:
    """Returns images/s that arrive on the device, and us/image of processor time."""
    start, processor, done = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < seconds:
        batch = jax.block_until_ready(jax.device_put(next(batches)))
        done += len(batch["index"])
    return done / (time.perf_counter() - start), 1e6 * (time.process_time() - processor) / done
