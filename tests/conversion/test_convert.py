"""PyTorch checkpoints of every form, against a torch twin that computes the same network."""

import functools
import os
import warnings
from collections import OrderedDict
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from command_line import run
from convert import (
    CheckpointError,
    CheckpointWarning,
    convert_torch_checkpoint,
    open_encoder,
    save_torch,
    to_torch_state_dict,
)
from ipcl_jax import Encoder, extract, load_encoder, save_encoder, zoo
from ipcl_jax.config import IMAGENET_MEAN
from ipcl_jax.errors import ConfigError
from thinning import first
from torch_resnet import TorchResNet
from torch_twin import TorchAlexNetGN, all_layers, channel_first, channel_last, shake

SMALL = 32  # width of fc6 and fc7 where only the form of a file counts


def twin(out_dim: int = 128, l2norm: bool = True, fc_dim: int = SMALL, seed: int = 0) -> TorchAlexNetGN:
    """A network with the scales, offsets and statistics of a trained one."""
    torch.manual_seed(seed)
    model = shake(TorchAlexNetGN(out_dim, l2norm, fc_dim), seed=seed + 1).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.num_batches_tracked.fill_(1_000_800)
    return model


@pytest.fixture(scope="module")
def small() -> TorchAlexNetGN:
    return twin()


def same(left: Encoder, right: Encoder) -> bool:
    return left.description() == right.description() and left.digest() == right.digest()


# --- parity --------------------------------------------------------------------------------

# A photograph's statistics: coarse patches, fine noise, normalised range. Both sides sum up to 9,216
# float32 products in different orders, which leaves 1.5e-6 of a layer's largest value at
# worst. A wrong kernel order, epsilon or statistic would show at 1e-3 or more.
CLOSE, FC7_CLOSE = 1e-5, 2e-6


def images(count: int, side: int) -> np.ndarray:
    rng = np.random.default_rng(side + count)
    place = np.arange(side) * 6 // side
    patches = rng.normal(size=(count, 6, 6, 3))[:, place[:, None], place[None]]
    return (patches + 0.3 * rng.normal(size=patches.shape)).clip(-2.1, 2.2).astype(np.float32)


@pytest.mark.parametrize("out_dim, l2norm", first(1, [(128, True), (1000, False)]))
def test_every_layer_of_a_converted_file(out_dim, l2norm, tmp_path):
    model = twin(out_dim, l2norm, fc_dim=4096, seed=out_dim)
    path = tmp_path / "released.pth.tar"
    torch.save({"state_dict": {f"module.{name}": value for name, value in model.state_dict().items()}}, path)
    encoder = convert_torch_checkpoint(path)
    assert (encoder.model.out_dim, encoder.model.l2norm) == (out_dim, l2norm)
    assert len(encoder.layer_names) == (35 if l2norm else 34)
    for count, side in ((2, 224), (1, 192), (3, 320), (1, 224), (7, 224)):
        x = images(count, side)
        expected = all_layers(model, channel_first(x))
        found = extract(encoder, x, encoder.layer_names)
        assert tuple(found) == encoder.layer_names and set(found) == set(expected)
        for name, value in expected.items():
            value = channel_last(value)
            assert found[name].shape == value.shape, name
            error = np.abs(np.asarray(found[name]) - value).max() / np.abs(value).max()
            assert error < (FC7_CLOSE if name == "fc7" else CLOSE), (name, count, side, error)


@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize("arch", first(1, ["resnet18", "resnet50"]))
def test_resnets_are_known_by_their_tensors(arch, norm, tmp_path):
    torch.manual_seed(3)
    model = shake(TorchResNet(arch, norm, out_dim=128 if norm == "group" else 1000), seed=4).eval()
    model.l2norm = model.l2norm if norm == "group" else None
    torch.save({"state_dict": model.state_dict()}, tmp_path / "resnet.pth")
    encoder = convert_torch_checkpoint(tmp_path / "resnet.pth")
    assert (encoder.model.arch, encoder.model.norm) == (arch, norm)
    assert (encoder.model.out_dim, encoder.model.l2norm) == ((128, True) if norm == "group" else (1000, False))
    x = images(2, 96)
    expected = all_layers(model, channel_first(x))
    found = extract(encoder, x, encoder.layer_names)
    assert set(found) == set(expected)
    for name, value in expected.items():
        error = np.abs(np.asarray(found[name]) - channel_last(value)).max() / value.abs().max()
        assert error < CLOSE, (name, error)
    back = to_torch_state_dict(encoder)
    assert back.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(back[name], value), name


