"""The command `ipcl`: `ipcl NAME ...` runs the script `experiments/NAME.py`."""

import ast
import importlib.util
import sys
from pathlib import Path

import ipcl_jax
from ipcl_jax.errors import near_miss

_HELP = """\
usage: ipcl COMMAND ...

Instance-prototype contrastive learning (IPCL): train networks on images without labels, compute the responses of
the paper's released models or of your own, and compare them with brain data.

{commands}

`ipcl COMMAND --help` lists the options of a command. To begin with:

  ipcl train --config ipcl_smoke                           train a small model on built-in photographs
  ipcl extract ipcl1 my_images/ --layers fc7 --out a.h5    layer fc7 of the paper's primary model for your images
"""
_GROUPS = (
    ("Train a model", ("train", "views", "table", "prepare")),
    ("Use a model", ("extract", "convert")),
    ("Evaluate models, and compare them with brain data", ("knn", "linear", "rsa", "brain", "reproduce", "report")),
    ("Measure speed", ("benchmark",)),
)


def scripts() -> Path:
    """Returns the folder of the scripts: inside the installed package, or beside it in a clone."""
    package = Path(ipcl_jax.__file__).resolve().parent
    installed = package / "experiments"
    return installed if installed.is_dir() else package.parent / "experiments"


def help_page() -> str:
    """Returns the page that `ipcl --help` prints: each command with the first line of its script's docstring."""
    lines: list[str] = []
    for title, names in _GROUPS:
        lines += ["", f"{title}:"] if lines else [f"{title}:"]
        lines += [f"  {name:<10} {_first_line(scripts() / f'{name}.py')}" for name in names]
    return _HELP.format(commands="\n".join(lines))


def _first_line(path: Path) -> str:
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return doc.split("\n")[0]


def run(name: str, *arguments: str) -> int:
    """Runs a command in this process, as `ipcl NAME ...` does; returns its exit code."""
    spec = importlib.util.spec_from_file_location("__main__", scripts() / f"{name}.py")
    assert spec is not None and spec.loader is not None  # there is a loader for the suffix .py
    module = importlib.util.module_from_spec(spec)
    module.__spec__ = None  # as of a script: worker processes then import its file
    before = sys.argv, sys.modules["__main__"]
    sys.argv, sys.modules["__main__"] = [f"ipcl {name}", *arguments], module
    try:
        spec.loader.exec_module(module)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv, sys.modules["__main__"] = before
    return 0


def main() -> int:
    """Runs the command line; returns the exit code."""
    names = [name for _, group in _GROUPS for name in group]
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(help_page(), end="")
        return 0
    if name == "--version":
        from importlib.metadata import version

        print(f"ipcl_jax {version('ipcl_jax')}")
        return 0
    if name not in names:
        print(f"error: No command {name!r}.{near_miss(name, names)}", file=sys.stderr)
        return 2
    return run(name, *sys.argv[2:])
