"""The package `convert`, which lies beside this one, whatever else goes by that name."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipcl_jax.activations.encoder import Encoder

_HOME = Path(__file__).resolve().parent.parent / "convert" / "__init__.py"
_OTHER_NAME = "ipcl_jax_convert"  # where a user's own convert.py has the name


def conversion() -> ModuleType:
    """Imports the package `convert` when it is first asked for, since it imports this one.

    A user's `convert.py` beside a script or notebook hides it from `import convert`. Then it goes by another name.

    Raises:
        ModuleNotFoundError: if this package was copied without it.
    """
    taken = sys.modules.get("convert")
    found = getattr(taken, "__spec__", None) if taken else importlib.util.find_spec("convert")
    if found and found.origin and Path(found.origin).resolve() == _HOME:
        return importlib.import_module("convert")
    if _OTHER_NAME not in sys.modules:
        spec = None
        if _HOME.is_file():
            spec = importlib.util.spec_from_file_location(
                _OTHER_NAME, _HOME, submodule_search_locations=[str(_HOME.parent)]
            )
        if spec is None or spec.loader is None:
            raise ModuleNotFoundError(
                f"The package convert is not beside ipcl_jax, at {_HOME}.", name="convert"
            )
        module = sys.modules[_OTHER_NAME] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[_OTHER_NAME]
            raise
    return sys.modules[_OTHER_NAME]


def open_encoder(model: str) -> "Encoder":
    """Opens a model by a released model's name, a file or a run's folder; see `convert.open_encoder`."""
    return conversion().open_encoder(model)