# --- forms of files ------------------------------------------------------------------------


def _prefixed(prefix: str, tensors: dict) -> OrderedDict:
    return OrderedDict((prefix + name, value) for name, value in tensors.items())


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensors: tensors,
        lambda tensors: {"state_dict": tensors, "epoch": 100},
        lambda tensors: {"state_dict": _prefixed("module.", tensors), "arch": "alexnet_gn"},
        lambda tensors: {
            "state_dict": _prefixed("base_encoder.", tensors)
            | {"queue": torch.zeros(4096, 128), "Z": torch.ones(1)},
            "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.03}]},
        },
        lambda tensors: {"state_dict": _prefixed("module.base_encoder.module.", tensors)},
        lambda tensors: {name: value for name, value in tensors.items() if "num_batches" not in name},
    ],
    ids=["bare", "state_dict", "module", "base_encoder", "both", "old-torch"],
)
def test_every_form_gives_the_same_arrays(small, wrap, legacy, tmp_path):
    path = tmp_path / "file.pth"
    torch.save(wrap(small.state_dict()), path, _use_new_zipfile_serialization=not legacy)
    encoder = convert_torch_checkpoint(path)
    back = to_torch_state_dict(encoder)
    for name, value in small.state_dict().items():
        if "num_batches" not in name:
            assert torch.equal(back[name], value), name
    assert (encoder.model.fc_dim, encoder.size, encoder.name) == (SMALL, 224, "file")
    assert len(encoder.source) == 64


def test_an_explicit_argument_wins(small, tmp_path):
    path = tmp_path / "file.pth"
    torch.save(twin(out_dim=1000, l2norm=False).state_dict(), path)
    assert not convert_torch_checkpoint(path).model.l2norm
    encoder = convert_torch_checkpoint(path, l2norm=True, mean=(0.5,) * 3, std=(0.2,) * 3)
    assert encoder.model.l2norm and encoder.mean == (0.5,) * 3 and encoder.std == (0.2,) * 3
    with pytest.raises(
        CheckpointError, match="wrong: fc8.0.weight is float32 .1000, 32., expected float32 .10, 32."
    ):
        convert_torch_checkpoint(path, out_dim=10)


def test_a_local_copy_of_a_released_file_is_known_by_its_digits(small, tmp_path, monkeypatch):
    path = tmp_path / "renamed.pth"
    torch.save(small.state_dict(), path)
    digits = convert_torch_checkpoint(path).source[:10]
    record = zoo.MODELS["ipcl9"]
    changed = type(record)(**{**vars(record), "sha256": digits})
    monkeypatch.setattr(zoo, "MODELS", {**zoo.MODELS, "ipcl9": changed})
    monkeypatch.setattr(zoo.Released, "model", property(lambda self: zoo.Model(fc_dim=SMALL)))
    encoder = convert_torch_checkpoint(path)
    assert encoder.name == "ipcl9" and encoder.std == (0.2,) * 3


WRAPPERS = [
    "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "backbone.", "encoder_q.", "encoder.", "net.",
    "model.", "module._orig_mod.backbone.", "model.backbone.net.", "module.encoder_q.module._orig_mod.",
]  # fmt: skip


@pytest.mark.parametrize("key", [None, "state_dict", "model_state_dict", "model", "network"])
@pytest.mark.parametrize("prefix", WRAPPERS)
def test_known_wrappers_are_taken_off_and_it_is_said(prefix, key, small, tmp_path):
    path = tmp_path / "file.pth"
    tensors = _prefixed(prefix, small.state_dict())
    torch.save({key: tensors, "epoch": 3} if key else tensors, path)
    with pytest.warns(CheckpointWarning) as caught:
        encoder = convert_torch_checkpoint(path)
    (said,) = [str(warning.message) for warning in caught]
    assert str(path) in said and all(part in said for part in prefix.split(".")) and "\n" not in said
    assert caught[0].filename == __file__  # the line that asked for the model
    assert torch.equal(to_torch_state_dict(encoder)["fc7.0.weight"], small.state_dict()["fc7.0.weight"])


