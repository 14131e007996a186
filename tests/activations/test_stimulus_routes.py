"""Images come as files, bytes, Pillow images, arrays, tensors, lists and folders: the same pixels, in a stated order."""

import os
import struct
import unicodedata
from types import SimpleNamespace

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image

from ipcl_jax import Views, center_views, extract, load_canvases, load_stimuli, make_views
from ipcl_jax.activations.damage import find_damage
from ipcl_jax.activations.encoder import init_encoder
from ipcl_jax.activations.preprocess import make_transform
from ipcl_jax.activations.stimuli import Reader, open_stimuli
from ipcl_jax.config import Model
from ipcl_jax.data.decode import decode, unreadable
from ipcl_jax.errors import ConfigError, InputError
from thinning import first

PLAIN = SimpleNamespace(size=64, mean=(0, 0, 0), std=(1, 1, 1))
DEEP = (np.arange(4096).reshape(64, 64) * 16).astype(np.uint16)
RGB = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


def shown(image) -> np.ndarray:
    return np.rint(load_stimuli([image], PLAIN)[0] * 255).astype(np.uint8)


def tiff(values: np.ndarray, sample_format: int, *, width: int = 0, bits: int = 0, photometric: int = 1) -> bytes:
    """A TIFF of one channel, by hand: Pillow doesn't write every kind of number."""
    entries = [
        (256, width or values.shape[1]), (257, values.shape[0]), (258, bits or values.itemsize * 8), (259, 1),
        (262, photometric), (273, 122),
        (278, values.shape[0]), (279, values.nbytes), (339, sample_format),
    ]  # fmt: skip
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, 9) + directory + struct.pack("<I", 0) + values.tobytes()


MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I;16"]


@pytest.mark.parametrize("mode", MODES)
def test_the_same_pixels_by_every_route(mode, tmp_path):
    image = Image.fromarray(DEEP) if mode == "I;16" else Image.fromarray(RGB).convert(mode)
    expected = np.repeat(DEEP[..., None] >> 8, 3, -1) if mode == "I;16" else np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(shown(image), expected)
    formats = {"LAB": ["TIFF"], "CMYK": ["TIFF"], "YCbCr": ["TIFF"], "I;16": ["PNG", "TIFF", "PPM", "JPEG2000"]}
    for format in formats.get(mode, ["PNG"] if mode not in ("HSV", "PA") else []):
        path = tmp_path / f"image.{format}"
        image.save(path, format)
        with Image.open(path) as opened:
            routes = [path, str(path), path.read_bytes(), opened, np.array([str(path)]), decode(path.read_bytes())]
            for route in routes:
                if isinstance(route, np.ndarray) and route.ndim == 1:
                    np.testing.assert_array_equal(np.rint(load_stimuli(route, PLAIN)[0] * 255), expected)
                else:
                    np.testing.assert_array_equal(shown(route), expected)


UNDEFINED = {
    "floats": [tiff(np.linspace(0, 1, 4096, dtype=np.float32).reshape(64, 64), 3)],
    "integers of 32 bits": [tiff(DEEP.astype(np.uint32), 1), tiff(DEEP.astype(np.int32) - 9, 2)],
    "signed integers": [tiff(DEEP.astype(np.int16), 2), tiff(DEEP.astype(np.int8), 2)],
}


@pytest.mark.parametrize("kind", UNDEFINED)
def test_pixels_without_a_range_are_refused_by_name(kind, tmp_path):
    for number, content in enumerate(UNDEFINED[kind]):
        path = tmp_path / f"{number}.tif"
        path.write_bytes(content)
        for route in (path, content, Image.open(path)):
            with pytest.raises(InputError, match="no range from black to white is defined") as refused:
                load_stimuli([route], PLAIN)
            assert (str(path) if route is path else "image 0") in str(refused.value)
        stimuli = open_stimuli([str(tmp_path)])
        assert "no range from black to white" in find_damage(stimuli, threads=1)[number]
        with pytest.raises(InputError, match=kind if number == 0 else "integers"):
            decode(content)


