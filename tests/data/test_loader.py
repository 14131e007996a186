"""Decoding, canvases, and batches whose order only the seed and the step decide."""

import errno
import gc
import io
import os
import sys

import jax
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from ipcl_jax.data import loader
from ipcl_jax.data.canvases import Canvases
from ipcl_jax.data.decode import decode, place, upright
from ipcl_jax.data.loader import TrainBatches, UnreadableImages, eval_batches, on_devices, steps_per_epoch
from ipcl_jax.errors import ConfigError, InputError

CANVAS = (32, 64)


def _picture(height: int, width: int, seed: int = 0, channels: int = 3) -> np.ndarray:
    """A smooth random picture `[height, width, channels]` uint8."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 5, channels), np.uint8)
    planes = [Image.fromarray(noise[..., c]).resize((width, height), Image.BICUBIC) for c in range(channels)]
    return np.stack([np.asarray(plane) for plane in planes], -1)


def _encoded(image: Image.Image | np.ndarray, format: str = "JPEG", **options) -> bytes:
    memory = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(memory, format, **options)
    return memory.getvalue()


def _decode(image: bytes | np.ndarray, short_side: int = 256, long_side: int = 512) -> np.ndarray:
    return decode(image, short_side=short_side, long_side=long_side)


class Images:
    """Files in memory, image i of grey level i in sizes of both orientations; any sequence is a source."""

    name = "memory"
    classes = ("even", "odd")

    def __init__(self, number: int, unreadable: tuple[int, ...] = ()):
        pictures = [np.full((2 + i % 7, 5, 3), i + 1, np.uint8) for i in range(number)]
        self.files = [_encoded(picture, quality=95) for picture in pictures]
        for i in unreadable:
            self.files[i] = self.files[i][:-4]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[bytes, int]:
        return self.files[i], i % 2

    def describe(self, i: int) -> str:
        return f"memory {i}"


def _train(source, *, steps: int, batch_size: int = 4, **options) -> list[dict]:
    options = {"seed": 3, "threads": 2, "canvas": (8, 16)} | options
    with TrainBatches(source, batch_size=batch_size, **options) as batches:
        return [next(batches) for _ in range(steps)]


def _order(batches: list[dict]) -> list[int]:
    return np.concatenate([batch["index"] for batch in batches]).tolist()


def test_a_small_jpeg_is_decoded_exactly():
    file = _encoded(_picture(60, 80))
    np.testing.assert_array_equal(_decode(file), np.asarray(Image.open(io.BytesIO(file))))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((100, 100), (100, 100)),  # never enlarged
        ((256, 512), (256, 512)),
        ((375, 500), (256, 341)),  # int(256 * 500 / 375)
        ((500, 375), (341, 256)),
        ((300, 1200), (128, 512)),  # aspect above 2: the long side decides
        ((1200, 300), (512, 128)),
        ((100, 700), (73, 512)),
        ((1, 1), (1, 1)),
        ((1, 2000), (1, 512)),
    ],
)
def test_sizes(size, expected):
    pixels = _decode(_encoded(_picture(*size)))
    assert pixels.shape == (*expected, 3) and pixels.dtype == np.uint8
    assert _decode(_picture(*size)).shape == (*expected, 3)


@pytest.mark.parametrize("size", [(600, 900), (1100, 820), (2300, 1500)])
def test_large_jpegs_are_shrunk_as_by_pillow(size):
    file = _encoded(_picture(*size), quality=95)
    pixels = _decode(file)
    reference = Image.open(io.BytesIO(file)).resize(pixels.shape[1::-1], Image.BILINEAR)
    difference = np.abs(pixels.astype(int) - np.asarray(reference))
    # Decoding at half size averages pixels in the JPEG's cosine basis: one level, more in its colours.
    assert difference.mean() <= 0.5 and difference.max() <= 6


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA", "1", "I;16", "CMYK", "YCbCr", "transparent P"])
def test_every_kind_of_pixel_becomes_rgb(mode):
    image = Image.fromarray(_picture(30, 40))
    expected, bound = np.asarray(image).astype(int), 0
    if mode == "I;16":
        grey = np.asarray(image.convert("L"))
        file = _encoded(grey.astype(np.uint16) * 256 + 77, "PNG")
        expected = np.repeat(grey[..., None], 3, -1)
    elif mode == "transparent P":
        palette = image.quantize(16)
        file = _encoded(palette, "PNG", transparency=bytes(range(16)))
        expected = np.asarray(palette.convert("RGB"))
    elif mode in ("CMYK", "YCbCr"):
        file = _encoded(image.convert(mode), "JPEG", quality=100, subsampling=0)
        bound = 6  # rounding of the JPEG and of a second colour space
    else:
        file = _encoded(image.convert(mode), "PNG")
        expected = np.asarray(image.convert(mode).convert("RGB"))
    pixels = _decode(file)
    assert pixels.shape == (30, 40, 3) and pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - expected).max() <= bound


def test_grey_arrays_become_rgb_and_other_arrays_are_refused():
    grey = _picture(5, 6, channels=1)
    np.testing.assert_array_equal(_decode(grey), np.repeat(grey, 3, -1))
    np.testing.assert_array_equal(_decode(grey[..., 0]), np.repeat(grey, 3, -1))
    with pytest.raises(ValueError, match=r"\[5, 6, 1\] float32"):
        _decode(grey.astype(np.float32))


def test_the_orientation_tag_is_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert _decode(_encoded(_picture(20, 30), exif=exif)).shape == (20, 30, 3)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_jpeg_is_refused_by_both_decoders(share):
    file = _encoded(_picture(200, 300), quality=90)
    cut = file[: int(len(file) * share)]
    with pytest.raises(ValueError):
        simplejpeg.decode_jpeg(cut, "RGB")
    with pytest.raises(OSError, match="(?i)truncated"):
        Image.open(io.BytesIO(cut)).load()
    with pytest.raises(OSError, match="(?i)truncated"):
        _decode(cut)


@pytest.mark.parametrize("file", [b"", b"\xff\xd8", b"not an image", _encoded(_picture(9, 9), "PNG")[:-30]])
def test_what_is_no_image_is_refused(file):
    with pytest.raises(OSError):
        _decode(file)


def _pictures(batch):
    """The images of a batch; what lies beside them on their canvases means nothing."""
    return [upright(canvas, size) for canvas, size in zip(batch["canvas"], batch["size"], strict=True)]


def _same(batches, others):
    for batch, other in zip(batches, others, strict=True):
        for name in ("size", "index", "label"):
            np.testing.assert_array_equal(batch[name], other[name])
        for image, expected in zip(_pictures(batch), _pictures(other), strict=True):
            np.testing.assert_array_equal(image, expected)


def test_place_landscape_and_portrait():
    for image in (_picture(20, 50), _picture(50, 20), _picture(20, 20)):
        canvas = np.zeros((*CANVAS, 3), np.uint8)
        place(image, canvas)
        np.testing.assert_array_equal(upright(canvas, image.shape[:2]), image)
        assert canvas.sum() == image.sum()  # nothing else was written
        lying = canvas if image.shape[0] <= image.shape[1] else canvas.reshape(CANVAS[1], CANVAS[0], 3)
        np.testing.assert_array_equal(lying[: image.shape[0], : image.shape[1]], image)


def test_a_batch():
    source = Images(10)
    (batch,) = _train(source, steps=1)
    assert {name: (array.shape, array.dtype) for name, array in batch.items()} == {
        "canvas": ((4, 8, 16, 3), np.uint8),
        "size": ((4, 2), np.int32),
        "index": ((4,), np.int32),
        "label": ((4,), np.int32),
    }
    for canvas, size, index, label in zip(*batch.values(), strict=True):
        expected = _decode(source[index][0], *(8, 16))
        np.testing.assert_array_equal(upright(canvas, size), expected)
        np.testing.assert_array_equal(size, expected.shape[:2])
        assert label == index % 2


def test_memory_is_used_again_but_never_while_anyone_holds_it():
    source = Images(64)
    options = {"batch_size": 4, "canvas": (8, 16), "seed": 0, "threads": 2}
    with TrainBatches(source, **options) as batches:
        kept = [next(batches) for _ in range(40)]
    with TrainBatches(source, **options) as batches:
        part = next(batches)["canvas"][2]  # a piece alone keeps its batch's memory
        on_device, addresses = [], []
        for _ in range(39):
            batch = next(batches)
            addresses.append(batch["canvas"].ctypes.data)
            on_device.append(jax.device_put(batch["canvas"]) if len(on_device) < 9 else None)
            del batch
    np.testing.assert_array_equal(upright(part, kept[0]["size"][2]), _pictures(kept[0])[2])
    for array, batch in zip(on_device[:9], kept[1:], strict=False):
        there = _pictures(batch | {"canvas": np.asarray(array)})
        for image, expected in zip(there, _pictures(batch), strict=True):
            np.testing.assert_array_equal(image, expected)
    assert len({batch["canvas"].ctypes.data for batch in kept}) == 40
    assert len(set(addresses)) < 30
    assert not any(address % 64 for address in addresses)


def test_order_is_new_each_epoch_and_another_with_another_seed():
    source = Images(11)
    order = _order(_train(source, steps=4))
    first, second = order[:8], order[8:]
    assert len(set(first)) == len(set(second)) == 8  # the remainder of 3 is dropped
    assert first != second
    assert order != _order(_train(source, steps=4, seed=4))
    # Grain's seed of an epoch is seed + epoch; ours must not repeat a neighbour's run.
    assert second != _order(_train(source, steps=2, seed=4))
    everything = set(_order(_train(source, steps=40)))
    assert everything == set(range(11))


def test_order_does_not_depend_on_threads_or_processes():
    source = Images(22)
    expected = _train(source, steps=9, threads=1)
    for options in ({"threads": 4}, {"threads": 1, "workers": 2}):
        _same(expected, _train(source, steps=9, **options))


@pytest.mark.parametrize("start", [1, 5, 6, 13])
def test_resuming_is_skipping(start):
    source = Images(22)  # five steps an epoch
    expected = _train(source, steps=16)[start:]
    _same(expected, _train(source, steps=16 - start, start_step=start))


def test_shards_side_by_side_are_the_batch_of_one_process():
    source = Images(27)
    whole = _train(source, steps=24, batch_size=6)
    shards = [_train(source, steps=24, batch_size=2, shard=(part, 3)) for part in range(3)]
    for step, batch in enumerate(whole):
        together = [image for shard in shards for image in _pictures(shard[step])]
        for image, other in zip(_pictures(batch), together, strict=True):
            np.testing.assert_array_equal(image, other)
    epoch = [set(_order(shard[:4])) for shard in shards]  # four steps of 6 in an epoch
    assert [len(part) for part in epoch] == [8, 8, 8]
    assert len(set.union(*epoch)) == 24  # disjoint
    assert set.union(*(set(_order(shard)) for shard in shards)) == set(range(27))


def test_fewer_images_than_a_batch():
    assert steps_per_epoch(Images(9), 4) == 2
    with pytest.raises(ConfigError, match="memory has 9 images.*--batch-size is 12 and can be 9 at most"):
        _train(Images(9), steps=1, batch_size=6, shard=(0, 2))


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_images_are_replaced_by_the_next_and_reported(workers):
    source = Images(250, unreadable=(17, 249))
    with TrainBatches(source, batch_size=4, canvas=(8, 16), seed=3, threads=2, workers=workers) as batches:
        order = _order([next(batches) for _ in range(125)])
    intact = _order(_train(Images(250), steps=125))
    replaced = {17: 18, 249: 0}
    assert order == [replaced.get(i, i) for i in intact]
    assert set(batches.unreadable) == {17, 249}
    assert batches.unreadable[17].startswith("memory 17: image file is truncated")


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_unreadable_images_end_training(workers):
    source = Images(100, unreadable=tuple(range(10, 40)))
    with (
        TrainBatches(source, batch_size=50, canvas=(8, 16), seed=3, threads=2, workers=workers) as batches,
        pytest.raises(UnreadableImages, match="of 100 images can't be read, more than 1%") as error,
    ):
        next(batches)
    assert len(error.value.paths) > 1 and error.value.paths[0].startswith("memory ")
    many = UnreadableImages({i: f"memory {i}: no" for i in range(30)}, 100)
    assert len(many.paths) == 30 and "memory 19: no\n  and 10 more" in str(many)


def test_no_image_is_readable():
    source = Images(40, unreadable=tuple(range(40)))
    with pytest.raises(UnreadableImages):
        _train(source, steps=1)
    (batch,) = eval_batches(source, batch_size=40, canvas=(8, 16), threads=1)
    assert not batch["valid"].any()


@pytest.mark.parametrize("threads", [1, 3])
def test_evaluation_sees_every_image_once_in_order(threads):
    source = Images(10, unreadable=(3,))
    batches = list(eval_batches(source, batch_size=4, canvas=(8, 16), threads=threads))
    assert [batch["canvas"].shape for batch in batches] == [(4, 8, 16, 3)] * 3
    assert _order(batches) == [*range(10), 9, 9]
    valid = np.concatenate([batch["valid"] for batch in batches])
    assert valid.tolist() == [i != 3 for i in range(10)] + [False] * 2
    assert batches[0]["size"][3].tolist() == [1, 1]
    np.testing.assert_array_equal(_pictures(batches[2])[1], _pictures(batches[2])[3])


def test_evaluation_of_some_images():
    batches = list(eval_batches(Images(10), batch_size=2, canvas=(8, 16), threads=2, indices=[7, 2, 5]))
    assert _order(batches) == [7, 2, 5, 5]
    assert not list(eval_batches(Images(10), batch_size=2, canvas=(8, 16), threads=2, indices=[]))


def test_a_closed_loader_gives_nothing_more():
    batches = TrainBatches(Images(10), batch_size=4, canvas=(8, 16), seed=0, threads=2)
    next(batches)
    batches.close()
    with pytest.raises(ValueError, match="closed"):
        next(batches)


def test_two_batches_are_on_their_way():
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    asked = []

    def batches():
        for i in range(5):
            asked.append(i)
            yield {"index": np.array([i])}

    for i, batch in enumerate(on_devices(batches(), sharding)):
        assert isinstance(batch["index"], jax.Array) and int(batch["index"][0]) == i
        assert asked == list(range(min(i + 3, 5)))
    assert i == 4


def test_too_many_unreadable_images_end_a_read_out():
    source = Images(10, unreadable=(3, 5))
    assert len(list(eval_batches(source, batch_size=5, canvas=(8, 16), threads=1, tolerated=0.2))) == 2
    with pytest.raises(UnreadableImages, match="2 of 10 images can't be read"):
        list(eval_batches(source, batch_size=5, canvas=(8, 16), threads=1, tolerated=0.1))


# --- memory ------------------------------------------------------------------------------


def test_memory_comes_back_when_the_last_view_of_it_is_gone():
    canvases = Canvases((8, 16), keep=3)
    batch = canvases.take(4)
    address = batch.ctypes.data
    view = batch[2][1:][::2]  # a view of a view
    on_device = jax.device_put(batch)
    assert on_device.unsafe_buffer_pointer() == address  # the device array is that memory
    del batch
    assert canvases.take(4).ctypes.data != address
    del view
    back = np.asarray(on_device)
    del on_device
    assert canvases.take(4).ctypes.data != address
    del back
    gc.collect()
    assert address in {array.ctypes.data for array in [canvases.take(4) for _ in range(3)]}


def test_memory_does_not_depend_on_how_references_are_counted(monkeypatch):
    monkeypatch.setattr(sys, "getrefcount", lambda _: 3)  # as if nobody else held anything
    with TrainBatches(Images(64), batch_size=4, canvas=(8, 16), seed=0, threads=2) as batches:
        kept = [next(batches) for _ in range(40)]
    assert len({batch["canvas"].ctypes.data for batch in kept}) == 40


def test_memory_that_is_kept_is_bounded():
    canvases = Canvases((8, 16), keep=3)
    many = [canvases.take(4) for _ in range(10)]
    assert len({array.ctypes.data for array in many}) == 10
    del many
    gc.collect()
    assert len(canvases._free) == 3
    assert canvases.take(5).shape == (5, 8, 16, 3)  # another size does not fit into that memory


# --- what fails in passing ---------------------------------------------------------------


class Failing(Images):
    """Image 5 fails so many times with an error that is not about it."""

    def __init__(self, number: int, error: Exception, times: int):
        super().__init__(number)
        self.error, self.left = error, times

    def __getitem__(self, i: int) -> tuple[bytes, int]:
        if i == 5 and self.left:
            self.left -= 1
            raise self.error
        return super().__getitem__(i)


PASSING = [OSError(code, os.strerror(code)) for code in (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ETIMEDOUT)]
PASSING.append(MemoryError())


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_an_error_that_passes_costs_no_image(error, monkeypatch):
    monkeypatch.setattr(loader, "_RETRY_PAUSES", (0.0, 0.0))
    source = Failing(10, error, times=2)
    with TrainBatches(source, batch_size=10, canvas=(8, 16), seed=3, threads=1) as batches:
        batch = next(batches)
    assert sorted(batch["index"]) == list(range(10)) and not batches.unreadable
    (batch,) = eval_batches(Failing(10, error, times=2), batch_size=10, canvas=(8, 16), threads=1)
    assert batch["valid"].all()


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_an_error_that_stays_ends_the_run_as_what_it_is(error, monkeypatch):
    monkeypatch.setattr(loader, "_RETRY_PAUSES", (0.0, 0.0))
    source = Failing(10, error, times=10**6)
    with pytest.raises(type(error)) as raised:
        _train(source, steps=1, batch_size=10)
    if isinstance(error, OSError):
        assert raised.value.errno == error.errno and "memory 5" in str(raised.value)
    with pytest.raises(type(error)):
        list(eval_batches(Failing(10, error, times=10**6), batch_size=10, canvas=(8, 16), threads=1))


def test_an_error_that_stays_ends_the_run_from_a_process_too(monkeypatch):
    monkeypatch.setattr(loader, "_RETRY_PAUSES", (0.0, 0.0))
    source = Failing(10, OSError(errno.EIO, "Input/output error"), times=10**6)
    with (
        TrainBatches(source, batch_size=10, canvas=(8, 16), seed=3, threads=1, workers=1) as batches,
        pytest.raises(OSError, match="Input/output error.*memory 5"),
    ):
        next(batches)


def test_a_file_that_is_gone_is_an_unreadable_image():
    source = Failing(250, FileNotFoundError(errno.ENOENT, "No such file or directory", "5.jpg"), times=10**6)
    with TrainBatches(source, batch_size=125, canvas=(8, 16), seed=3, threads=1) as batches:
        order = _order([next(batches) for _ in range(2)])
    assert 5 not in order and list(batches.unreadable) == [5]
    assert "No such file" in batches.unreadable[5]


# --- arguments ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"canvas": (16, 8)}, "shorter side"),
        ({"canvas": (0, 8)}, "shorter side"),
        ({"shard": (2, 2)}, "shard is"),
        ({"shard": (-1, 2)}, "shard is"),
        ({"indices": [10]}, "images 0 to 9"),
        ({"indices": [-1]}, "images 0 to 9"),
        ({"indices": [True, False]}, "of integers"),
        ({"indices": [0.5]}, "of integers"),
        ({"start_step": -1}, "start_step is -1"),
        ({"workers": -1}, "workers -1"),
    ],
)
def test_arguments_out_of_range_are_refused_at_once(options, message):
    given = {"batch_size": 2, "canvas": (8, 16), "threads": 1} | options
    if not {"start_step", "workers"} & set(options):
        with pytest.raises(InputError, match=message):
            eval_batches(Images(10), **given)
    if "indices" not in options:
        with pytest.raises(InputError, match=message):
            TrainBatches(Images(10), seed=0, **given)
