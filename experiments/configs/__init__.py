"""Recipes: one file each, with a `config` and a docstring that says what it does and costs.

`load` turns a command line into a config: `--config NAME`, then any field. A file of one's own does
as well: `--config path/to/mine.py`.
"""

import argparse
import dataclasses
import os
import sys
from pathlib import Path

from config_file import read_config
from exit_codes import parse
from ipcl_jax.config import Train
from ipcl_jax.errors import ConfigError, near_miss
from ipcl_jax.files import at_home

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
        ConfigError: if there is no recipe of that name, or the file gives no config.
        SystemExit: on `--help`, or for a field that does not exist (tyro names the near ones).
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config")
    chosen, fields = parser.parse_known_args(arguments)
    listing = "Recipes: " + ", ".join(RECIPES) + "."
    if chosen.config is None:
        if not {"-h", "--help"} & set(fields):
            raise ConfigError(f"No recipe chosen; give --config NAME, or a file of your own. {listing}")
        config, about = Train(name="NAME"), listing
    elif chosen.config in RECIPES:
        config, about = read_config(RECIPES[chosen.config])
    elif chosen.config.endswith(".py") or os.sep in chosen.config:
        config, about = read_config(at_home(chosen.config), RECIPES)
    else:
        raise ConfigError(
            f"No recipe {chosen.config!r}.{near_miss(chosen.config, RECIPES)} "
            "A file of your own is given by its path, such as mine.py."
        )
    given = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return parse(
        schema,
        default=schema(**given),
        args=fields,
        prog=f"{Path(sys.argv[0]).name} --config {chosen.config or config.name}",
        description=f"{description}\n\n{about}",
    )
