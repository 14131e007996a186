"""An encoder as a pytree and on disk, and what a run leaves loads as one."""

import dataclasses
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipcl_jax import Encoder, load_encoder, save_encoder
from ipcl_jax.checkpoints import SEAL, Checkpoints, claim_folder
from ipcl_jax.config import Data, Model, Objective, Train, Views
from ipcl_jax.encoder import describe, expected_variables, untrained
from ipcl_jax.errors import ConfigError
from ipcl_jax.training import compile_steps, make_mesh

SMALL = Model(fc_dim=32)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return untrained(SMALL, std=(0.2,) * 3, size=64, name="small", source="ab" * 32, steps=7)


def test_a_pytree_whose_description_is_static(encoder):
    leaves, tree = jax.tree.flatten(encoder)
    assert len(leaves) == len(jax.tree.leaves(encoder.variables))
    doubled = jax.tree.map(lambda x: 2 * x, encoder)
    assert (doubled.model, doubled.std, doubled.size) == (SMALL, (0.2,) * 3, 64)
    assert (doubled.name, doubled.source, doubled.steps) == ("", "", 0)  # it is another model now
    other = dataclasses.replace(encoder, name="other", steps=9)
    assert jax.tree.structure(other) == tree  # so that both share a compiled function
    mean = jax.tree.map(lambda a, b: (a + b) / 2, encoder, other)
    assert mean.digest() == encoder.digest() != doubled.digest()
    assert jax.tree.structure(dataclasses.replace(encoder, std=(0.3,) * 3)) != tree
    assert (
        "small" in repr(encoder)
        and "128 outputs of unit length" in repr(encoder)
        and len(repr(encoder)) < 100
    )


def test_a_file_holds_everything(encoder, tmp_path):
    path = tmp_path / "model.safetensors"
    save_encoder(encoder, path)
    again = load_encoder(path)
    assert again.description() == encoder.description()
    for (name, value), found in zip(
        jax.tree_util.tree_leaves_with_path(encoder.variables), jax.tree.leaves(again.variables), strict=True
    ):
        assert isinstance(found, jax.Array)
        np.testing.assert_array_equal(value, found, err_msg=str(name))
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_damaged_files_are_refused(encoder, tmp_path):
    path = tmp_path / "model.safetensors"
    save_encoder(encoder, path)
    whole = path.read_bytes()
    for content in (b"", whole[:100], whole[:-4], b"\xff" * 100):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="can't be read as a model"):
            load_encoder(path)
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0\0\0")
    with pytest.raises(ConfigError, match="has no description"):
        load_encoder(path)


def test_variables_must_fit_the_description(encoder):
    description = encoder.description()
    variables = jax.tree.map(np.asarray, encoder.variables)
    variables["params"]["fc7_linear"]["bias"] = np.zeros(31, np.float32)
    variables["params"]["fc9"] = {"bias": np.zeros(3, np.float32)}
    del variables["batch_stats"]["fc6_norm"]["mean"]
    with pytest.raises(ValueError) as caught:
        describe(variables, description)
    lines = str(caught.value).splitlines()[1:]
    assert [line.strip() for line in lines] == [
        "batch_stats/fc6_norm/mean is missing",
        "params/fc7_linear/bias is float32 [31], expected float32 [32]",
        "params/fc9/bias is not part of the model",
    ]
    with pytest.raises(ValueError, match="doesn't know: 'colour'"):
        describe(jax.tree.map(np.asarray, encoder.variables), description | {"colour": 1})


def test_a_run_loads_as_an_encoder(tmp_path):
    config = Train(
        name="tiny",
        model=SMALL,
        views=Views(size=64, std=(0.2,) * 3),
        data=Data(source="sample"),
        objective=Objective(queue_size=8),
        batch_size=4,
        accumulate=2,
        out=str(tmp_path / "run"),
    )
    folder = claim_folder(config)
    with pytest.raises(ConfigError, match="no complete checkpoint"):
        load_encoder(folder)
    state = compile_steps(config, make_mesh(), n_images=8, steps_per_epoch=2).init()
    state = state.replace(step=jnp.asarray(3, jnp.int32))
    with Checkpoints(folder, keep=2) as checkpoints:
        checkpoints.save(state)
        checkpoints.save(
            state.replace(step=state.step + 2, params=jax.tree.map(lambda x: x + 1, state.params))
        )
    before = sorted(path for path in folder.rglob("*"))
    encoder = load_encoder(folder)
    assert (encoder.name, encoder.steps, encoder.size, encoder.std) == ("tiny", 5, 64, (0.2,) * 3)
    expected = {"params": jax.tree.map(lambda x: x + 1, state.params), "batch_stats": state.batch_stats}
    jax.tree.map(np.testing.assert_array_equal, encoder.variables, expected)
    assert sorted(path for path in folder.rglob("*")) == before  # reading leaves no trace
    (folder / "checkpoints" / "5" / "default" / "_METADATA").write_text("{")
    with pytest.raises(ConfigError, match="Checkpoint 5 of the run.*_METADATA is not what was written"):
        load_encoder(folder)
    (folder / "checkpoints" / "5" / SEAL).unlink()
    with pytest.raises(ConfigError, match="Checkpoint 5 of the run.*can't be read"):
        load_encoder(folder)


def test_expected_variables_compute_nothing():
    shapes = expected_variables(Model())
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(shapes))
    assert shapes["params"]["fc6_linear"]["kernel"].shape == (9216, 4096)


def test_loading_what_was_trained_needs_no_torch(encoder, tmp_path):
    save_encoder(encoder, tmp_path / "model.safetensors")
    program = (
        "import sys; from convert import open_encoder; "
        f"open_encoder({str(tmp_path / 'model.safetensors')!r}); open_encoder('ipcl16'); "
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
