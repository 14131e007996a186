"""Recipes: Python files that define a `config`, with a docstring on its data, cost and published score.

`load` reads a config from a command line: `--config NAME` or `--config path/to/mine.py`, then any field.
"""

import argparse
import ast
import contextlib
import dataclasses
import difflib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TypeVar, overload

from ipcl_jax.commands.main import scripts
from ipcl_jax.commands.running import parse
from ipcl_jax.config import Train
from ipcl_jax.errors import ConfigError, InputError, near_miss
from ipcl_jax.system.files import expand_home

RECIPES = {path.stem: path for path in sorted((scripts() / "configs").glob("[a-z]*.py"))}
"""The package's recipes: each file by its name."""

_EXAMPLE = "it needs a line such as config = Train(name='mine', epochs=10)."


def read_config(path: Path, recipes: Iterable[str] = ()) -> tuple[Train, str]:
    """Runs a recipe's file.

    Args:
        path: a Python file.
        recipes: names of recipes, to suggest one in an error message.

    Returns:
        Its config, and its docstring or else its path.

    Raises:
        ConfigError: if it doesn't exist, fails, or defines no valid `config`; names file and line.
    """
    if path.suffix != ".py" or not path.is_file():
        near = difflib.get_close_matches(str(path), [*recipes, *map(str, path.parent.glob("*.py"))], n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{path} is no Python file; --config is one, or the name of a recipe.{hint}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # there is a loader for the suffix .py
    module = importlib.util.module_from_spec(spec)
    try:
        with _recipes_as_package():
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a user's file may raise anything
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == spec.origin]
        line = lines[-1] if lines else getattr(error, "lineno", None) or "?"  # of a SyntaxError
        kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
        raise ConfigError(f"{path}, line {line}: {kind}{error}") from error
    if not hasattr(module, "config"):
        raise ConfigError(f"{path} has no `config`; {_EXAMPLE}")
    config = module.config
    if not isinstance(config, Train):
        found = f"`config` is of type {type(config).__name__}"
        raise ConfigError(f"{path}, line {_line_of_config(path)}: {found}; {_EXAMPLE}")
    return config, module.__doc__ or str(path)


@contextlib.contextmanager
def _recipes_as_package() -> Iterator[None]:
    """Lets a recipe import another one, as `from configs.ipcl_smoke import config`."""

    def imported() -> dict[str, ModuleType]:
        return {name: module for name, module in sys.modules.items() if name.split(".")[0] == "configs"}

    others = imported()  # a package of the user's may have the name
    for name in others:
        del sys.modules[name]
    package = sys.modules["configs"] = ModuleType("configs")
    package.__path__ = [os.fspath(scripts() / "configs")]
    try:
        yield
    finally:
        for name in imported():
            del sys.modules[name]
        sys.modules.update(others)


def _line_of_config(path: Path) -> int | str:
    """Returns the last line that assigns or imports `config`."""
    lines = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        match node:
            case ast.Name(id="config", ctx=ast.Store()) | ast.alias(name="config") | ast.alias(asname="config"):
                lines.append(node.lineno)
    return max(lines, default="?")


Schema = TypeVar("Schema", bound=Train)


@overload
def load(arguments: list[str], description: str) -> Train: ...


@overload
def load(arguments: list[str], description: str, schema: type[Schema]) -> Schema: ...


def load(arguments: list[str], description: str, schema: type[Train] = Train) -> Train:
    """Reads a config from the command line.

    Args:
        arguments: `--config NAME` or `--config FILE.py`, then fields such as `--epochs 2`.
        description: first line of `--help`.
        schema: `Train`, or a subclass with further fields.

    Returns:
        The recipe's config with those fields changed, as a `schema`.

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
        config, about = read_config(expand_home(chosen.config), RECIPES)
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


def published(recipe: str) -> float | None:
    """Returns the published kNN top-1 on ImageNet in a recipe's docstring, a share in [0, 1]; None without one."""
    if recipe not in RECIPES:
        return None
    about = ast.get_docstring(ast.parse(RECIPES[recipe].read_text(encoding="utf-8"))) or ""
    found = re.search(r"^Published: kNN top-1 ([0-9.]+) %", about, re.MULTILINE)
    return float(found[1]) / 100 if found else None