def test_a_compiled_part_of_a_network(small, tmp_path):
    tensors = {name.replace("fc7.", "fc7._orig_mod."): value for name, value in small.state_dict().items()}
    torch.save(tensors, tmp_path / "file.pth")
    with pytest.warns(CheckpointWarning, match="took off '_orig_mod.'"):
        convert_torch_checkpoint(tmp_path / "file.pth")


@pytest.mark.parametrize("prefix", ["encoder_q.", "module.student.backbone."])
def test_of_two_networks_the_one_that_was_trained_is_taken(prefix, small, tmp_path):
    """A running average, the queue and the projection head belong to the trainer."""
    average = prefix.replace("encoder_q", "encoder_k").replace("student", "teacher")
    tensors = _prefixed(prefix, small.state_dict()) | _prefixed(average, twin(seed=5).state_dict())
    tensors |= {"module.head.weight": torch.ones(2, 2), "queue": torch.ones(3)}
    torch.save({"state_dict": tensors}, tmp_path / "file.pth")
    count = len(small.state_dict()) + 2
    with pytest.warns(CheckpointWarning, match=f"left out {count} tensors beside it .*head, queue"):
        encoder = convert_torch_checkpoint(tmp_path / "file.pth")
    assert torch.equal(to_torch_state_dict(encoder)["fc7.0.weight"], small.state_dict()["fc7.0.weight"])


def test_several_networks_are_asked_about(small, tmp_path):
    path, tensors = tmp_path / "file.pth", small.state_dict()
    torch.save(_prefixed("backbone.", tensors) | _prefixed("model.", tensors), path)
    with pytest.raises(CheckpointError, match="2 networks, under 'backbone.', 'model.'; keep"):
        convert_torch_checkpoint(path)
    torch.save({"model": tensors, "state_dict": {"a": {"model": 1}} | tensors}, path)
    with pytest.raises(CheckpointError, match="2 state_dicts, under 'state_dict', 'model'; save"):
        convert_torch_checkpoint(path)
    torch.save(dict(tensors) | _prefixed("module.", tensors), path)
    with pytest.raises(CheckpointError, match="twice, once inside a wrapper"):
        convert_torch_checkpoint(path)


def test_what_wraps_nothing_that_is_known_is_refused(small, tmp_path):
    torch.save(_prefixed("tower.", small.state_dict()), tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match="another network: tower.conv_block_1"):
        convert_torch_checkpoint(tmp_path / "file.pth")
    torch.save(small.state_dict() | {"head.weight": torch.ones(2)}, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match="unexpected: head.weight"):  # no trainer keeps it there
        convert_torch_checkpoint(tmp_path / "file.pth")


def test_a_dict_that_holds_itself_ends(tmp_path):
    content: dict = {"epoch": 1}
    content["model"] = content
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match="holds no state_dict"):
        convert_torch_checkpoint(tmp_path / "file.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("dtype, word", [("float16", "widened"), ("bfloat16", "widened"), ("float64", "rounded")])
def test_weights_of_other_widths_become_float32(dtype, word, suffix, small, tmp_path):
    path = tmp_path / f"file{suffix}"
    kind = getattr(torch, dtype)
    tensors = {n: v.to(kind) if v.is_floating_point() else v for n, v in small.state_dict().items()}
    {".pth": torch.save, ".safetensors": save_file}[suffix](tensors, path)
    with pytest.warns(CheckpointWarning, match=f"{word} .* tensors of {dtype} to float32"):
        encoder = convert_torch_checkpoint(path)
    for name, value in to_torch_state_dict(encoder).items():
        assert torch.equal(value, tensors[name].to(value.dtype)), name
    tensors["fc8.0.bias"] = torch.full((128,), 1e300, dtype=torch.float64)
    torch.save(tensors, tmp_path / "large.pth")
    with pytest.raises(CheckpointError, match="not finite: 128 of the values of fc8.0.bias"):
        convert_torch_checkpoint(tmp_path / "large.pth")


@pytest.mark.parametrize("prefix", ["", "module.backbone."])
def test_a_state_dict_in_safetensors_opens_everywhere(prefix, small, tmp_path):
    path = tmp_path / "file.safetensors"
    save_file(_prefixed(prefix, small.state_dict()), path, metadata={"format": "pt"})
    torch.save(small.state_dict(), tmp_path / "file.pth")
    expected = convert_torch_checkpoint(tmp_path / "file.pth").digest()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CheckpointWarning)
        for opened in (convert_torch_checkpoint, open_encoder, load_encoder):
            assert opened(path).digest() == expected


