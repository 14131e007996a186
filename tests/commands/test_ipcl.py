"""The command `ipcl`, which runs the scripts of `experiments`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from command_line import SCRIPTS
from ipcl_jax.commands import main as ipcl
from ipcl_jax.commands.running import command_line


def call(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/ipcl", *arguments])
    return ipcl.main()


def test_help_has_every_script_with_the_first_line_of_its_docstring(monkeypatch, capsys):
    assert call(monkeypatch) == call(monkeypatch, "--help") == 0
    said = capsys.readouterr().out
    for path in SCRIPTS.glob("*.py"):
        first = path.read_text().split("\n")[0].removeprefix('"""').removesuffix('"""')
        assert re.search(rf"^  {path.stem} +{re.escape(first)}$", said, re.MULTILINE), path
    assert max(map(len, said.splitlines())) <= 120


def test_a_command_runs_as_its_script_does(monkeypatch, capsys):
    assert call(monkeypatch, "convert", "--list") == 0
    assert "Released models" in capsys.readouterr().out
    assert call(monkeypatch, "convert", "nothing", "--out", "x.pth") == 2
    assert "nothing" in capsys.readouterr().err
    assert sys.argv == ["/somewhere/bin/ipcl", "convert", "nothing", "--out", "x.pth"]
    with_config = call(monkeypatch, "train", "--config", "ipcl_smok")
    assert with_config == 2 and "Did you mean 'ipcl_smoke'" in capsys.readouterr().err


def test_an_unknown_command_and_the_version(monkeypatch, capsys):
    assert call(monkeypatch, "trian") == 2
    assert "No command 'trian'. Did you mean 'train'?" in capsys.readouterr().err
    assert call(monkeypatch, "--version") == 0
    assert re.fullmatch(r"ipcl_jax \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_the_command_line_that_is_said_can_be_given_again(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ipcl train", "--out", "my run"])
    assert command_line() == "ipcl train --out 'my run'"
    monkeypatch.setattr(sys, "argv", ["experiments/train.py", "--out", "run"])
    assert command_line() == "python experiments/train.py --out run"


def test_scripts_are_found_in_an_installed_package(monkeypatch, tmp_path):
    package = tmp_path / "ipcl_jax"
    package.mkdir()
    monkeypatch.setattr(ipcl.ipcl_jax, "__file__", str(package / "__init__.py"))
    assert ipcl.scripts() == tmp_path / "experiments"
    (package / "experiments").mkdir()
    assert ipcl.scripts() == package / "experiments"


BARE = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {missing}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in {missing} else find(name, *rest)
from ipcl_jax.commands.main import run
sys.exit(run({arguments}))
"""


@pytest.mark.parametrize(
    ("missing", "arguments", "expected"),
    [
        (
            {"matplotlib", "tensorboardX"}, ("train", "--config", "ipcl_smoke"),
            "needs matplotlib and tensorboardX, which are not installed: pip install 'ipcl_jax[train]'",
        ),
        (
            {"tensorflow_datasets"}, ("train", "--config", "ipcl_smoke", "--data.source", "tfds:mnist"),
            "needs tensorflow_datasets, which is not installed: pip install 'ipcl_jax[train]'",
        ),
        (
            {"skimage"}, ("train", "--config", "ipcl_smoke"),
            "scikit-image and scikit-learn, and skimage is not installed: pip install 'ipcl_jax[demo]'",
        ),
        ({"matplotlib", "tensorboardX", "tensorflow_datasets", "skimage", "sklearn", "torch"}, ("convert", "--list"), ""),
    ],
)  # fmt: skip
def test_what_an_extra_brings_is_said_in_one_line_where_it_is_missing(missing, arguments, expected, tmp_path):
    program = BARE.format(missing=missing, arguments=", ".join(map(repr, arguments)))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=120,
        env=os.environ | {"PYTHONPATH": str(Path(ipcl.__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == (2 if expected else 0), done.stderr
    assert expected in done.stderr and len(done.stderr.splitlines()) == bool(expected)
    assert list(tmp_path.iterdir()) == []
