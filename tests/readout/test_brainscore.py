"""A model handed over as Brain-Score takes one."""

import numpy as np
import pytest
from PIL import Image

from ipcl_jax import extract, load_stimuli
from ipcl_jax.activations.encoder import init_encoder
from ipcl_jax.config import Model
from ipcl_jax.readout.brainscore import Observer


@pytest.fixture(scope="module")
def encoder():
    return init_encoder(Model(fc_dim=32), name="small", size=64)


def test_what_it_sees_is_what_extract_gives(encoder, tmp_path):
    rng, paths = np.random.default_rng(0), []
    for i in range(5):
        paths.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(rng.integers(0, 256, (70 + i, 80, 3), np.uint8)).save(paths[-1])
    observer = Observer(encoder, ["conv_block_2", "fc7"], batch_size=2)
    found = observer.look_at(paths)
    expected = extract(encoder, load_stimuli(paths, encoder), ["conv_block_2", "fc7"])
    assert list(found) == ["conv_block_2", "fc7"]
    for name, values in expected.items():
        # Batches of another size sum in another order; float32.
        np.testing.assert_allclose(found[name], np.asarray(values).reshape(5, -1), rtol=1e-4, atol=1e-5)
    # The hooks by which Brain-Score's own extractor asks, one after the other.
    activations = observer.get_activations(observer.preprocess(paths), ["conv_block_2"])
    np.testing.assert_array_equal(
        np.asarray(activations["conv_block_2"]),
        extract(encoder, load_stimuli(paths, encoder), "conv_block_2")["conv_block_2"],
    )


def test_who_it_is(encoder):
    observer = Observer(encoder)
    assert observer.layers == encoder.layer_names and observer.visual_degrees() == 8
    assert observer.identifier.startswith("small-")
    assert observer.identifier != Observer(init_encoder(Model(fc_dim=32), seed=1, name="small")).identifier


def test_what_makes_no_sense_is_said(encoder):
    with pytest.raises(ValueError, match="fc9"):
        Observer(encoder, ["fc9"])
    with pytest.raises(ValueError, match="no images"):
        Observer(encoder).look_at([])
