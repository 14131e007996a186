"""Copies a folder of images as JPEGs of the size that training needs, which decode faster.

    python experiments/prepare.py /data/imagenet /data/imagenet256
    python experiments/prepare.py /data/imagenet /data/imagenet256 --to array_record

The second one packs them into a hundred files for `--data.source array_record:/data/imagenet256`, since the file systems
of clusters are slow with a million files.

ImageNet's validation images come in one folder; `--val-labels LOC_val_solution.csv` (or the development kit's
`ILSVRC2012_validation_ground_truth.txt`) sorts their copies into one folder a class.

Training decodes every image once an epoch; files of 256 pixels on the shorter side decode
several times faster than the originals. The same command again resumes an interrupted one.
"""

import functools
import io
import itertools
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from ipcl_jax.commands.running import exit_code
from ipcl_jax.config import Data
from ipcl_jax.data.class_list import class_paths
from ipcl_jax.data.decode import decode, unreadable
from ipcl_jax.data.folder import notes_of
from ipcl_jax.data.listing import Folder, Scan, printable
from ipcl_jax.data.packing import largest_sides, pack, plan_packing
from ipcl_jax.data.records import INDEX
from ipcl_jax.errors import ConfigError
from ipcl_jax.system.console import make_console
from ipcl_jax.system.files import atomic, check_writable, error_text, expand_home
from ipcl_jax.system.signals import end_with_parent


@dataclass(frozen=True)
class Prepare:
    """Copies a folder of images as JPEGs of the size that training needs, which decode faster."""

    src: Annotated[Path, tyro.conf.Positional]
    """Folder of images, in any depth."""
    dst: Annotated[Path, tyro.conf.Positional]
    """Folder to write, with the same subfolders; images it already has are kept."""
    to: Literal["folder", "array_record"] = "folder"
    """What to write: JPEG files, or some hundred ArrayRecord files that hold all images and their labels. Into the
    latter, images that are small enough go as they are, whatever their format."""
    size: int = 256
    """Shorter side in pixels; smaller images keep their size."""
    processes: int = os.cpu_count() or 1
    """Number of processes."""
    quality: int = 95
    """JPEG quality, 1 to 100."""
    val_labels: Path | None = None
    """List of the classes of held-out images that lie in one folder (`val`): a name and a class on each line, as in
    Kaggle's LOC_val_solution.csv, or ILSVRC2012_validation_ground_truth.txt with meta.mat beside it."""


def prepare(options: Prepare, console: Console) -> list[str]:
    """Writes the copies, or the ArrayRecord files, that don't exist yet.

    Args:
        options: of the command line.
        console: for notes and the progress bar.

    Returns:
        A line for each image that can't be read: its path and the reason.

    Raises:
        ConfigError: if there are no images, or the copies can't be written or would overwrite images.
    """
    src, dst = expand_home(options.src).resolve(), expand_home(options.dst).resolve()
    _check(options, src, dst)
    return (_pack if options.to == "array_record" else _copy)(options, src, dst, console)


def _check(options: Prepare, src: Path, dst: Path) -> None:
    if options.size < 1 or options.processes < 1:
        raise ConfigError("--size and --processes must be at least 1.")
    if not 1 <= options.quality <= 100:
        raise ConfigError(f"--quality is {options.quality}; JPEG's lies between 1 and 100.")
    if not src.is_dir():
        raise ConfigError(f"{src} is not a folder; the first argument is the folder of images.")
    if dst.is_relative_to(src):
        raise ConfigError(f"{dst} lies in {src}, so copies would be copied again; write them elsewhere.")
    if dst.exists() and not dst.is_dir():
        raise ConfigError(f"{dst} is a file; the second argument is the folder to write.")
    check_writable(dst / "image", "the second argument is the folder to write")


def _pack(options: Prepare, src: Path, dst: Path, console: Console) -> list[str]:
    plan = plan_packing(src, options.val_labels and expand_home(options.val_labels))
    _say(plan.notes, console)
    encode = functools.partial(shrink, size=options.size, quality=options.quality, any_format=True)
    settings = f"size {options.size}, quality {options.quality}"
    failed: list[str] = []
    with _progress(console) as progress:
        bar = progress.add_task("", total=len(plan))
        for number, problems in pack(plan, dst, encode=encode, settings=settings, processes=options.processes):
            progress.advance(bar, number)
            failed += problems
    usage = f"Use them with --data.source array_record:{dst}"
    short, long = largest_sides(dst)
    usual_short, usual_long = Data().canvas
    if short <= usual_short and long < usual_long:
        usage += f" --data.canvas {short} {long}, as no image is larger"
    console.print(usage, markup=False, highlight=False, soft_wrap=True)
    return failed