def test_an_image_made_of_32_bit_integers_is_refused_and_a_pgm_of_16_bits_is_not():
    with pytest.raises(InputError, match="32 bits"):
        load_stimuli([Image.fromarray(DEEP.astype(np.int32))], PLAIN)
    with pytest.raises(InputError, match="floats"):
        load_stimuli([Image.fromarray(RGB[..., 0] / np.float32(255))], PLAIN)
    pgm = b"P5 4 4 65535\n" + (np.arange(16) * 4096).astype(">u2").tobytes()
    np.testing.assert_array_equal(decode(pgm)[..., 0].ravel(), np.arange(16) * 16)


def test_sixteen_bits_whose_zero_is_white_and_twelve_bits_of_a_tiff():
    np.testing.assert_array_equal(decode(tiff(DEEP, 1))[..., 0], DEEP >> 8)
    np.testing.assert_array_equal(decode(tiff(DEEP, 1, photometric=0))[..., 0], 255 - (DEEP >> 8))
    packed = np.frombuffer(bytes.fromhex("000fff800123"), np.uint8)[None]  # two numbers in three bytes
    np.testing.assert_array_equal(decode(tiff(packed, 1, width=4, bits=12))[0, :, 0], [0, 0xFF, 0x80, 0x12])


@pytest.mark.parametrize(
    "array, message",
    [
        (RGB / 255, r"float64. Scale it to 0-255"),
        (DEEP, r"\[64, 64\] uint16. Scale it"),
        (np.concatenate([RGB, RGB[..., :1]], -1), r"image\[..., :3\]"),
        (RGB.transpose(2, 0, 1), r"transpose\(1, 2, 0\)"),
        (RGB[:0], r"\[0, 64, 3\]"),
        (np.array([None]), "NoneType"),
        (3, "images are a int"),
        ([3], "image 0, of type int"),
        ([], "no images to load"),
        (np.zeros((0, 9, 9, 3), np.uint8), "no images to load"),
        (torch.rand(1, 9, 9, 3, requires_grad=True), "can't be taken as an array"),
    ],
)
def test_what_is_no_image_is_one_clear_line(array, message):
    with pytest.raises(InputError, match=message) as refused:
        load_stimuli(array, PLAIN)
    assert "\n" not in str(refused.value)


def test_several_images_in_anything_that_can_be_gone_through(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        Image.fromarray(np.roll(RGB, i, 0)).save(path)
    expected = load_stimuli(paths, PLAIN)
    arrays = np.stack([np.roll(RGB, i, 0) for i in range(3)])
    for several in (
        tuple(map(str, paths)), iter(paths), np.array(paths), np.array([str(path) for path in paths]),
        arrays, torch.from_numpy(arrays), jnp.asarray(arrays), list(torch.from_numpy(arrays)), list(arrays),
    ):  # fmt: skip
        np.testing.assert_array_equal(load_stimuli(several, PLAIN), expected)
    np.testing.assert_array_equal(load_stimuli(np.array(str(paths[1])), PLAIN), expected[1:2])


# --- extract -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder():
    return init_encoder(Model(fc_dim=16), size=64)


def test_a_little_outside_of_the_range_warns_and_plainly_outside_is_refused(encoder, recwarn):
    images = load_stimuli([Image.fromarray(RGB)], encoder)
    extract(encoder, images, "fc7")
    assert not recwarn.list
    low, high = images.min(), images.max()
    for change in (1.1, 1.4):  # as Lanczos or noise may do
        with pytest.warns(UserWarning, match="and these go beyond"):
            extract(encoder, (images - images.mean()) * np.float32(change) + images.mean(), "fc7")
    with pytest.raises(InputError, match="look like 0-255 floats"):
        extract(encoder, RGB[None].astype(np.float32), "fc7")
    with pytest.raises(InputError, match="are not normalised"):
        extract(encoder, images * 4, "fc7")
    jax.jit(lambda x: extract(encoder, x, "fc7"))(images * 4)  # no value can be looked at
    jax.jit(lambda model: extract(model, images, "fc7"))(encoder)
    with pytest.raises(InputError, match="are not normalised"):
        jax.jit(lambda model: extract(model, images * 4, "fc7"))(encoder)
    assert low < 0 < high


def test_tensors_and_lists_are_taken_and_what_is_no_image_is_one_clear_line(encoder):
    images = load_stimuli([Image.fromarray(RGB)] * 2, encoder)
    expected = extract(encoder, images, "fc7")["fc7"]
    for same in (torch.from_numpy(images), list(images)):
        np.testing.assert_array_equal(extract(encoder, same, "fc7")["fc7"], expected)
    for wrong, message in (
        (torch.from_numpy(images).permute(0, 3, 1, 2), "Channels come last"),
        (images[:0], "There are no images in it"),
        (np.array(["a.png"]), "For paths there is load_stimuli"),
        (["a.png"], "For paths there is load_stimuli"),
        ([images[0], images[0, 1:]], "can't be taken as an array"),
        (None, "imgs is object"),
    ):
        with pytest.raises(InputError, match=message) as refused:
            extract(encoder, wrong, "fc7")
        assert "\n" not in str(refused.value)


# --- sets ----------------------------------------------------------------------------------


def fill(folder, *names: str) -> None:
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.roll(RGB, i, 0)).save(path)


