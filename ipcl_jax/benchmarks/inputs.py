"""Benchmarks of the input: loading images, and making views of them."""

import functools
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
from ipcl_jax.data.packing import pack, plan_packing
from ipcl_jax.data.sample import SampleSource
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
    out worker processes. Most of that time passes without Python's lock, which only one thread at a time can hold. The
    time to load an image of one pixel from memory is an upper bound of what holds it, so its inverse is
    what one process can load on any number of cores.

    Args:
        source: `folder:/path`, `array_record:/path` or `tfds:NAME`; by default JPEGs made of the sample photographs, in
            a folder and packed.
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
    costs: dict[str, list[float]] = {}  # us of processor time an image
    with tempfile.TemporaryDirectory() as folder:
        if source is None:
            write_jpegs(Path(folder), images)
        read = {"loader": open_source(source or f"folder:{folder}", "train", dir=dir)}
        if source is None:
            read["loader, packed"] = _packed(Path(folder), Path(folder, ".packed"))

        def load(name: str, images: Source) -> float:
            with TrainBatches(
                images, batch_size=batch_size, canvas=canvas, seed=0, threads=threads, workers=workers
            ) as batches:
                for _ in range(threads + 8):  # leaves out the time to start
                    next(batches)
                speed, cost = _loading_speed(batches, seconds)
            _wait_until_idle()
            costs.setdefault(name, []).append(cost)
            return speed

        def bare() -> float:
            speed, cost = _decoding_speed(read["loader"], threads, seconds)
            costs.setdefault("bare", []).append(cost)
            return speed

        turns = {name: functools.partial(load, name, images) for name, images in read.items()}
        first, *others = turns.values()
        columns = ("loader", "bare decoding", *list(turns)[1:])
        table = Measured("loading", "images/s", columns, take_turns(rounds, first, bare, *others))
        costs["of one pixel from memory"] = [_cost_of_python(batch_size, canvas, threads)]
        reading = {name: _reading_cost(images) for name, images in read.items()}
        jpegs = read["loader"]
        size = statistics.mean(len(jpegs[i][0]) for i in range(0, len(jpegs), len(jpegs) // 200 + 1))
    table.facts = {
        "JPEGs": f"{len(jpegs):,} of {size / 1000:.0f} kB{'' if source else f', {origin()}'}, "
        f"{threads} threads, {workers} workers",
        **{f"processor time of an image, {name}, us": statistics.median(cost) for name, cost in costs.items()},
        **{f"of this its file is read in, {name}, us": cost for name, cost in reading.items()},
    }
    return finish(table, json)


class _Pixels(SampleSource):
    """Images of one pixel in memory."""

    def __init__(self) -> None:
        self.name, self.classes = "pixels", ("pixel",)
        self._windows = [np.zeros((1, 1, 3), np.uint8)] * 2**20


def _cost_of_python(batch_size: int, canvas: tuple[int, int], threads: int) -> float:
    """Returns the microseconds of processor time to load an image that need be neither read nor decoded."""
    with TrainBatches(_Pixels(), batch_size=batch_size, canvas=canvas, seed=0, threads=threads) as batches:
        for _ in range(2 * (threads + 8)):  # leaves out the time to start
            next(batches)
        start, number = time.process_time(), 200
        for _ in range(number):
            next(batches)
        return 1e6 * (time.process_time() - start) / (number * batch_size)


def _wait_until_idle() -> None:
    """Waits until threads that were told to end have ended, as they would count as what is measured next."""
    before = -1.0
    while time.process_time() - before > 0.01:
        before = time.process_time()
        time.sleep(0.3)


def _packed(folder: Path, target: Path) -> Source:
    """Packs a folder of images as they are, and opens the result."""
    for _ in pack(plan_packing(folder, None), target, encode=bytes, settings="", processes=1):
        pass
    return open_source(f"array_record:{target}", "train")


def _reading_cost(images: Source) -> float:
    """Returns the microseconds of processor time in which an image's file is read."""
    order = np.random.default_rng(0).permutation(len(images))[:2000].tolist()
    start = time.thread_time()
    for i in order:
        images[i]
    return 1e6 * (time.thread_time() - start) / len(order)


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
