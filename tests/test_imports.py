"""What importing the package takes, and which of its folders may import which."""

import configparser
import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

import ipcl_jax
from thinning import first

PROGRAM = """
import importlib, pkgutil, sys
import ipcl_jax

names = [module.name for module in pkgutil.walk_packages(ipcl_jax.__path__, "ipcl_jax.")]
names = [name for name in names if "experiments" not in name]  # scripts, not modules
for name in names:
    importlib.import_module(name)
heavy = [name for name in ("torch", "torchvision", "tensorflow") if name in sys.modules]
print(*names)
sys.exit(f"imported {heavy}" if heavy else 0)
"""


def test_no_other_framework_is_imported():
    # A process of its own: in this one, other tests have imported torch.
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    names = done.stdout.split()
    expected = {"ipcl_jax.config", "ipcl_jax.models.alexnet_gn", "ipcl_jax.training.objective", "ipcl_jax.training"}
    assert expected <= set(names)  # the walk really reached the modules


def test_importing_the_package_loads_nothing_until_it_is_needed():
    program = """
import sys, time
begun = time.perf_counter()
import ipcl_jax
seconds = time.perf_counter() - begun
heavy = [name for name in ("jax", "flax", "orbax", "grain", "h5py", "torch") if name in sys.modules]
assert not heavy, heavy
assert seconds < 0.3, seconds
assert set(ipcl_jax.__all__) <= set(dir(ipcl_jax))
for name in ipcl_jax.__all__:
    getattr(ipcl_jax, name)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_folders_import_only_what_is_below_them(monkeypatch):
    """Their order is written in setup.cfg."""
    monkeypatch.chdir(Path(__file__).parents[1])
    assert lint_imports(config_filename="setup.cfg", no_cache=True, no_logo=True) == 0


LAZY = """
import sys
{before}
import ipcl_jax
assert not [name for name in sys.modules if name.startswith(("convert.", "ipcl_jax_convert"))]
from ipcl_jax import convert_torch_checkpoint
assert convert_torch_checkpoint is ipcl_jax.convert_torch_checkpoint
assert "torch" not in sys.modules
assert "convert_torch_checkpoint" in ipcl_jax.__all__
try:
    convert_torch_checkpoint("ipcl_1")
except ipcl_jax.errors.ConfigError as error:
    print(error)
import convert
print(getattr(convert, "WHOSE", "ours"), convert_torch_checkpoint.__module__)
assert getattr(convert, "convert_torch_checkpoint", convert_torch_checkpoint) is convert_torch_checkpoint
"""


@pytest.mark.parametrize("before", first(1, ["import convert", ""]))
@pytest.mark.parametrize("decoy", first(1, ["convert.py", "convert/__init__.py", None]))
def test_a_users_own_convert_beside_a_notebook(decoy, before, tmp_path):
    """The working folder is first on the path of a notebook, as that of a script is."""
    if decoy:
        (tmp_path / decoy).parent.mkdir(exist_ok=True)
        (tmp_path / decoy).write_text("WHOSE = 'theirs'")
    program = LAZY.format(before=before)
    if before and not decoy:
        program = program.replace('"convert.", "ipcl', '"ipcl')
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "Did you mean 'ipcl1'" in done.stdout
    name = "ipcl_jax_convert.models" if decoy else "convert.models"
    assert done.stdout.splitlines()[-1] == f"{'theirs' if decoy else 'ours'} {name}"


def test_a_name_that_the_package_lacks():
    with pytest.raises(AttributeError, match="module 'ipcl_jax' has no attribute 'convert_torch'"):
        ipcl_jax.convert_torch  # noqa: B018


def test_every_folder_is_in_the_wheel():
    settings = configparser.ConfigParser()
    settings.read(Path(__file__).parents[1] / "setup.cfg")
    listed = set(settings["options"]["packages"].split())
    root = Path(ipcl_jax.__file__).parents[1]
    folders = {".".join(path.parent.relative_to(root).parts) for path in root.glob("ipcl_jax/**/__init__.py")}
    assert listed == folders | {"convert", "ipcl_jax.experiments", "ipcl_jax.experiments.configs"}
