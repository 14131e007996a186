"""Recipes: one file each, with a `config` and a docstring that says what it does and costs.

`load` turns a command line into a config: `--config NAME`, then any field.
"""

import argparse
import dataclasses
import importlib.util
import sys
from pathlib import Path

import tyro

from ipcl_jax.config import ConfigError, Train, near_miss

RECIPES = {path.stem: path for path in sorted(Path(__file__).parent.glob("[a-z]*.py"))}


def load(arguments: list[str], description: str, schema: type[Train] = Train) -> Train:
    """Reads a config from the command line.

    Args:
        arguments: `--config NAME`, then fields such as `--epochs 2 --optim.lr 0.01`.
        description: first line of `--help`.
        schema: `Train`, or a subclass with the fields of another script.

    Returns:
        The recipe with those fields changed.

    Raises:
        ConfigError: if there is no recipe of that name.
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
    elif chosen.config not in RECIPES:
        raise ConfigError(f"No recipe {chosen.config!r}.{near_miss(chosen.config, RECIPES)}")
    else:
        config, about = _read(RECIPES[chosen.config])
    given = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return tyro.cli(
        schema,
        default=schema(**given),
        args=fields,
        prog=f"{Path(sys.argv[0]).name} --config {config.name}",
        description=f"{description}\n\n{about}",
    )


def _read(path: Path) -> tuple[Train, str]:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.config, module.__doc__
