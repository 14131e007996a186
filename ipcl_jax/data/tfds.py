"""Images of a TFDS dataset."""

import contextlib
import difflib
import logging
import os
import re
from collections.abc import Iterator

import numpy as np

from ipcl_jax.data.base import SOURCE_HELP, Split, digest, stamp
from ipcl_jax.errors import ConfigError, require
from ipcl_jax.system.cache import cache_folder
from ipcl_jax.system.files import atomic


class TfdsSource:
    """A TFDS dataset in a format with random access, read without TensorFlow.

    Args:
        dataset: TFDS's name, such as `imagenet2012` or `imagenet_v2/matched-frequency:1.*.*`.
        split: `train`; or `val`, which is TFDS's `validation`, or `test` where that doesn't exist.
        dir: TFDS data folder; None for TFDS's default.
    """

    def __init__(self, dataset: str, split: Split, *, dir: str | None = None):
        require("Reading TFDS datasets", "train", "tensorflow_datasets")
        import tensorflow_datasets as tfds  # here, since the import is slow and few runs need it

        builder = _builder(tfds, dataset, dir)
        splits, features = builder.info.splits, builder.info.features
        if not splits:
            looked = f"looked for it in {builder.data_dir}"
            raise ConfigError(f"tfds:{dataset} is not prepared; {looked}.{_prepare(dataset, dir)}")
        wanted = ("train",) if split == "train" else ("validation", "test")
        chosen = next((name for name in wanted if name in splits), "")
        if not chosen:
            raise ConfigError(f"tfds:{dataset} has no split {' or '.join(wanted)}, but {', '.join(splits)}.")
        if "image" not in features:
            raise ConfigError(f"tfds:{dataset} has no feature named image, but {', '.join(features)}.")
        encoded = isinstance(features["image"], tfds.features.Image)
        decoders = {"image": tfds.decode.SkipDecoding()} if encoded else None
        try:
            self._data = builder.as_data_source(split=chosen, decoders=decoders)
            self._data[0]
        except NotImplementedError:
            raise ConfigError(
                f"tfds:{dataset} in {builder.data_dir} is prepared as {builder.info.file_format.value}, "
                f"which has no random access.{_prepare(dataset, dir)}"
            ) from None
        except Exception as error:  # TFDS has no common class for errors in files
            raise ConfigError(f"tfds:{dataset} in {builder.data_dir} can't be read: {error}") from error
        self.name, self._version = f"tfds:{dataset} {chosen}", builder.info.full_name
        self.notes: tuple[str, ...] = ()
        self._files = [os.fspath(path) for path in splits[chosen].filepaths]
        self.places = tuple(os.path.realpath(path) for path in self._files)
        self._labelled = isinstance(dict(features).get("label"), tfds.features.ClassLabel)
        self.classes = tuple(features["label"].names) if self._labelled else ()

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, i: int) -> tuple[bytes | np.ndarray, int]:
        """Returns the image of example i and its label (-1: none)."""
        example = self._data[i]
        return example["image"], int(example["label"]) if self._labelled else -1

    def describe(self, i: int) -> str:
        """Names the split and the index."""
        return f"{self.name}[{i}]"

    def labels(self) -> np.ndarray:
        """Returns the label of every example, `[N]` int32 (-1: none).

        The first call reads all files, since labels are stored beside the images, but decodes no image. The labels are
        then kept in the cache directory, under this source's `identity`.
        """
        if not self._labelled:
            return np.full(len(self), -1, np.int32)
        kept = cache_folder() / "labels" / f"{self.identity()}.npy"
        with contextlib.suppress(OSError, ValueError, EOFError):  # none yet, or damaged
            labels = np.load(kept)
            if labels.shape == (len(self),) and labels.dtype == np.int32:
                return labels
        labels = self._read_labels()
        with contextlib.suppress(OSError), atomic(kept) as part, open(part, "wb") as file:  # a cache may be read-only
            np.save(file, labels)
        return labels

    def _read_labels(self) -> np.ndarray:
        import tensorflow_datasets as tfds

        only = tfds.features.FeaturesDict({"label": self._data.dataset_info.features["label"]})
        labels = np.empty(len(self), np.int32)
        for start in range(0, len(self), 256):
            rows = range(start, min(start + 256, len(self)))
            records = self._data.data_source.__getitems__(list(rows))
            labels[start : rows.stop] = [only.deserialize_example_np(record)["label"] for record in records]
        return labels

    def stamps(self) -> Iterator[str]:
        """Yields name, split and version, and then the split's files with their sizes and modification times."""
        yield f"{self.name} {self._version}"
        yield from (stamp(os.path.basename(path), path) for path in self._files)

    def identity(self) -> str:
        """Returns the sha256 of all stamps."""
        return digest(self.stamps())


def _builder(tfds, dataset: str, dir: str | None):
    absl = logging.getLogger("absl")
    level = absl.level
    absl.setLevel(logging.ERROR)  # TFDS warns about the missing data that ConfigError is about to explain
    try:
        return tfds.builder(dataset, **({"data_dir": dir} if dir else {}))
    except tfds.core.DatasetNotFoundError:
        known = tfds.list_builders(with_community_datasets=False)
        near = difflib.get_close_matches(re.split("[/:]", dataset)[0], known, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        where = f", and {dir} has no folder of that name" if dir else ""
        raise ConfigError(f"TFDS knows no dataset {dataset!r}{where}.{hint}{SOURCE_HELP}") from None
    except Exception as error:  # for a missing version or configuration: AssertionError or ValueError
        raise ConfigError(f"TFDS can't open {dataset!r}: {str(error).splitlines()[0]}{SOURCE_HELP}") from None
    finally:
        absl.setLevel(level)


def _prepare(dataset: str, dir: str | None) -> str:
    command = f"tfds build {dataset} --file_format=array_record" + (f" --data_dir={dir}" if dir else "")
    return f"\nPrepare it once, on any machine that has TensorFlow:\n  {command}{SOURCE_HELP}"