def test_the_command_opens_it_too_and_says_in_one_line_what_it_did(small, tmp_path):
    path = tmp_path / "file.safetensors"
    save_file(_prefixed("module.", small.state_dict()), path)
    said = run("convert.py", path, "--to", "orbax", "--out", tmp_path / "out")
    assert f"warning: {path}: took off 'module.'.\n" in said and "models.py" not in said
    with pytest.warns(CheckpointWarning):
        assert load_encoder(tmp_path / "out").digest() == convert_torch_checkpoint(path).digest()


def test_our_own_safetensors_opens_everywhere(small, tmp_path):
    torch.save(small.state_dict(), tmp_path / "file.pth")
    encoder = convert_torch_checkpoint(tmp_path / "file.pth", std=(0.2,) * 3)
    save_encoder(encoder, tmp_path / "ours.safetensors")
    for opened in (convert_torch_checkpoint, open_encoder, load_encoder):
        assert same(opened(tmp_path / "ours.safetensors"), encoder)
    changed = convert_torch_checkpoint(tmp_path / "ours.safetensors", l2norm=False, mean=(0.5,) * 3)
    assert not changed.model.l2norm and changed.mean == (0.5,) * 3


# --- refusals ------------------------------------------------------------------------------


class Payload:
    """Would leave a file behind if it were unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_pickle_that_would_run_code_is_refused_by_name(legacy, tmp_path):
    trace, path = tmp_path / "trace", tmp_path / "evil.pth"
    torch.save({"state_dict": Payload(trace)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match="system would have to be called"):
        convert_torch_checkpoint(path)
    assert not trace.exists()


def test_every_wrong_tensor_is_listed_at_once(small, tmp_path):
    tensors = small.state_dict()
    del tensors["fc7.1.running_var"]
    tensors["fc9.0.weight"] = torch.zeros(2, 3)
    tensors["fc6.0.bias"] = torch.zeros(SMALL - 1)
    tensors["fc7.0.weight"] = tensors["fc7.0.weight"].to(torch.int32)
    tensors["conv_block_2.1.bias"] = torch.full((256,), torch.inf)
    path = tmp_path / "wrong.pth"
    torch.save(tensors, path)
    with pytest.raises(CheckpointError) as caught:
        convert_torch_checkpoint(path)
    assert sorted(caught.value.problems) == [
        "missing: fc7.1.running_var, expected float32 [32]",
        "not finite: 256 of the values of conv_block_2.1.bias",
        "unexpected: fc9.0.weight, float32 [2, 3]",
        "wrong: fc6.0.bias is float32 [31], expected float32 [32]",
        "wrong: fc7.0.weight is int32 [32, 32], expected float32 [32, 32]",
    ]
    assert all(problem in str(caught.value) for problem in caught.value.problems)
    torch.save({name: value.to_sparse() for name, value in tensors.items()}, path)
    with pytest.raises(CheckpointError, match="fc8.0.bias is torch.sparse_coo torch.float32"):
        convert_torch_checkpoint(path)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>Not found</html>", "looks like a web page"),
        (b"PK\x03\x04 cut off", "damaged"),
        ([1, 2], "of type list"),
        ({}, "an empty dict"),
        ({"epoch": 3, "loss": 0.5}, "epoch, loss are no tensors"),
        (
            {"conv1.weight": torch.zeros(64, 3, 7, 7), "bn1.weight": torch.zeros(64)},
            "another network: conv1.weight",
        ),
    ],
    ids=["empty", "html", "cut", "list", "nothing", "no-tensors", "another-network"],
)
def test_files_of_something_else(content, message, tmp_path):
    path = tmp_path / "file.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=message) as caught:
        convert_torch_checkpoint(path)
    assert str(path) in str(caught.value) and "\n\n" not in str(caught.value)


def test_names_that_are_nothing(tmp_path):
    with pytest.raises(ConfigError, match="no released model has that name. Did you mean 'ipcl1"):
        convert_torch_checkpoint("ipcl_1")
    with pytest.raises(ConfigError, match="is a folder"):
        convert_torch_checkpoint(tmp_path)
    with pytest.raises(ConfigError, match="does not exist"):
        load_encoder(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="a folder of something else"):
        open_encoder(tmp_path)


# --- the way back --------------------------------------------------------------------------


def test_round_trips_are_exact(small, tmp_path):
    torch.save(small.state_dict(), tmp_path / "a.pth")
    encoder = convert_torch_checkpoint(tmp_path / "a.pth", std=(0.2,) * 3)
    back = to_torch_state_dict(encoder)
    assert back.keys() == small.state_dict().keys()
    for name, value in small.state_dict().items():
        assert torch.equal(back[name], value) and back[name].dtype == value.dtype, name
    twin(seed=9).load_state_dict(back, strict=True)

    save_torch(encoder, tmp_path / "b.pth")
    again = convert_torch_checkpoint(tmp_path / "b.pth")
    assert again.digest() == encoder.digest() and again.std == (0.2,) * 3
    save_encoder(encoder, tmp_path / "c.safetensors")
    assert same(load_encoder(tmp_path / "c.safetensors"), encoder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pth", "b.pth", "c.safetensors"]


def test_writing_needs_no_second_copy_of_memory_views(small, tmp_path):
    torch.save(small.state_dict(), tmp_path / "a.pth")
    encoder = convert_torch_checkpoint(tmp_path / "a.pth")
    tensors = to_torch_state_dict(encoder)
    before = encoder.digest()
    for tensor in tensors.values():
        tensor.fill_(0)  # what torch does with its tensors must not reach the encoder
    assert encoder.digest() == before


@pytest.mark.slow
def test_the_untrained_model_needs_no_file():
    encoder = convert_torch_checkpoint("ipcl16")
    assert encoder.name == "ipcl16" and encoder.mean == IMAGENET_MEAN and not encoder.source
    kernel = np.asarray(encoder.variables["params"]["fc7_linear"]["kernel"])
    assert (
        abs(kernel).max() <= 4096**-0.5 and abs(kernel.std() * 4096**0.5 - 3**-0.5) < 1e-3
    )  # torch's default
    assert sum(leaf.size for leaf in jax.tree.leaves(encoder.variables["params"])) == 58_823_520


@pytest.mark.slow
def test_a_trained_run_goes_to_torch_and_back(tmp_path):
    folder, file = tmp_path / "run", tmp_path / "run.pth"
    short = "--max-steps 3 --batch-size 8 --views.per-image 2 --monitor.no-baseline --out".split()
    run("train.py", "--config", "ipcl_smoke", *short, folder)
    convert(folder, "--to", "torch", "--out", file)

    trained = load_encoder(folder)
    assert trained.steps == 3 and trained.size == 64 and trained.model.fc_dim == 1024
    torch_model = TorchAlexNetGN(fc_dim=1024).eval()
    torch_model.load_state_dict(torch.load(file, weights_only=True)["state_dict"], strict=True)
    assert torch_model.fc6[1].num_batches_tracked == 3
    x = images(5, 64)
    expected = all_layers(torch_model, channel_first(x))["fc7"].numpy()
    found = np.asarray(extract(trained, x, "fc7")["fc7"])
    assert np.abs(found - expected).max() / np.abs(expected).max() < FC7_CLOSE

    back = convert_torch_checkpoint(file)
    jax.tree.map(np.testing.assert_array_equal, back.variables, trained.variables)
    assert back.description() == trained.description() | {"source": back.source}


# --- the command ---------------------------------------------------------------------------


convert = functools.partial(run, "convert.py")


def test_the_command_writes_each_format(small, tmp_path):
    torch.save(small.state_dict(), tmp_path / "a.pth")
    encoder = convert_torch_checkpoint(tmp_path / "a.pth")
    for to, out in (("torch", "b.pth"), ("safetensors", "b.safetensors"), ("orbax", "b")):
        assert out in convert(tmp_path / "a.pth", "--to", to, "--out", tmp_path / out)
        assert open_encoder(tmp_path / out).digest() == encoder.digest()
    text = convert(tmp_path / "a.pth", "--to", "torch", "--out", tmp_path / "b.pth", code=2)
    assert "is there already" in text and "Traceback" not in text


def test_the_command_lists_the_zoo_and_explains_mistakes(tmp_path):
    text = convert("--list")
    assert all(name in text for name in zoo.MODELS) and "51bcc71556" in text
    assert "--out" in convert("ipcl16", code=2)
    (tmp_path / "file").touch()
    assert "is a file" in convert("ipcl16", "--out", tmp_path / "file" / "a.pth", code=2)
    assert "Did you mean" in convert("ipcl116", "--out", tmp_path / "a.pth", code=2)
