"""A run's folder: it is bound to the config and the images that the run began with.

Beside what training writes it holds `config.json` and `images.txt.gz`. The latter begins with a line of JSON (for
each split the number of images, their identity and the number of lines); then comes a line for each image, or for
each file where many lie in one: name, size and time of change (`Source.stamps`), first of the training images, then
of the held-out ones.
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
from ipcl_jax.run.metrics import METRICS
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
    """The folder that a run may have; nothing is written. Of several processes the first one looks.

    Args:
        config: the run; its folder is config.out, or runs/NAME.
        images: what it would be trained and measured on.
        default: the folder if config.out is None, instead of runs/NAME.

    Returns:
        The folder, which may not be there yet, and how the images differ from those that the run had so far; empty
        if they don't.

    Raises:
        ConfigError: if it holds something else: another run (its differences are named), a run on other images
            (unless config.data accepts them), or files that are not a run's; or if it can't be written to.
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
                "Give the same fields to go on with it, or another --out, or remove the folder."
            )
        changed = other_images(folder, images)
        if changed and not config.data.accept_other_images:
            raise ConfigError(
                f"{folder} holds a run on other images: {changed}. Nothing is changed. Bring the images back, "
                f"or give another --out, or {_ACCEPT} to go on with these."
            )
    elif folder.exists() and (not folder.is_dir() or not _only_begun(folder)):
        raise ConfigError(f"{folder} is there already and holds no run; give another --out.")
    check_writable(path)
    return changed


def claim_folder(folder: Path, config: Train | LinearProbe, images: Images) -> None:
    """Makes a run's folder if it is new, and binds it to config and images.

    Of several processes, which must all see the folder, the first one writes.

    Args:
        folder: from `check_folder`.
        config: the run.
        images: what it is trained and measured on.

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
            f"The first process made {folder}, which this one can't see; they need one file system."
        )


def rebind(folder: Path, images: Images) -> None:
    """Binds a run to other images from now on; the note of those before stays, as `images-before-N.txt.gz`.

    To be called once a checkpoint of training on these images is saved: a run that is killed earlier is
    still one on the images before. Of several processes the first one writes.
    """
    if distributed.is_first():
        earlier = sum(1 for _ in folder.glob("images-before-*.txt.gz"))
        shutil.copyfile(folder / IMAGES, folder / f"images-before-{earlier + 1}.txt.gz")
        write_images(folder, images)


def refuse_lost_checkpoints(folder: Path) -> None:
    """Refuses to begin a run anew where one was under way; nothing that it left is touched.

    Args:
        folder: of a run without a complete checkpoint.

    Raises:
        ConfigError: if it holds metrics, or a checkpoint that was put aside.
    """
    left = [name for name in (METRICS, "log.txt") if (folder / name).exists()]
    left += sorted(path.name for path in folder.glob("damaged-*"))
    if left:
        raise ConfigError(
            f"{folder} holds {', '.join(left)} of a run, but no checkpoint to go on from. Nothing is changed; give "
            "another --out, or move the folder away to begin anew."
        )


def _only_begun(folder: Path) -> bool:
    """Whether a folder holds no more than what is written before a run's config, by a process that was killed."""
    return all(
        entry.name == IMAGES or (entry.name.startswith(".") and entry.name.endswith(".part"))
        for entry in folder.iterdir()
    )


# --- which images ------------------------------------------------------------------------


def write_images(folder: Path, images: Images) -> None:
    """Notes the images of a run in its folder, whole or not at all."""
    header, listings = {}, []
    for split, source in images.items():
        listing, lines = io.BytesIO(), 0
        with gzip.open(listing, "wt", compresslevel=1, encoding="utf-8") as file:

            def noted(stamps: Iterable[str], file: IO[str] = file) -> Iterator[str]:
                nonlocal lines
                for stamp in stamps:
                    file.write(f"{stamp}\n")
                    lines += 1
                    yield stamp

            header[split] = {"count": len(source), "sha256": digest(noted(source.stamps())), "lines": lines}
        listings.append(listing.getvalue())
    with atomic(folder / IMAGES) as part:
        head = gzip.compress(json.dumps(header).encode() + b"\n", mtime=0)
        part.write_bytes(b"".join([head, *listings]))


def other_images(folder: Path, images: Images) -> str:
    """How images differ from those noted in a run's folder.

    Args:
        folder: of the run.
        images: those at hand.

    Returns:
        So many then, so many now, and the first that differs, for each split; empty if all are the same, or none
        are noted, as in runs of version 0.1.

    Raises:
        ConfigError: if the note can't be read.
    """
    path = folder / IMAGES
    if not path.exists():
        return ""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            then = json.loads(next(file))
        return "; ".join(
            _difference(split, then[split]["count"], _noted(path, then, split), source)
            for split, source in images.items()
            if (then[split]["count"], then[split]["sha256"]) != (len(source), source.identity())
        )
    except (EOFError, ValueError, KeyError, TypeError, StopIteration, gzip.BadGzipFile) as error:
        raise ConfigError(
            f"{path}, which notes the images of the run, is damaged: {error!r}. Nothing is changed."
        ) from None


def _noted(path: Path, header: dict, wanted: str) -> list[str]:
    """The lines of one split."""
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
