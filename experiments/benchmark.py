"""How fast the parts of training are, each beside what bounds it.

    python experiments/benchmark.py loading
    python experiments/benchmark.py loading --source folder:/data/imagenet256 --threads 8
    python experiments/benchmark.py views
    python experiments/benchmark.py extract
"""

import importlib.util
import itertools
import os
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import jax
import numpy as np
import simplejpeg
import tyro
from PIL import Image
from rich.console import Console

# This folder comes last: its convert.py would hide the package of that name.
sys.path.sort(key=os.path.dirname(os.path.realpath(__file__)).__eq__)

import beside_torch
import extract as extraction
from beside_torch import Beside

from convert import convert_torch_checkpoint, save_torch
from ipcl_jax.config import Views
from ipcl_jax.decoding import decode, place
from ipcl_jax.loading import TrainBatches
from ipcl_jax.sources import Source, open_source, photographs
from ipcl_jax.stimulus_sets import open_stimuli
from ipcl_jax.views import make_views, sample_view

app = tyro.extras.SubcommandApp()


@app.command
def loading(
    source: str | None = None,
    dir: str | None = None,
    images: int = 3000,
    threads: int = 2,
    workers: int = 0,
    batch_size: int = 128,
    canvas: tuple[int, int] = (256, 512),
    rounds: int = 7,
    seconds: float = 3.0,
) -> None:
    """From JPEGs on disk to batches on the device, beside bare decoding of the same files.

    The two take turns, so that whatever else the machine does meets both. Processor time
    an image costs this process says more than the clock where other programs run, but
    leaves out worker processes.

    Args:
        source: `folder:/path` or `tfds:NAME`; by default JPEGs made of the sample photographs.
        dir: TFDS data folder.
        images: JPEGs to make, if no source is given.
        threads: decoding threads of either.
        workers: decoding processes of the loader, instead of its threads.
        batch_size: images in a batch.
        canvas: shorter and longer side of the canvas in pixels.
        rounds: turns of either.
        seconds: length of a turn.
    """
    row = "{:7} {:7.0f} {:7.0f} {:7.2f}   {:7.0f} {:7.0f} {:7.2f}"
    with tempfile.TemporaryDirectory() as folder:
        if source is None:
            write_jpegs(Path(folder), images)
        files = open_source(source or f"folder:{folder}", "train", dir=dir)
        size = statistics.mean(len(files[i][0]) for i in range(0, len(files), len(files) // 200 + 1))
        print(f"{len(files)} JPEGs of {size / 1000:.0f} kB, {threads} threads, {workers} workers")
        print("           images/s                  processor us/image")
        print("           bare  loader   ratio      bare  loader   ratio")
        turns = []
        for _ in range(rounds):
            bare = decode_bare(files, threads, seconds)
            with TrainBatches(
                files, batch_size=batch_size, canvas=canvas, seed=0, threads=threads, workers=workers
            ) as batches:
                for _ in range(threads + 8):  # the time to start is not the time to run
                    next(batches)
                loader = take(batches, seconds)
            time.sleep(0.5)  # until its last threads are done
            turns.append((bare[0], loader[0], loader[0] / bare[0], bare[1], loader[1], bare[1] / loader[1]))
            print(row.format("turn", *turns[-1]))
        for name, summary in (("median", statistics.median), ("lowest", min), ("highest", max)):
            print(row.format(name, *map(summary, zip(*turns, strict=True))))


@app.command
def views(images: int = 16, repeats: int = 9) -> None:
    """Augmented views a second (set 1, 224 pixels), beside the same views in torch on two threads.

    The two take turns. Compiling is not counted, normalising is.

    Args:
        images: photographs in a batch, each of which gives five views.
        repeats: turns of either.
    """
    options, key = Views(), jax.random.key(0)
    with tempfile.TemporaryDirectory() as folder:
        write_jpegs(Path(folder), images)
        files = [Path(folder, f"{i}.jpg").read_bytes() for i in range(images)]
    pixels = [decode(file, short_side=256, long_side=512) for file in files]
    canvas, sizes = np.zeros((images, 256, 512, 3), np.uint8), np.array([image.shape[:2] for image in pixels])
    for image, into in zip(pixels, canvas, strict=True):
        place(image, into)
    canvas, sizes = jax.device_put((canvas, sizes.astype(np.int32)))
    make = jax.jit(make_views, static_argnums=3)
    rendered = np.asarray(make(key, canvas, sizes, options))
    n = len(rendered)

    torch_views = None
    if importlib.util.find_spec("torch"):
        torch_views = Beside(beside_torch.views, pixels, choices_of(key, sizes, options), options)
        torch_views.run()  # the first time is slower
    print(f"{n} views of {len(pixels)} photographs on {jax.devices()[0].device_kind}")
    print("views/s   ours   torch   ratio" if torch_views else "views/s   ours   (torch is not installed)")
    turns = []
    for _ in range(repeats):
        start = time.perf_counter()
        make(key, canvas, sizes, options).block_until_ready()
        ours = n / (time.perf_counter() - start)
        if torch_views:
            theirs = n / torch_views.run()[0]
            turns.append((ours, theirs, ours / theirs))
        else:
            turns.append((ours,))
    for name, summary in (("median", statistics.median), ("lowest", min), ("highest", max)):
        columns = [summary(column) for column in zip(*turns, strict=True)]
        print(f"{name:7}" + "".join(f" {x:7.{2 * (i == 2)}f}" for i, x in enumerate(columns)))
    if torch_views:
        error = np.abs(rendered - torch_views.run()[1]).max()
        print(f"largest difference between the two: {error:.1e} (in standard deviations)")
        torch_views.close()


@app.command
def extract(images: int = 2000, side: int = 375, batch_size: int = 64, rounds: int = 3) -> None:
    """fc7 of JPEGs on disk, beside the reference's way in torch: one image after the other, batches of 32.

    The two take turns; each turn is all images. Ours is the whole command without its start: images are
    checked, decoded, and stored in an HDF5 file. The weights are untrained ones, the same on both sides.

    Args:
        images: JPEGs to make.
        side: their shorter side in pixels; the longer is 1 to 1.5 times that.
        batch_size: of ours.
        rounds: turns of either.
    """
    with tempfile.TemporaryDirectory() as folder:
        stimuli, weights = Path(folder, "stimuli"), Path(folder, "weights.pth")
        stimuli.mkdir()
        write_jpegs(stimuli, images, side)
        save_torch(convert_torch_checkpoint("ipcl16"), weights)
        files = open_stimuli([str(stimuli)])
        beside = Beside(beside_torch.fc7, str(weights), [str(stimuli / name) for name in files.names])
        quiet = Console(file=open(os.devnull, "w"))
        ours = extraction.Extraction(extraction.Extract(str(weights), batch_size=batch_size), quiet)
        ours.run(open_stimuli([str(stimuli / files.names[0])]), Path(folder, "first.h5"))  # compiles
        size = sum((stimuli / name).stat().st_size for name in files.names) / images
        print(f"{images} JPEGs of {side} pixels, {size / 1000:.0f} kB; images/s")
        print("          ours   torch   ratio")
        turns = []
        for turn in range(rounds):
            out = Path(folder, f"{turn}.h5")
            start = time.perf_counter()
            with Memory() as memory:
                ours.run(files, out)
            seconds = time.perf_counter() - start
            theirs, expected = beside.run()
            turns.append((images / seconds, images / theirs, theirs / seconds))
            print("{:7} {:7.1f} {:7.1f} {:7.2f}".format("turn", *turns[-1]))
        for name, summary in (("median", statistics.median), ("lowest", min), ("highest", max)):
            print("{:7} {:7.1f} {:7.1f} {:7.2f}".format(name, *map(summary, zip(*turns, strict=True))))
        beside.close()
        with h5py.File(out) as file:
            error = np.abs(file["fc7"][:] - expected).max() / np.abs(expected).max()
        print(f"largest difference between the two: {error:.1e} of the largest value")
        early, late = (f"{size / 1e6:.0f} MB" for size in memory.halves())
        print(f"memory of ours: at most {early} in the first half of the last turn, {late} in the second")


class Memory:
    """Samples this process's resident memory while it is open."""

    def __enter__(self) -> "Memory":
        self._samples, self._over = [], threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        self._thread.join()

    def halves(self) -> tuple[int, int]:
        """Most bytes in the first and in the second half of the time."""
        middle = len(self._samples) // 2
        return max(self._samples[:middle]), max(self._samples[middle:])

    def _sample(self) -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        while not self._over.wait(0.05):
            self._samples.append(int(Path("/proc/self/statm").read_text().split()[1]) * page)


def choices_of(key: jax.Array, sizes: jax.Array, options: Views) -> list[dict]:
    """What `make_views` draws from a key: for every view the fields of ViewParameters, as numbers."""
    keys = jax.random.split(key, len(sizes) * options.per_image)
    sample = jax.jit(jax.vmap(lambda key, size: sample_view(key, size, options)))
    drawn = sample(keys, np.repeat(sizes, options.per_image, axis=0))
    given = {name: values for name, values in drawn._asdict().items() if values is not None}
    columns = {name: np.asarray(values).tolist() for name, values in given.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def decode_bare(files: Source, threads: int, seconds: float) -> tuple[float, float]:
    """Images/s that threads read and decode when they do nothing else, and us/image of processor time."""
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


def take(batches: TrainBatches, seconds: float) -> tuple[float, float]:
    """Images/s that arrive on the device, and us/image of processor time."""
    start, processor, done = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < seconds:
        batch = jax.block_until_ready(jax.device_put(next(batches)))
        done += len(batch["index"])
    return done / (time.perf_counter() - start), 1e6 * (time.process_time() - processor) / done


def write_jpegs(folder: Path, number: int, side: int = 256) -> None:
    """JPEGs made of random crops of the sample photographs.

    Args:
        folder: where; it must exist.
        number: how many.
        side: their shorter side in pixels.
    """
    rng = np.random.default_rng(0)
    originals = [Image.open(path).convert("RGB") for path in photographs()]
    originals = [image for image in originals if min(image.size) >= 300]
    for i in range(number):
        image = originals[i % len(originals)]
        aspect = rng.choice([1, 4 / 3, 3 / 2])
        short = int(rng.integers(200, int(min(min(image.size), max(image.size) / aspect)) + 1))
        long = int(short * aspect)
        tall = image.height > image.width or (image.height == image.width and rng.random() < 0.5)
        width, height = (short, long) if tall else (long, short)
        left = int(rng.integers(image.width - width + 1))
        top = int(rng.integers(image.height - height + 1))
        shape = (side, side * long // short) if tall else (side * long // short, side)
        crop = image.resize(shape, Image.Resampling.BICUBIC, (left, top, left + width, top + height))
        crop.save(folder / f"{i}.jpg", quality=92)


if __name__ == "__main__":
    app.cli()
