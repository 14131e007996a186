"""Instance-prototype contrastive learning in JAX and Flax."""

from typing import TYPE_CHECKING

from ipcl_jax.config import Views
from ipcl_jax.conversion import conversion
from ipcl_jax.encoder import Encoder, load_encoder, save_encoder
from ipcl_jax.extraction import extract
from ipcl_jax.models import AlexNetGN, ResNet
from ipcl_jax.objective import init_queue, ipcl_loss, update_queue
from ipcl_jax.readout.encoding import RidgeReadout
from ipcl_jax.readout.knn import KNNReadout
from ipcl_jax.readout.linear import LinearReadout
from ipcl_jax.readout.rsa import cka, compare_rdms, rdm
from ipcl_jax.stimuli import load_canvases, load_stimuli
from ipcl_jax.views import center_views, make_views
from ipcl_jax.zoo import list_models

if TYPE_CHECKING:
    from convert import convert_torch_checkpoint

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


def __getattr__(name: str) -> object:
    """Takes `convert_torch_checkpoint` from the package beside this one, which imports this one."""
    if name == "convert_torch_checkpoint":
        return conversion().convert_torch_checkpoint
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
