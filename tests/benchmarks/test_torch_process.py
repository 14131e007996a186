"""The torch side of the benchmarks: what happens if torch, or its compiler, fails."""

import os
import shutil
import sys

import numpy as np
import pytest

from ipcl_jax.benchmarks import turns
from ipcl_jax.benchmarks.network import step
from ipcl_jax.benchmarks.readouts import extract
from ipcl_jax.benchmarks.torch_process import Setting, TorchFailed, TorchProcess
from ipcl_jax.errors import ConfigError


def ones(setting: Setting, count: int):
    import torch

    return lambda: torch.ones(count, dtype=torch.bfloat16)


def ones_without_compiler(setting: Setting, count: int):
    if setting.compiled:
        raise RuntimeError("no compiler\nin $PATH")
    return ones(setting, count)


def nothing(setting: Setting):
    raise RuntimeError("out of memory\nat all")


def test_torch_goes_on_without_its_compiler():
    with TorchProcess(Setting(compiled=True), ones_without_compiler, 3) as process:
        assert process.first.dtype == np.float32 and process.first.tolist() == [1, 1, 1]
        assert 0 < process.run(2) < 60
        assert (
            "CPU, 2 threads, float32, eager (torch.compile failed: RuntimeError: no compiler)"
            in process.about
        )


def test_what_torch_can_not_do_is_said_in_a_line():
    with pytest.raises(TorchFailed, match="^torch: RuntimeError: out of memory$"):
        TorchProcess(Setting(), nothing)


def test_torch_is_asked_for_before_anything_is_measured(monkeypatch):
    monkeypatch.setattr(turns, "find_spec", lambda name: None)
    turns.prepare_torch(None)
    with pytest.raises(ConfigError, match="--against torch needs torch"):
        turns.prepare_torch("torch")


def test_two_processes_share_a_card(monkeypatch):
    names = "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"
    monkeypatch.setattr(os, "environ", {})
    turns.prepare_torch(None)
    assert not os.environ
    turns.prepare_torch("torch")
    assert os.environ == {names[0]: "0.5"}
    for name in names:
        monkeypatch.setattr(os, "environ", {name: "0.7"})
        turns.prepare_torch("torch")
        assert os.environ == {name: "0.7"}


@pytest.mark.slow  # torch.compile takes a minute
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_step_in_bfloat16_has_the_same_loss():
    table = step(1, rounds=1, precision="bfloat16", against="torch", compiled=True)
    assert "bfloat16, compiled;" in table.facts["torch"]
    ours, theirs = map(float, table.facts["loss of the first step, ours and theirs"].split(", "))
    assert ours == pytest.approx(theirs, rel=0.05)  # similarities have 8 bits, and are divided by 0.07


@pytest.mark.slow  # torch.compile, and a network of full width
def test_fc7_is_torchs_compiled_or_not():
    table = extract(5, side=230, batch_size=4, rounds=1, against="torch", compiled=True)
    assert table.columns == ("ours", "torch", "torch compiled")
    assert set(table.summary()) == {*table.columns, "ratio", "ratio to torch compiled"}
    assert table.facts["largest difference, share of the largest value"] < 1e-5


@pytest.mark.slow  # a network of full width
def test_extraction_needs_no_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # an import of it fails
    assert extract(2, side=230, batch_size=2, rounds=1).columns == ("ours",)
