"""The folder of a run, which is bound to the config and the images that the run started with.

Two files record them: `config.json` and `images.txt.gz`. The latter begins with a line of JSON: for each split the
number of images, their identity and the number of lines. Then follows a line for each image (or for each file, if a
file holds many images) with its name, size and modification time (`Source.stamps`): first the training images, then
the held-out ones.
"""

import gzip
import io
import itertools
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

from ipcl_jax.config import LinearProbe, Train
from ipcl_jax.data.base import Source, digest
from ipcl_jax.errors import ConfigError
from ipcl_jax.run.history import METRICS
from ipcl_jax.stored_config import differences, to_json
from ipcl_jax.system import distributed
from ipcl_jax.system.files import atomic, check_writable, expand_home, read_json

CONFIG, IMAGES = "config.json", "images.txt.gz"
_ACCEPT = "--data.accept-other-images"
_SPLITS = {"train": "training", "val": "held-out"}

Images = Mapping[str, Source]
"""The sources of a run: `train` and `val`."""


def check_folder(
    config: Train | LinearProbe, images: Images, default: str | None = None
) -> tuple[Path, str]:
    """Returns the folder of a run after checking that the run may use it; writes nothing.

    With several processes, only the first one checks.

    Args:
        config: the run; its folder is config.out, or runs/NAME.
        images: the images that it would be trained and measured on.
        default: the folder if config.out is None, instead of runs/NAME.

    Returns:
        The folder, which may not exist yet, and how the images differ from those of the run so far; empty if they
        don't differ.

    Raises:
        ConfigError: if the folder holds a run with another config (the message lists the differences), a run on other
            images (unless config.data accepts them), or files that are not a run's; or if it can't be written to.
    """
    folder = expand_home(config.out or default or f"runs/{config.name}")
    changed = _changes(config, folder, images) if distributed.is_first() else ""
    if distributed.broadcast(bool(changed)):
        changed = changed or "as the first process says"
    return folder, changed


def _changes(config: Train | LinearProbe, folder: Path, images: Images) -> str:
    path, changed = folder / CONFIG, ""
    if path.exists():
        if found := differences(config, read_json(path)):
            listing = "\n  ".join(found)
            raise ConfigError(
                f"{folder} holds a run with another config:\n  {listing}\n"
                "Give the same fields to continue it, or another --out, or remove the folder."
            )
        changed = other_images(folder, images)
        if changed and not config.data.accept_other_images:
            raise ConfigError(
                f"{folder} holds a run on other images: {changed}. Nothing is changed. Bring the images back, "
                f"or give another --out, or {_ACCEPT} to go on with these."
            )
    elif folder.exists() and (not folder.is_dir() or not _holds_no_run_yet(folder)):
        raise ConfigError(f"{folder} is there already and holds no run; give another --out.")
    check_writable(path)
    return changed


def claim_folder(folder: Path, config: Train | LinearProbe, images: Images) -> None:
    """Creates a run's folder if it is new, and records the run's config and images in it.

    With several processes, which must share the file system, only the first one writes.

    Args:
        folder: from `check_folder`.
        config: the run.
        images: the images that it is trained and measured on.

    Raises:
        ConfigError: if this process can't see what the first one wrote.
    """
    path = folder / CONFIG
    distributed.barrier("checked the folder")
    if distributed.is_first():
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / IMAGES).exists() or not path.exists():
            write_images(folder, images)
        if not path.exists():
            with atomic(path) as part:
                part.write_text(to_json(config) + "\n", encoding="utf-8")
    distributed.barrier("made the folder")
    if not path.exists():
        raise ConfigError(
            f"The first process created {folder}, which this one can't see; all processes need the same file system."
        )


def rebind(folder: Path, images: Images) -> None:
    """Records other images for a run; the list of the previous ones is kept as `images-before-N.txt.gz`.

    Call it once a checkpoint of training on these images is saved: a run that is killed before that still belongs to
    the previous images. With several processes, only the first one writes.
    """
    if distributed.is_first():
        earlier = sum(1 for _ in folder.glob("images-before-*.txt.gz"))
        shutil.copyfile(folder / IMAGES, folder / f"images-before-{earlier + 1}.txt.gz")
        write_images(folder, images)