def test_a_folder_and_a_pattern_have_one_order_and_a_list_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path, *(f"faces/{i}.png" for i in (10, 2, 1, 20)))
    natural = ["1.png", "2.png", "10.png", "20.png"]
    assert open_stimuli(["faces"]).names == natural
    assert open_stimuli(["faces/*.png"]).names == [f"faces/{name}" for name in natural]
    assert open_stimuli(["**/*.png"]).names == [f"faces/{name}" for name in natural]
    (tmp_path / "list.txt").write_text("faces/10.png\nfaces/1.png\n")
    assert open_stimuli(["list.txt"]).names == ["faces/10.png", "faces/1.png"]
    assert open_stimuli(["faces/20.png", "faces/2.png"]).names == ["faces/20.png", "faces/2.png"]


def test_several_folders_patterns_and_files_are_taken_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path, "b/1.png", "b/c/10.png", "a/1.png", "a/2.png", "x.png")
    stimuli = open_stimuli(["b", "x.png", "a/*.png"])
    assert stimuli.names == ["b/1.png", "b/c/10.png", "x.png", "a/1.png", "a/2.png"]
    assert [bytes(stimuli[i]) for i in range(5)] == [(tmp_path / name).read_bytes() for name in stimuli.names]
    for twice in (["a", "a"], ["a", "a/1.png"], ["x.png", "./x.png"], ["b", "b/c"]):
        with pytest.raises(ConfigError, match="is named twice, by"):
            open_stimuli(twice)
    for alone in ("sample", "tfds:mnist", "f.h5:images"):
        with pytest.raises(ConfigError, match="is a set of its own"):
            open_stimuli(["a", alone])
    with pytest.raises(ConfigError, match="1 of 3 images do not exist: c"):
        open_stimuli(["a", "c"])
    with pytest.raises(ConfigError, match=r"the pattern c/\*.png has none"):
        open_stimuli(["a", "c/*.png"])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-8", "utf-16"])
def test_a_list_from_another_system_names_the_same_files(encoding, tmp_path):
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    fill(tmp_path, f"pictures/{apart}.png", "pictures/1.png", "pictures/10.jpg", "pictures/b.v2.png", "plain.png")
    lines = [f"pictures\\{composed}.png", "pictures/1", "pictures\\10", f"pictures/{composed}", "pictures/b.v2", "plain.png"]
    (tmp_path / "list.txt").write_bytes("\r\n".join(lines).encode(encoding))
    stimuli = open_stimuli([str(tmp_path / "list.txt")])
    assert stimuli.names == lines
    files = [f"pictures/{apart}.png", "pictures/1.png", "pictures/10.jpg", f"pictures/{apart}.png",
             "pictures/b.v2.png", "plain.png"]  # fmt: skip
    assert [bytes(stimuli[i]) for i in range(6)] == [(tmp_path / name).read_bytes() for name in files]


def test_a_line_that_fits_several_files_is_refused(tmp_path):
    fill(tmp_path, "1.png", "1.jpg")
    (tmp_path / "list.txt").write_text("1\n")
    with pytest.raises(ConfigError, match="1 in .*list.txt fits several files: 1.jpg, 1.png"):
        open_stimuli([str(tmp_path / "list.txt")])
    (tmp_path / "list.txt").write_text("2\n")
    with pytest.raises(ConfigError, match="1 of 1 images do not exist"):
        open_stimuli([str(tmp_path / "list.txt")])


