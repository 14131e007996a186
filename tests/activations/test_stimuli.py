"""The reference's transforms for test images, byte for byte, and sets of stimuli."""

import io

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from ipcl_jax import load_stimuli
from ipcl_jax.activations.damage import find_damage
from ipcl_jax.activations.encoder import Encoder
from ipcl_jax.activations.preprocess import make_transform
from ipcl_jax.activations.stimuli import Reader, open_stimuli
from ipcl_jax.config import Model
from ipcl_jax.data.sample import photographs
from ipcl_jax.errors import ConfigError

MODEL = Encoder(variables={}, model=Model(), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format: str, **options) -> bytes:
    memory = io.BytesIO()
    image.save(memory, format, **options)
    return memory.getvalue()


def by_pillow(image: Image.Image, size: int, resize: int) -> np.ndarray:
    """Resize and CenterCrop as torchvision defines them for a Pillow image, written out."""
    image = image.convert("RGB")
    width, height = image.size
    if width <= height:
        width, height = resize, int(resize * height / width)
    else:
        width, height = int(resize * width / height), resize
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = int(round((width - size) / 2.0)), int(round((height - size) / 2.0))
    return np.asarray(image.crop((left, top, left + size, top + size)))


@pytest.mark.parametrize("name, resize", [("stimulus", 224), ("validation", 256)])
@pytest.mark.parametrize(
    "height, width",
    [(480, 640), (641, 333), (224, 224), (256, 301), (100, 140), (225, 224), (37, 900), (1203, 902)],
)
def test_pixels_equal_pillows_to_the_byte(height, width, name, resize):
    image = picture(height, width, seed=height)
    for form in (encoded(image, "PNG"), encoded(image, "JPEG", quality=90), np.asarray(image)):
        reference = Image.open(io.BytesIO(form)) if isinstance(form, bytes) else image
        found = make_transform(name, 224)(form)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, by_pillow(reference, 224, resize))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA", "1", "CMYK"])
def test_every_kind_of_image_becomes_the_reference_s_rgb(mode):
    image = picture(300, 400).convert(mode)
    file = encoded(image, "JPEG" if mode == "CMYK" else "PNG")
    expected = by_pillow(Image.open(io.BytesIO(file)), 224, 224)
    np.testing.assert_array_equal(make_transform()(file), expected)


def test_sixteen_bits_keep_their_upper_eight():
    # Differs: Pillow's convert, which the reference uses, cuts off everything above 255.
    values = np.linspace(0, 65535, 300 * 224).astype(np.uint16).reshape(300, 224)
    found = make_transform()(encoded(Image.fromarray(values), "PNG"))
    assert found.min() < 60 and 150 < found.max() < 256 and len(np.unique(found)) > 100


def test_load_stimuli_gives_the_bits_of_to_tensor_and_normalize(tmp_path):
    path = photographs()[0]
    (tmp_path / "a.png").write_bytes(encoded(picture(300, 500), "PNG"))
    images = [
        path,
        str(tmp_path / "a.png"),
        picture(300, 500),
        np.asarray(picture(300, 500)),
        path.read_bytes(),
    ]
    found = load_stimuli(images, MODEL)
    assert found.shape == (5, 224, 224, 3) and found.dtype == np.float32
    pixels = torch.from_numpy(by_pillow(Image.open(path), 224, 224).copy()).permute(2, 0, 1)
    tensor = pixels.to(torch.float32).div(255)
    mean, std = (torch.tensor(value, dtype=torch.float32)[:, None, None] for value in (MODEL.mean, MODEL.std))
    expected = tensor.sub(mean).div(std).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(found[0], expected)
    np.testing.assert_array_equal(found[1], found[2])
    np.testing.assert_array_equal(found[1], found[3])
    np.testing.assert_array_equal(found[0], found[4])
    np.testing.assert_array_equal(load_stimuli(path, MODEL)[0], found[0])
    assert load_stimuli(path, MODEL, transform="validation", size=65).shape == (1, 65, 65, 3)
    assert load_stimuli(np.zeros((4, 50, 60, 3), np.uint8), MODEL, size=64).shape == (4, 64, 64, 3)


def test_load_stimuli_names_what_is_wrong(tmp_path):
    (tmp_path / "cut.png").write_bytes(encoded(picture(50, 50), "PNG")[:200])
    with pytest.raises(OSError, match="cut.png can't be read as an image"):
        load_stimuli([tmp_path / "cut.png"], MODEL)
    with pytest.raises(FileNotFoundError, match="nothing.png"):
        load_stimuli([tmp_path / "nothing.png"], MODEL)
    with pytest.raises(ValueError, match=r"image 0, .*uint8, not \[9, 9, 3\] float64"):
        load_stimuli([np.zeros((9, 9, 3))], MODEL)
    with pytest.raises(ValueError, match="no images"):
        load_stimuli([], MODEL)
    with pytest.raises(ValueError, match="Did you mean 'validation'"):
        load_stimuli(photographs()[0], MODEL, transform="valid")


