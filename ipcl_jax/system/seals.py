"""Checksums of a folder's files, kept in it."""

import contextlib
import json
from pathlib import Path

from ipcl_jax.system.cache import sha256
from ipcl_jax.system.files import atomic

SEAL = "sha256.json"


def seal(folder: Path) -> None:
    """Notes the sha256 of each file of a complete checkpoint in it."""
    with contextlib.suppress(FileNotFoundError):  # a newer one has taken its place
        with atomic(folder / SEAL, parents=False) as part:
            part.write_text(json.dumps(_digests(folder), indent=1) + "\n", encoding="utf-8")


def damage_of(folder: Path) -> str:
    """What is wrong with a sealed checkpoint, whose files are not those of its checksums.

    Returns:
        Which file is damaged or missing; empty if none is, or the checkpoint has no seal.

    Raises:
        OSError: if a file can't be read, which says nothing about what it holds.
    """
    if not (folder / SEAL).exists():
        return ""
    try:
        sealed = dict(json.loads((folder / SEAL).read_bytes()))
    except (ValueError, TypeError, RecursionError):
        return f"{SEAL} is not what was written"
    found = _digests(folder)
    lost = sorted(sealed.keys() - found.keys())
    changed = sorted(name for name in sealed.keys() & found.keys() if sealed[name] != found[name])
    if not lost and not changed:
        return ""
    return f"{(lost + changed)[0]} is {'missing' if lost else 'not what was written'}"


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and SEAL not in path.name)
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}