def _copy(options: Prepare, src: Path, dst: Path, console: Console) -> list[str]:
    if (dst / INDEX).is_file():
        raise ConfigError(f"{dst} holds images packed by --to array_record; give another folder for copies.")
    names, notes = _copies(options, src)
    _say(notes, console)
    for leftover in dst.rglob(".*.part"):  # of a process that was killed
        leftover.unlink()
    missing = [(name, target) for name, target in names if not (dst / target).exists()]
    if len(missing) < len(names):
        console.print(f"{len(names) - len(missing)} of {len(names)} images are there already.")
    failed = []
    with _progress(console) as progress:
        bar = progress.add_task("", total=len(missing))
        for name, error in _written(missing, src, dst, options):
            progress.advance(bar)
            if error:
                failed.append(printable(f"{src / name}: {error}"))
    return failed


def _say(notes: Iterable[str], console: Console) -> None:
    for note in notes:
        console.print(note, markup=False, highlight=False)


def _progress(console: Console) -> Progress:
    return Progress(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console)


def _copies(options: Prepare, src: Path) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    """Returns the path of each image and of its copy, and notes for the user."""
    scan = Scan(str(src), [str(src)])
    names = list(itertools.chain.from_iterable(scan.images(Folder(""))))
    if not names:
        raise ConfigError(f"{src} holds no image files.")
    homes = dict.fromkeys(names, "")
    if options.val_labels:
        homes |= class_paths(expand_home(options.val_labels), src, names)
    targets = [os.path.splitext(homes[name] or name)[0] + ".jpg" for name in names]
    if twice := [target for target, count in Counter(targets).items() if count > 1]:
        clash = [name for name, target in zip(names, targets, strict=True) if target == twice[0]]
        raise ConfigError(
            f"{len(twice)} copies would have two originals, such as {' and '.join(clash)}, "
            f"which would both become {twice[0]}. Rename or remove one of each."
        )
    return list(zip(names, targets, strict=True)), notes_of(printable(str(src)), scan)


def _written(
    jobs: list[tuple[str, str]], src: Path, dst: Path, options: Prepare
) -> Iterator[tuple[str, str | None]]:
    write = functools.partial(_write_all, src=src, dst=dst, size=options.size, quality=options.quality)
    # 32 images a task, since a million tasks would take too much memory.
    tasks = [jobs[start : start + 32] for start in range(0, len(jobs), 32)]
    if options.processes == 1:
        yield from itertools.chain.from_iterable(map(write, tasks))
        return
    context = multiprocessing.get_context("spawn")  # fork is not safe beside the progress bar's thread
    with ProcessPoolExecutor(options.processes, context, initializer=end_with_parent) as pool:
        yield from itertools.chain.from_iterable(pool.map(write, tasks))


def _write_all(
    jobs: list[tuple[str, str]], src: Path, dst: Path, size: int, quality: int
) -> list[tuple[str, str | None]]:
    return [(name, _write(src / name, dst / target, size, quality)) for name, target in jobs]


def _write(source: Path, target: Path, size: int, quality: int) -> str | None:
    """Writes one copy atomically; returns what is wrong with the original, or None."""
    try:
        file = shrink(source.read_bytes(), size=size, quality=quality)
    except Exception as error:  # damaged files raise many kinds of error
        if not unreadable(error):
            raise
        return error_text(error)
    with atomic(target, durable=False) as part:  # to sync a million files would be slow
        part.write_bytes(file)
    return None


def shrink(image: bytes, *, size: int, quality: int, any_format: bool = False) -> bytes:
    """Encodes an image as JPEG, with at most `size` pixels on its shorter side.

    Args:
        image: an encoded file.
        size: the shorter side in pixels; a smaller image keeps its size.
        quality: JPEG quality.
        any_format: leave a small image as it is, instead of only a small JPEG.

    Returns:
        The JPEG file; the same bytes if the image is small enough and a JPEG, or of any format with `any_format`.

    Raises:
        Exception: as `ipcl_jax.data.decode.decode`.

    Source: torchvision's Resize, antialiased bilinear, from pixels at full resolution.
    """
    pixels = decode(image)
    if (any_format or image[:2] == b"\xff\xd8") and min(pixels.shape[:2]) <= size:
        return image
    pixels = decode(pixels, short_side=size)
    memory = io.BytesIO()
    Image.fromarray(pixels).save(memory, "JPEG", quality=quality)
    return memory.getvalue()


def main() -> int:
    """Runs the command line; returns the exit code."""
    options = tyro.cli(Prepare)

    def work() -> int:
        failed = prepare(options, make_console())
        for line in failed:
            print(line)
        if failed:
            print(f"{len(failed)} images can't be read, so they are left out (see above).", file=sys.stderr)
        return 1 if failed else 0

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