def test_names_that_are_no_text_are_refused_with_the_file(tmp_path):
    fill(tmp_path, "a.png")
    os.rename(tmp_path / "a.png", os.fsencode(tmp_path) + b"/caf\xe9.png")
    with pytest.raises(ConfigError, match=r"1 of 1 names are not text in UTF-8, such as b'caf\\xe9.png'"):
        open_stimuli([str(tmp_path)])


def test_shapes_that_can_be_two_things_are_asked_about(tmp_path):
    path = tmp_path / "s.h5"
    with h5py.File(path, "w") as file:
        file["one"] = np.zeros((50, 60, 3), np.uint8)
        file["grey"] = np.zeros((5, 60, 30), np.uint8)
        file["first"] = np.zeros((5, 3, 60, 60), np.uint8)
        file["floats"] = np.zeros((5, 60, 60, 3), np.float32)
    with pytest.raises(ConfigError, match=r"one image or 50 grey ones. Write .*one\[None\] for one image, or .*one\[:\] for 50"):
        open_stimuli([f"{path}:one"])
    (one,) = (stimuli := open_stimuli([f"{path}:one[None]"])).names
    assert stimuli[0].shape == (50, 60, 3) and one == "0"
    many = open_stimuli([f"{path}:one[:]"])
    assert len(many.names) == 50 and many[0].shape == (60, 3)
    with pytest.raises(ConfigError, match=r"\[None\] means one image"):
        open_stimuli([f"{path}:grey[None]"])
    with pytest.raises(ConfigError, match="Channels come last"):
        open_stimuli([f"{path}:first"])
    with pytest.raises(ConfigError, match="Scale its numbers to 0-255"):
        open_stimuli([f"{path}:floats"])
    assert len(open_stimuli([f"{path}:grey"]).names) == 5


# --- errors that say nothing about a file --------------------------------------------------


class Failing:
    """Stimuli of which each costs an error."""

    names = ("a.png", "b.png")

    def __init__(self, error: Exception):
        self._error = error

    def __getitem__(self, i: int) -> bytes:
        raise self._error


@pytest.mark.parametrize(
    "error, lasts",
    [
        (OSError("image file is truncated"), True), (SyntaxError("broken PNG"), True), (ValueError("odd"), True),
        (Image.DecompressionBombError("large"), True), (FileNotFoundError(2, "gone"), True),
        (PermissionError(13, "not yours"), True), (MemoryError(), False), (OSError(5, "Input/output error"), False),
        (OSError(24, "Too many open files"), False), (OSError(116, "Stale file handle"), False),
        (TimeoutError(110, "timed out"), False),
    ],
)  # fmt: skip
def test_a_failing_disk_or_memory_is_no_unreadable_image(error, lasts):
    assert unreadable(error) == lasts
    stimuli = Failing(error)
    transform = make_transform("stimulus", 64)
    batches = Reader(transform, 2, 1).batches(stimuli)
    if lasts:
        assert set(next(batches).problems) == {0, 1}
    else:
        with pytest.raises(type(error)):
            next(batches)


# --- canvases for one's own loop -----------------------------------------------------------


def test_canvases_for_ones_own_loop(tmp_path):
    tall, wide, low = (np.resize(RGB, shape) for shape in ((400, 256, 3), (256, 400, 3), (200, 120, 3)))
    Image.fromarray(wide).save(tmp_path / "wide.png")
    canvas, sizes = load_canvases([tall, tmp_path / "wide.png", Image.fromarray(low)])
    assert canvas.shape == (3, 256, 512, 3) and canvas.dtype == np.uint8
    np.testing.assert_array_equal(sizes, [[400, 256], [256, 400], [200, 120]])
    np.testing.assert_array_equal(canvas[1, :256, :400], wide)
    np.testing.assert_array_equal(canvas[2, :200, :120], low)  # a portrait that fits lies as it is
    np.testing.assert_array_equal(canvas[0].reshape(512, 256, 3)[:400, :256], tall)
    options = Views(size=64)
    assert make_views(jax.random.key(0), canvas, sizes, options).shape == (15, 64, 64, 3)
    with pytest.raises(InputError, match="short side first"):
        load_canvases([wide], canvas=(512, 256))


