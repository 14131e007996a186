"""Instance-prototype contrastive learning in JAX and Flax.

Public names are imported on first use, so that `import ipcl_jax` itself is fast.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convert import convert_torch_checkpoint
    from ipcl_jax.activations.encoder import Encoder
    from ipcl_jax.activations.extract import extract
    from ipcl_jax.activations.preprocess import load_canvases, load_stimuli
    from ipcl_jax.activations.serialize import save_encoder
    from ipcl_jax.augment.views import center_views, make_views
    from ipcl_jax.config import Views
    from ipcl_jax.conversion import load_encoder
    from ipcl_jax.models import AlexNetGN, ResNet
    from ipcl_jax.readout.knn import KNNReadout
    from ipcl_jax.readout.linear import LinearReadout
    from ipcl_jax.readout.ridge import RidgeReadout
    from ipcl_jax.readout.rsa import cka, compare_rdms, rdm
    from ipcl_jax.training.objective import init_queue, ipcl_loss, update_queue
    from ipcl_jax.zoo import list_models

__all__ = [
    "AlexNetGN",
    "Encoder",
    "KNNReadout",
    "LinearReadout",
    "ResNet",
    "RidgeReadout",
    "Views",
    "center_views",
    "cka",
    "compare_rdms",
    "convert_torch_checkpoint",
    "extract",
    "init_queue",
    "ipcl_loss",
    "list_models",
    "load_canvases",
    "load_encoder",
    "load_stimuli",
    "make_views",
    "rdm",
    "save_encoder",
    "update_queue",
]

_MODULES = {
    "AlexNetGN": "models",
    "Encoder": "activations.encoder",
    "KNNReadout": "readout.knn",
    "LinearReadout": "readout.linear",
    "ResNet": "models",
    "RidgeReadout": "readout.ridge",
    "Views": "config",
    "center_views": "augment.views",
    "cka": "readout.rsa",
    "compare_rdms": "readout.rsa",
    "extract": "activations.extract",
    "init_queue": "training.objective",
    "ipcl_loss": "training.objective",
    "list_models": "zoo",
    "load_canvases": "activations.preprocess",
    "load_encoder": "conversion",
    "load_stimuli": "activations.preprocess",
    "make_views": "augment.views",
    "rdm": "readout.rsa",
    "save_encoder": "activations.serialize",
    "update_queue": "training.objective",
}


def __getattr__(name: str) -> object:
    """Imports a public name on first use (PEP 562)."""
    if name == "convert_torch_checkpoint":
        from ipcl_jax.conversion import conversion

        value = conversion().convert_torch_checkpoint
    elif name in _MODULES:
        value = getattr(importlib.import_module(f"ipcl_jax.{_MODULES[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