# --- sets ----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    for name in ("b/10.png", "b/9.png", "a.jpg", ".hidden.png", "notes.md"):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        format = "JPEG" if path.suffix == ".jpg" else "PNG"
        path.write_bytes(encoded(picture(80, 90, seed=len(name)), format))
    return tmp_path / "set"


def test_a_folder_a_pattern_files_and_a_list(folder, monkeypatch):
    stimuli = open_stimuli([str(folder)])
    assert list(stimuli.names) == ["a.jpg", "b/9.png", "b/10.png"]
    assert stimuli[1] == (folder / "b/9.png").read_bytes()
    monkeypatch.chdir(folder)
    assert sorted(open_stimuli(["**/*.png"]).names) == ["b/10.png", "b/9.png"]
    assert list(open_stimuli(["b/9.png", "a.jpg"]).names) == ["b/9.png", "a.jpg"]
    assert list(open_stimuli(["a.jpg"]).names) == ["a.jpg"]
    (folder / "list.txt").write_text("# chosen\nb/10.png\n\na.jpg\n")
    monkeypatch.chdir("/")
    stimuli = open_stimuli([str(folder / "list.txt")])
    assert list(stimuli.names) == ["b/10.png", "a.jpg"]
    assert stimuli[0] == (folder / "b/10.png").read_bytes()


def test_rows_of_an_hdf5_file(tmp_path):
    path = tmp_path / "stimuli.h5"
    pixels = np.random.default_rng(0).integers(0, 256, (7, 70, 80, 3), np.uint8)
    with h5py.File(path, "w") as file:
        file["images"], file["deep/grey"], file["floats"] = pixels, pixels[..., 0], pixels / 255
    stimuli = open_stimuli([f"{path}:images"])
    assert list(stimuli.names) == [str(i) for i in range(7)]
    np.testing.assert_array_equal(stimuli[3], pixels[3])
    chosen = open_stimuli([f"{path}:images[2:4,-1,0]"])
    assert list(chosen.names) == ["2", "3", "6", "0"]
    np.testing.assert_array_equal(chosen[2], pixels[6])
    np.testing.assert_array_equal(open_stimuli([f"{path}:deep/grey"])[1], pixels[1, ..., 0])
    for spec, message in [
        ("images[7]", "names no rows"), ("images[x]", "names no rows"), ("images[3:3]", "leaves no rows"),
        ("floats", "is float64"), ("deep", "a group"), ("nothing", "It has: deep/grey .7, 70, 80. uint8, floats"),
    ]:  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            open_stimuli([f"{path}:{spec}"])
    with pytest.raises(ConfigError, match="name the dataset too"):
        open_stimuli([str(path)])


def test_what_is_no_set(tmp_path):
    (tmp_path / "empty").mkdir()
    for spec, message in [
        ("nowhere", "neither a file nor a folder"), (f"{tmp_path}/empty", "has none"), (f"{tmp_path}/*.png", "has none"),
        (f"{tmp_path}/no.h5:images", "there is no file"),
    ]:  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            open_stimuli([spec])
    with pytest.raises(ConfigError, match="1 of 2 images do not exist: .*gone.png"):
        open_stimuli([str(photographs()[0]), str(tmp_path / "gone.png")])


def test_the_sample_and_its_batches():
    stimuli = open_stimuli(["sample"])
    transform = make_transform("stimulus", 64)
    batches = list(Reader(transform, 100, 2).batches(stimuli))
    assert [(batch.first, batch.count) for batch in batches] == [(0, 100), (100, 100), (200, 100), (300, 36)]
    assert all(batch.pixels.shape == (100, 64, 64, 3) and not batch.problems for batch in batches)
    np.testing.assert_array_equal(batches[3].pixels[35], transform(stimuli[335]))
    np.testing.assert_array_equal(batches[3].pixels[36:], np.repeat(batches[3].pixels[35:36], 64, 0))
    later = list(Reader(transform, 100, 3).batches(stimuli, start=200))
    np.testing.assert_array_equal(later[0].pixels, batches[2].pixels)
    assert later[1].sha256 == batches[3].sha256 and len(set(batches[0].sha256)) == 100


def test_damage_is_found_before_anything_is_computed(folder):
    whole = {name: (folder / name).read_bytes() for name in ("a.jpg", "b/9.png", "b/10.png")}
    assert find_damage(open_stimuli([str(folder)]), threads=2) == {}
    (folder / "a.jpg").write_bytes(whole["a.jpg"] + b"\0\0")  # odd, but every pixel is there
    assert find_damage(open_stimuli([str(folder)]), threads=2) == {}
    (folder / "a.jpg").write_bytes(whole["a.jpg"][:-300])
    (folder / "b/9.png").write_bytes(whole["b/9.png"][:-20])
    (folder / "b/10.png").write_bytes(b"<html>")
    assert find_damage(open_stimuli([str(folder)]), threads=2).keys() == {0, 1, 2}
    (folder / "a.jpg").write_bytes(b"")
    assert 0 in find_damage(open_stimuli([str(folder)]), threads=2)