@pytest.mark.slow
def test_a_portrait_laid_naturally_gives_the_same_views_on_any_canvas():
    portrait = np.asarray(Image.fromarray(RGB).resize((120, 200)))
    options, key = Views(size=64, rotation=20), jax.random.key(1)
    found = []
    for height, width in ((256, 512), (200, 120), (120, 200)):
        canvas = np.full((1, height, width, 3), 255, np.uint8)
        if height < 200:  # the only way that it fits
            canvas[0].reshape(width, height, 3)[:200, :120] = portrait
        else:
            canvas[0, :200, :120] = portrait
        sizes = np.array([[200, 120]])
        found.append((make_views(key, canvas, sizes, options), center_views(canvas, sizes, options)))
    for views, whole in found[1:]:
        # The same weights in blocks of another length: sums of float32 in another order.
        np.testing.assert_allclose(views, found[0][0], atol=2e-4)
        np.testing.assert_allclose(whole, found[0][1], atol=2e-5)


@pytest.mark.parametrize(
    "canvas, sizes, message",
    [
        (np.zeros((2, 64, 96, 3)), [[64, 64]] * 2, "expected a canvas"),
        (np.zeros((64, 96, 3), np.uint8), [[64, 64]], "expected a canvas"),
        (np.zeros((2, 64, 96, 3), np.uint8), [[64, 64]], r"sizes \[B, 2\]"),
        (np.zeros((2, 64, 96, 3), np.uint8), [[64.0, 64.0]] * 2, "of integers"),
        (np.zeros((2, 64, 96, 3), np.uint8), [[64, 64], [64, 97]], "size of image 1 is 64 x 97 pixels"),
        (np.zeros((2, 64, 96, 3), np.uint8), [[80, 80], [64, 64]], "size of image 0 is 80 x 80 pixels"),
        (np.zeros((2, 64, 96, 3), np.uint8), [[0, 64], [64, 64]], "size of image 0 is 0 x 64"),
    ],
)
def test_canvases_and_sizes_that_do_not_go_together_are_refused(canvas, sizes, message):
    for look in (lambda *given: make_views(jax.random.key(0), *given), center_views):
        with pytest.raises(InputError, match=message):
            look(canvas, np.array(sizes), Views(size=64))


@pytest.mark.parametrize(("length", "side"), first(1, [(65_000, 224), (4096, 224), (65_000, 64), (4096, 64)]))
def test_a_line_of_pixels_is_enlarged_right(length, side):
    """Its centre, as Pillow would cut it from an image of side x side * length pixels, which fits no memory."""
    line = np.random.default_rng(length).integers(0, 256, (1, length), np.uint8)
    centre = (np.arange(side) + (side * length - side) / 2 + 0.5) / side - 0.5  # in pixels of the line
    left = np.floor(centre).astype(int)
    expected = line[0, left] * (left + 1 - centre) + line[0, left + 1] * (centre - left)
    options = Views(size=side, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    for shape in ((1, length), (length, 1)):
        canvas = np.repeat(line.reshape(1, *shape)[..., None], 3, -1)
        view = np.asarray(jax.jit(center_views, static_argnums=2)(canvas, np.array([shape]), options))[0, ..., 0]
        view = view if shape[0] == 1 else view.T
        np.testing.assert_allclose(view * 255, np.broadcast_to(expected, (side, side)), atol=2e-3)  # float32


def test_views_that_hold_no_number_are_bent_like_others():
    """A NaN in the first pixel used to spare a view its rotation."""
    from ipcl_jax.augment.optics import warp

    rgb = jnp.asarray(np.random.default_rng(0).uniform(size=(32, 3, 32)), jnp.float32)
    bent = jax.jit(lambda rgb: warp(rgb, jnp.float32(90), distortion=0.0, outside=0.5))
    expected, found = np.asarray(bent(rgb)), np.asarray(bent(rgb.at[0, 0, 0].set(jnp.nan)))
    assert np.isnan(found).sum() in (1, 2, 3, 4)
    np.testing.assert_array_equal(found[~np.isnan(found)], expected[~np.isnan(found)])
    assert np.abs(expected - rgb).max() > 0.5
