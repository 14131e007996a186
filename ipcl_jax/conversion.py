"""Imports the package `convert`, which is installed beside this one."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from ipcl_jax.activations.encoder import Encoder
from ipcl_jax.activations.serialize import is_encoder, read_encoder
from ipcl_jax.system.files import expand_home

_CONVERT = Path(__file__).resolve().parent.parent / "convert" / "__init__.py"
_OTHER_NAME = "ipcl_jax_convert"  # used where another module is called convert


def conversion() -> ModuleType:
    """Imports the package `convert` on first use, since it imports this package itself.

    A user's own `convert.py` beside a script or notebook would be found by `import convert`. The package is then
    loaded from its path, under another name.

    Raises:
        ModuleNotFoundError: if this package was copied without `convert`.
    """
    taken = sys.modules.get("convert")
    found = getattr(taken, "__spec__", None) if taken else importlib.util.find_spec("convert")
    if found and found.origin and Path(found.origin).resolve() == _CONVERT:
        return importlib.import_module("convert")
    if _OTHER_NAME not in sys.modules:
        spec = None
        if _CONVERT.is_file():
            spec = importlib.util.spec_from_file_location(
                _OTHER_NAME, _CONVERT, submodule_search_locations=[str(_CONVERT.parent)]
            )
        if spec is None or spec.loader is None:
            raise ModuleNotFoundError(
                f"The package convert is not beside ipcl_jax, at {_CONVERT}.", name="convert"
            )
        module = sys.modules[_OTHER_NAME] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[_OTHER_NAME]
            raise
    return sys.modules[_OTHER_NAME]


def load_encoder(path: str | Path) -> Encoder:
    """Loads a model that this package wrote, or a safetensors file of another origin.

    Args:
        path: the folder of a run (its newest checkpoint is loaded), a safetensors file written by
            `save_encoder`, or a folder written by `experiments/convert.py --to orbax`. Any other safetensors file is
            read by `convert_torch_checkpoint`.

    Returns:
        The encoder; its variables are bitwise those on disk.

    Raises:
        ConfigError: if there is no such model, or it is incomplete or damaged.
        OSError: if the disk can't be read.
    """
    path = expand_home(path)
    if path.is_file() and not is_encoder(path):
        return conversion().convert_torch_checkpoint(path)
    return read_encoder(path)


def open_encoder(model: str) -> Encoder:
    """Opens a model by a released model's name, a file or a run's folder; see `convert.open_encoder`."""
    return conversion().open_encoder(model)
