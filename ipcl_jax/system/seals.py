"""Checksums of a checkpoint's files, stored beside them."""

import contextlib
import json
from pathlib import Path

from ipcl_jax.system.cache import sha256
from ipcl_jax.system.files import atomic

SEAL = "sha256.json"


def seal(folder: Path) -> None:
    """Writes the sha256 of each file of a complete checkpoint into its folder."""
    with contextlib.suppress(FileNotFoundError):  # the checkpoint was deleted for a newer one
        with atomic(folder / SEAL, parents=False) as part:
            part.write_text(json.dumps(_digests(folder), indent=1) + "\n", encoding="utf-8")


def find_damage(folder: Path) -> str:
    """Compares a checkpoint's files with its checksums.

    Returns:
        Which file is damaged or missing; empty if none is, or the checkpoint has no checksums.

    Raises:
        OSError: if a file can't be read, which does not show that it is damaged.
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
