"""The folder of a comparison, which is bound to what is compared, and keeps every score as soon as it is there.

`comparison.json` describes the comparison; `scores/` has a file for each model and layer; `responses/` has copies of the
responses of a comparison that isn't complete.
"""

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ipcl_jax.brain.base import Responses, Subject
from ipcl_jax.errors import ConfigError
from ipcl_jax.stored_config import differing_fields, flatten_fields
from ipcl_jax.system.files import atomic, check_writable, expand_home, read_json
from ipcl_jax.system.locks import LockHeld, folder_lock

DESCRIPTION, SCORES, RESPONSES = "comparison.json", "scores", "responses"

_LATER = ("images_sha256", "responses_sha256")  # known when images and responses are read

_PART = re.compile(rf"\.{re.escape(DESCRIPTION)}\..+\.part")  # that `atomic` leaves behind if the process is killed

Values = dict[str, dict[str, np.ndarray]]
"""Scores of one layer, `[G, K, H]`, by region and measure."""


class Folder:
    """The folder of a comparison.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path):
        self.path = expand_home(path)

    def check(self) -> None:
        """Raises ConfigError if the folder can't be written, or holds files but no comparison."""
        check_writable(self.path)
        if self.path.is_dir():
            others = (entry.name for entry in self.path.iterdir() if not _PART.fullmatch(entry.name))
            if not self.begun and any(name != RESPONSES for name in others):
                raise ConfigError(f"--out {self.path} holds other files; give another folder.")
        elif self.path.exists():
            raise ConfigError(f"--out {self.path} is a file; give another folder.")

    @property
    def begun(self) -> bool:
        """Whether the folder is bound to a comparison."""
        return (self.path / DESCRIPTION).is_file()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes out of the folder; creates it if need be.

        Raises:
            ConfigError: if another process uses it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with folder_lock(self.path, wait=False):
                yield
        except LockHeld:
            raise ConfigError(f"Another process compares into {self.path}; wait for it.") from None

    def check_bound(self, description: dict[str, Any]) -> None:
        """Raises ConfigError if the folder was begun with something else; the message names what differs.

        Args:
            description: of what is compared; digests of its images and responses may be lacking yet.
        """
        path = self.path / DESCRIPTION
        if not path.is_file():
            return
        now = flatten_fields(json.loads(json.dumps(description)))
        before = flatten_fields(read_json(path))
        before = {name: value for name, value in before.items() if name in now or not name.endswith(_LATER)}
        if changed := differing_fields(before, now):
            listing = "; ".join(list(changed.values())[:3])
            raise ConfigError(
                f"--out {self.path} holds another comparison ({listing}); give another folder, or remove it."
            )

    def bind(self, description: dict[str, Any]) -> None:
        """Records what is compared, or checks that it is what the folder was begun with.

        Raises:
            ConfigError: as `check_bound`.
        """
        self.check_bound(description)
        path = self.path / DESCRIPTION
        if not path.is_file():
            with atomic(path) as part:
                text = json.dumps(description, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
                part.write_text(text, encoding="utf-8")

    def read_scores(self, place: Sequence[str], layer: str) -> Values:
        """Returns the scores of a layer that were kept, of some regions, all or none.

        Args:
            place: names of the subjects together, and of the model.
            layer: its name.

        Raises:
            ConfigError: if the file can't be read.
        """
        path = self._score_file(place, layer)
        if not path.is_file():
            return {}
        content = read_json(path)
        try:
            found = {
                region: {measure: np.array(values, np.float64) for measure, values in measures.items()}
                for region, measures in content.items()
            }
        except (AttributeError, TypeError, ValueError):
            found = {"": {"": np.empty(0)}}
        if not all(values.ndim == 3 and np.isfinite(values).all() for one in found.values() for values in one.values()):
            raise ConfigError(f"{path} does not hold scores; remove it, and they are computed again.")
        return found

    def write_scores(self, place: Sequence[str], layer: str, values: Values) -> None:
        """Keeps the scores of a layer; see `read_scores`."""
        found = {
            region: {measure: scores.tolist() for measure, scores in measures.items()}
            for region, measures in values.items()
        }
        with atomic(self._score_file(place, layer)) as part:
            part.write_text(json.dumps(found, allow_nan=False) + "\n", encoding="utf-8")

    def _score_file(self, place: Sequence[str], layer: str) -> Path:
        return self.path.joinpath(SCORES, *map(file_name, place), f"{layer}.json")

    def responses(self, key: str, subject: Subject, images: list[str], voxels: np.ndarray, memory: int) -> Path:
        """Copies a subject's responses into the folder, unless a copy is there already.

        Args:
            key: what the copy is bound to besides its content: the data, how they are read, and their files' times.
            subject: the subject.
            images: N images.
            voxels: `[V]`.
            memory: bytes of responses to read at a time.

        Returns:
            An HDF5 file with `mean [N, V]`, `ceiling [V]` and `voxels [V]`, and the attribute `sha256` of the first.
        """
        path = self.path / RESPONSES / f"{file_name(subject.name)}.h5"
        state = hashlib.sha256(json.dumps([key, images]).encode())
        state.update(voxels.tobytes())
        wanted = state.hexdigest()
        if path.is_file():
            with h5py.File(path) as file:
                if file.attrs.get("key") == wanted:
                    return path
        step = max(1, memory // (4 * len(images)))
        digest = hashlib.sha256()
        with atomic(path) as part, h5py.File(part, "w") as file:
            mean = file.create_dataset("mean", (len(images), len(voxels)), np.float32)
            ceiling = file.create_dataset("ceiling", (len(voxels),), np.float32)
            for start in range(0, len(voxels), step):
                some = slice(start, start + step)
                found: Responses = subject.read(images, voxels[some])
                mean[:, some], ceiling[some] = found.mean, found.ceiling
                digest.update(np.ascontiguousarray(found.mean.T).data)
            file["voxels"] = voxels
            file.attrs["key"], file.attrs["sha256"] = wanted, digest.hexdigest()
        return path

    def remove_responses(self) -> None:
        """Removes the copies of responses."""
        shutil.rmtree(self.path / RESPONSES, ignore_errors=True)

    def remove_if_new(self) -> None:
        """Removes the copies, and the folder if it is empty then, unless a comparison was begun in it."""
        if not self.begun:
            self.remove_responses()
            with contextlib.suppress(OSError):
                self.path.rmdir()


def file_name(name: str) -> str:
    """Returns a file's name for any name, different for different names."""
    if re.fullmatch(r"[\w+-][\w.+-]{0,99}", name, re.ASCII):
        return name
    readable = re.sub(r"[^\w.+-]", "_", name, flags=re.ASCII)[:80]
    return f"_{readable}~{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:16]}"


class Copied:
    """A subject's responses in the folder's copy.

    Args:
        path: from `Folder.responses`.
    """

    def __init__(self, path: Path):
        self.path = path
        with h5py.File(path) as file:
            self.sha256: str = file.attrs["sha256"]
            self.voxels: np.ndarray = file["voxels"][:]

    def region(self, voxels: np.ndarray) -> Responses:
        """Returns the responses of some voxels, `[V]` ascending, that are in the copy."""
        columns = np.searchsorted(self.voxels, voxels)
        with h5py.File(self.path) as file:
            low, high = columns.min(), columns.max() + 1
            mean, ceiling = file["mean"][:, low:high], file["ceiling"][low:high]
        return Responses(np.ascontiguousarray(mean[:, columns - low]), ceiling[columns - low])
