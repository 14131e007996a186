"""A model's layers for a comparison: their order, grouping and kernels."""

import numpy as np
import pytest
from PIL import Image

from ipcl_jax import extract, load_stimuli
from ipcl_jax.activations.encoder import init_encoder
from ipcl_jax.activations.preprocess import make_transform
from ipcl_jax.activations.stimuli import Reader, open_stimuli
from ipcl_jax.brain.pixels import choose_stimuli
from ipcl_jax.comparison.layers import exact_kernel, group_layers, read_layers, widths
from ipcl_jax.config import Model
from ipcl_jax.errors import ConfigError, InputError

LAYERS = ("conv_block_1.0", "conv_block_5", "fc7", "l2norm")


@pytest.fixture(scope="module")
def encoder():
    return init_encoder(Model(fc_dim=48), name="small", size=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for i in range(11):
        Image.fromarray(rng.integers(0, 255, (70, 80, 3), np.uint8)).save(path / f"{i}.png")
    return path


def test_layers_are_those_of_extract_channels_first(encoder, folder):
    stimuli = open_stimuli([str(folder)])
    reader = Reader(make_transform("stimulus", 64), batch_size=4)
    found = dict(read_layers(encoder, stimuli, reader, LAYERS, memory=1 << 30))
    images = load_stimuli([folder / f"{i}.png" for i in range(11)], encoder)
    for name, expected in extract(encoder, images, LAYERS).items():
        expected = np.asarray(expected, np.float64)
        if expected.ndim == 4:
            expected = expected.transpose(0, 3, 1, 2)
        expected = expected.reshape(11, -1)
        # Batches of another size are computed in another order, in float32.
        np.testing.assert_allclose(found[name].features, expected, atol=1e-5 * abs(expected).max())
        centred = expected - expected.mean(0)
        kernel = centred @ centred.T
        np.testing.assert_allclose(found[name].kernel, kernel, atol=1e-4 * abs(kernel).max())


def test_a_layer_that_does_not_fit_has_a_kernel_alone(encoder, folder):
    stimuli = open_stimuli([str(folder)])
    reader = Reader(make_transform("stimulus", 64), batch_size=4)
    whole = dict(read_layers(encoder, stimuli, reader, LAYERS[:1], memory=1 << 30))[LAYERS[0]]
    alone = dict(read_layers(encoder, stimuli, reader, LAYERS[:1], memory=1000))[LAYERS[0]]
    assert alone.features is None
    shifted = alone.kernel - alone.kernel.mean(0)
    shifted -= shifted.mean(1, keepdims=True)
    # float32 products of 69,984 values
    np.testing.assert_allclose(shifted, whole.kernel, atol=1e-4 * abs(whole.kernel).max())


def test_groups_are_consecutive_and_fit(encoder):
    numbers = widths(encoder, encoder.layer_names, size=64)
    memory = 4 * 10 * 100_000
    groups = group_layers(numbers, 10, memory=memory)
    assert [name for group in groups for name in group] == list(encoder.layer_names)
    sizes = [4 * 10 * sum(numbers[name] for name in group) for group in groups]
    assert all(size <= memory or len(group) == 1 for size, group in zip(sizes, groups, strict=True))
    assert all(size + 40 * numbers[after[0]] > memory for size, after in zip(sizes, groups[1:], strict=False))


def test_exact_kernel_in_parts(monkeypatch):
    features = np.random.default_rng(0).normal(7, 3, (6, 50)).astype(np.float32)
    whole = exact_kernel(features)
    centred = features.astype(np.float64) - features.astype(np.float64).mean(0)
    np.testing.assert_allclose(whole, centred @ centred.T, rtol=1e-12, atol=1e-9)  # float64 in another order
    monkeypatch.setattr("ipcl_jax.comparison.layers._COLUMNS", 8 * 6 * 7)
    np.testing.assert_allclose(exact_kernel(features), whole, rtol=1e-12, atol=1e-9)


def test_chosen_stimuli(folder):
    stimuli = open_stimuli([str(folder)])
    chosen = choose_stimuli(stimuli, ["10.png", "2.png"])
    assert chosen.names == ["10.png", "2.png"] and len(chosen.categories) == 2
    assert chosen[0] == (folder / "10.png").read_bytes() and chosen[1] == (folder / "2.png").read_bytes()
    with pytest.raises(InputError, match="1 images are not among the stimuli, such as 11.png"):
        choose_stimuli(stimuli, ["10.png", "11.png"])


def test_an_unreadable_image_is_named(encoder, folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "3.png").write_bytes(b"no image")
    reader = Reader(make_transform("stimulus", 64), batch_size=4)
    with pytest.raises(ConfigError, match="3.png can't be read"):
        dict(read_layers(encoder, open_stimuli([str(tmp_path)]), reader, ["fc7"], memory=1 << 30))
