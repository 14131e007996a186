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
from ipcl_jax.activations.encoder import build_encoder, expected_variables, init_encoder
from ipcl_jax.activations.serialize import export_orbax
from ipcl_jax.config import Data, Model, Objective, Train, Views
from ipcl_jax.errors import ConfigError, InputError
from ipcl_jax.run.checkpoints import Checkpoints
from ipcl_jax.run.folder import claim_folder
from ipcl_jax.system.distributed import make_mesh
from ipcl_jax.system.seals import SEAL
from ipcl_jax.training.step import compile_steps

SMALL = Model(fc_dim=32)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return init_encoder(SMALL, std=(0.2,) * 3, size=64, name="small", source="ab" * 32, steps=7)


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
        with pytest.raises(ConfigError, match="can't be read as a model") as caught:
            load_encoder(path)
        assert str(path) in str(caught.value)
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0\0\0")
    with pytest.raises(ConfigError, match="holds another network: a"):
        load_encoder(path)


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), MemoryError("no room")])
def test_what_a_disk_or_memory_refuses_is_not_called_damage(error, encoder, tmp_path, monkeypatch):
    """Such an error passes, and the file may be sound."""

    def refuse(*_, **__):
        raise error

    save_encoder(encoder, tmp_path / "model.safetensors")
    export_orbax(encoder, tmp_path / "model")
    monkeypatch.setattr("ipcl_jax.activations.serialize.safe_open", refuse)
    monkeypatch.setattr("orbax.checkpoint.Checkpointer.restore", refuse)
    for name in ("model.safetensors", "model"):
        with pytest.raises(type(error)) as caught:
            load_encoder(tmp_path / name)
        assert caught.value is error


def test_a_fault_of_the_program_is_no_error_of_the_user(encoder, tmp_path, monkeypatch):
    save_encoder(encoder, tmp_path / "model.safetensors")
    monkeypatch.setattr("ipcl_jax.activations.serialize.build_encoder", lambda *_: int("a fault"))
    with pytest.raises(ValueError, match="a fault") as caught:
        load_encoder(tmp_path / "model.safetensors")
    assert not isinstance(caught.value, InputError)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(std=(0.0, 0.2, 0.2)), "std is .0.0, 0.2, 0.2., expected three numbers above 0"),
        (dict(std=(float("nan"),) * 3), "std is .nan, nan, nan., expected three numbers above 0"),
        (dict(mean=(0.5,) * 4), "mean is .0.5, 0.5, 0.5, 0.5., expected three numbers"),
        (dict(mean=0.5), "mean is 0.5, expected three numbers"),
        (dict(size=16), "size is 16, expected 63 to 4096 pixels"),
        (dict(model="resnet18"), "model is a str, expected an ipcl_jax.config.Model"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_model_made_by_hand_is_checked(fields, message, encoder):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(encoder, **fields)
    with pytest.raises(InputError, match=message):
        Encoder(**{"variables": {}, "model": SMALL} | fields)


def test_arrays_of_a_mean_and_std_become_numbers(encoder):
    """So that a model remains hashable, and can be written."""
    made = dataclasses.replace(encoder, mean=np.full(3, 0.5, np.float32), std=[0.25, 0.25, 0.25])
    assert made.mean == (0.5, 0.5, 0.5) and made.std == (0.25, 0.25, 0.25)
    assert made.description()["mean"] == [0.5, 0.5, 0.5]
    jax.jit(lambda model: model)(made)


def test_variables_must_fit_the_description(encoder):
    description = encoder.description()
    variables = jax.tree.map(np.asarray, encoder.variables)
    variables["params"]["fc7_linear"]["bias"] = np.zeros(31, np.float32)
    variables["params"]["fc9"] = {"bias": np.zeros(3, np.float32)}
    del variables["batch_stats"]["fc6_norm"]["mean"]
    with pytest.raises(ValueError) as caught:
        build_encoder(variables, description)
    lines = str(caught.value).splitlines()[1:]
    assert [line.strip() for line in lines] == [
        "batch_stats/fc6_norm/mean is missing",
        "params/fc7_linear/bias is float32 [31], expected float32 [32]",
        "params/fc9/bias is not part of the model",
    ]
    with pytest.raises(ValueError, match="doesn't know: 'colour'"):
        build_encoder(jax.tree.map(np.asarray, encoder.variables), description | {"colour": 1})


@pytest.mark.slow
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
    folder = tmp_path / "run"
    claim_folder(folder, config, {})
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


@pytest.mark.slow
def test_loading_what_was_trained_needs_no_torch(encoder, tmp_path):
    save_encoder(encoder, tmp_path / "model.safetensors")
    program = (
        "import sys; from convert import open_encoder; "
        f"open_encoder({str(tmp_path / 'model.safetensors')!r}); open_encoder('ipcl16'); "
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
