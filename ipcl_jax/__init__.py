"""Instance-prototype contrastive learning in JAX and Flax."""

from ipcl_jax.config import Views
from ipcl_jax.models import AlexNetGN, ResNet
from ipcl_jax.objective import init_queue, ipcl_loss, update_queue
from ipcl_jax.views import center_views, make_views

__all__ = [
    "AlexNetGN",
    "ResNet",
    "Views",
    "center_views",
    "init_queue",
    "ipcl_loss",
    "make_views",
    "update_queue",
]