def refuse_lost_checkpoints(folder: Path) -> None:
    """Raises ConfigError if a run that has no checkpoint left metrics or damaged checkpoints in its folder.

    Args:
        folder: of a run without a complete checkpoint.

    Raises:
        ConfigError: if it holds metrics, a log or a damaged checkpoint, which a new run would overwrite.
    """
    left = [name for name in (METRICS, "log.txt") if (folder / name).exists()]
    left += sorted(path.name for path in folder.glob("damaged-*"))
    if left:
        raise ConfigError(
            f"{folder} holds {', '.join(left)} of a run, but no checkpoint to go on from. Nothing is changed; give "
            "another --out, or move the folder away to begin anew."
        )


def _holds_no_run_yet(folder: Path) -> bool:
    """Returns whether a folder holds only files that are written before `config.json`, by a process that was killed."""
    return all(
        entry.name == IMAGES or (entry.name.startswith(".") and entry.name.endswith(".part"))
        for entry in folder.iterdir()
    )


# --- which images ------------------------------------------------------------------------


def write_images(folder: Path, images: Images) -> None:
    """Writes the list of a run's images, `images.txt.gz`, atomically."""
    header, listings = {}, []
    for split, source in images.items():
        listing, lines = io.BytesIO(), 0
        with gzip.open(listing, "wt", compresslevel=1, encoding="utf-8") as file:

            def written(stamps: Iterable[str], file: IO[str] = file) -> Iterator[str]:
                nonlocal lines
                for stamp in stamps:
                    file.write(f"{stamp}\n")
                    lines += 1
                    yield stamp

            header[split] = {"count": len(source), "sha256": digest(written(source.stamps())), "lines": lines}
        listings.append(listing.getvalue())
    with atomic(folder / IMAGES) as part:
        head = gzip.compress(json.dumps(header).encode() + b"\n", mtime=0)
        part.write_bytes(b"".join([head, *listings]))


def other_images(folder: Path, images: Images) -> str:
    """Describes how images differ from those recorded in a run's folder.

    Args:
        folder: of the run.
        images: the present ones.

    Returns:
        For each split that differs, the two numbers of images and the first image that differs; empty if all are the
        same, or if none are recorded, as in runs of version 0.1.

    Raises:
        ConfigError: if the list can't be read.
    """
    path = folder / IMAGES
    if not path.exists():
        return ""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            then = json.loads(next(file))
        return "; ".join(
            _difference(split, then[split]["count"], _recorded(path, then, split), source)
            for split, source in images.items()
            if (then[split]["count"], then[split]["sha256"]) != (len(source), source.identity())
        )
    except (EOFError, ValueError, KeyError, TypeError, StopIteration, gzip.BadGzipFile) as error:
        raise ConfigError(
            f"{path}, the list of the run's images, is damaged: {error!r}. Nothing is changed."
        ) from None


def _recorded(path: Path, header: dict, wanted: str) -> list[str]:
    """Returns the lines of one split."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        next(file)
        start = 0
        for split in header:
            if split == wanted:
                lines = itertools.islice(file, start, start + header[split]["lines"])
                return [line.rstrip("\n") for line in lines]
            start += header[split]["lines"]
    raise KeyError(wanted)


def _difference(split: str, count: int, there: list[str], source: Source) -> str:
    here = list(source.stamps())
    text = f"{count:,} {_SPLITS[split]} images then, {len(source):,} now"
    before, now = next((pair for pair in itertools.zip_longest(there, here) if pair[0] != pair[1]), ("", ""))
    if _without_times(there) == _without_times(here):
        return f"{text}, all with the names and sizes that they had, but changed since, such as {_name(now)}"
    if before and now and _name(before) == _name(now):
        return f"{text}; the first that differs is {_name(now)}, which has changed since"
    names = ("none" if not line else _name(line) for line in (before, now))
    return "{}; the first that differs is {} then, {} now".format(text, *names)


def _name(stamp: str) -> str:
    return stamp.rsplit(" ", 2)[0]


def _without_times(stamps: list[str]) -> list[str]:
    return [stamp.rpartition(" ")[0] for stamp in stamps]
