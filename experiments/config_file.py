"""A recipe in a Python file: `config = Train(...)` and a docstring that says what it is."""

import ast
import difflib
import importlib.util
import traceback
from collections.abc import Iterable
from pathlib import Path

from ipcl_jax.config import Train
from ipcl_jax.errors import ConfigError, InputError

_EXAMPLE = "it needs a line such as config = Train(name='mine', epochs=10)."


def read_config(path: Path, recipes: Iterable[str] = ()) -> tuple[Train, str]:
    """Runs a config file.

    Args:
        path: a Python file.
        recipes: names that can stand in its place, for the hint of an error.

    Returns:
        Its config, and its docstring or else its path.

    Raises:
        ConfigError: if it isn't there, fails, or gives no sound `config`; names file and line.
    """
    if path.suffix != ".py" or not path.is_file():
        near = difflib.get_close_matches(str(path), [*recipes, *map(str, path.parent.glob("*.py"))], n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{path} is no Python file; --config is one, or the name of a recipe.{hint}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever a user's file may do
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == spec.origin]
        line = lines[-1] if lines else getattr(error, "lineno", None) or "?"  # not even parsed
        kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
        raise ConfigError(f"{path}, line {line}: {kind}{error}") from error
    if not hasattr(module, "config"):
        raise ConfigError(f"{path} has no `config`; {_EXAMPLE}")
    config = module.config
    if not isinstance(config, Train):
        found = f"`config` is of type {type(config).__name__}"
        raise ConfigError(f"{path}, line {_line_of_config(path)}: {found}; {_EXAMPLE}")
    return config, module.__doc__ or str(path)


def _line_of_config(path: Path) -> int | str:
    """Where a file last names its config."""
    lines = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        match node:
            case ast.Name(id="config", ctx=ast.Store()) | ast.alias(name="config") | ast.alias(asname="config"):
                lines.append(node.lineno)
    return max(lines, default="?")
