"""Recipes: one file each, with a `config` and a docstring that says what it does and costs.

`load` turns a command line into a config: `--config NAME`, then any field. A file of one's own does as well:
`--config path/to/mine.py`.
"""

import argparse
import dataclasses
import importlib.util
import sys
import traceback
from pathlib import Path

import tyro

from ipcl_jax.config import ConfigError, Train, near_miss

RECIPES = {path.stem: path for path in sorted(Path(__file__).parent.glob("[a-z]*.py"))}


def load(arguments: list[str], description: str, schema: type[Train] = Train) -> Train:
    """Reads a config from the command line.

    Args:
        arguments: `--config NAME` or `--config FILE.py`, then fields such as `--epochs 2`.
        description: first line of `--help`.
        schema: `Train`, or a subclass with the fields of another script.

    Returns:
        The recipe with those fields changed.

    Raises:
        ConfigError: if there is no recipe of that name, or the file is none.
        SystemExit: on `--help`, or for a field that does not exist (tyro names the near ones).
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config")
    chosen, fields = parser.parse_known_args(arguments)
    listing = "Recipes: " + ", ".join(RECIPES) + "."
    if chosen.config is None:
        if not {"-h", "--help"} & set(fields):
            raise ConfigError(f"No recipe chosen; give --config NAME. {listing}")
        config, about = Train(name="NAME"), listing
    elif chosen.config in RECIPES:
        config, about = _read(RECIPES[chosen.config])
    elif chosen.config.endswith(".py"):
        config, about = _read(Path(chosen.config).expanduser())
    else:
        raise ConfigError(f"No recipe {chosen.config!r}.{near_miss(chosen.config, RECIPES)}")
    given = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return tyro.cli(
        schema,
        default=schema(**given),
        args=fields,
        prog=f"{Path(sys.argv[0]).name} --config {config.name}",
        description=f"{description}\n\n{about}",
    )


def _read(path: Path) -> tuple[Train, str]:
    """A recipe's config and docstring."""
    if not path.is_file():
        raise ConfigError(f"There is no file {path}; --config is the name of a recipe or a .py file with one.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a user's file may do
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else "?"
        raise ConfigError(f"{path}, line {line}: {type(error).__name__}: {error}") from error
    config = getattr(module, "config", None)
    if not isinstance(config, Train):
        found = "has no `config`" if config is None else f"has a `config` of type {type(config).__name__}"
        raise ConfigError(f"{path} {found}; it needs a line such as config = Train(name='mine', epochs=10).")
    return config, module.__doc__ or str(path)
