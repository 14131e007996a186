"""Time and memory to open a folder of many files."""

import os
import subprocess
import sys
import tempfile
from json import loads
from pathlib import Path

import numpy as np

from ipcl_jax.benchmarks.material import write_jpegs
from ipcl_jax.benchmarks.turns import Measured, finish

PROGRAM = """
import json, pathlib, pickle, re, resource, sys, time
from ipcl_jax.data.sources import open_source

begun = time.process_time()
source = open_source(f"folder:{sys.argv[1]}", "train")
opened = time.process_time()
source.identity()
identified = time.process_time()
status = pathlib.Path("/proc/self/status")
if status.exists():  # getrusage would count the process that started this one
    peak = int(re.search(r"VmHWM:\\s*([0-9]+) kB", status.read_text())[1])
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({
    "files": f"{len(source):,} in {len(source.classes):,} folders",
    "processor time to open, s": opened - begun,
    "processor time of the identity, s": identified - opened,
    "sent to a worker process, bytes": len(pickle.dumps(source)),
    "peak memory of the process, MB": peak / (1e6 if sys.platform == "darwin" else 1e3),
}))
"""
CLASSES = 1000
LINKS = 20_000  # hard links to one file, whose number file systems limit


def opening(files: int, json: Path | None) -> Measured:
    """Measures how long a new process takes to open a folder with ImageNet's layout, made of links to a few JPEGs.

    Args:
        files: training images, in up to 1,000 classes.
        json: file to write the measurements to.
    """
    table = Measured("opening a folder")
    with tempfile.TemporaryDirectory() as folder:
        make_tree(Path(folder), files)
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, folder], check=True, stdout=subprocess.PIPE, text=True
        )
        table.facts = loads(done.stdout)
    return finish(table, json)


def make_tree(folder: Path, files: int) -> None:
    """Creates `files` links in `train/<class>/`, and one for each class in `val/<class>/`, to a few JPEGs."""
    originals = files // LINKS + 1
    write_jpegs(folder, originals, side=32)
    hidden = [(folder / f"{i}.jpg").rename(folder / f".{i}.jpg") for i in range(originals)]
    rng = np.random.default_rng(0)
    for label, numbers in enumerate(np.array_split(np.arange(files), min(CLASSES, files))):
        name = f"n{1440764 + 7919 * label:08d}"
        train, val = (folder / split / name for split in ("train", "val"))
        train.mkdir(parents=True)
        val.mkdir(parents=True)
        os.link(hidden[0], val / f"ILSVRC2012_val_{label + 1:08d}.JPEG")
        for i, number in zip(numbers.tolist(), rng.permutation(10 * len(numbers)), strict=False):
            os.link(hidden[i // LINKS], train / f"{name}_{number}.JPEG")
