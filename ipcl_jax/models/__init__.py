"""Networks: linen modules that return the embedding and the layers asked for."""

from ipcl_jax.models.alexnet_gn import AlexNetGN

__all__ = ["AlexNetGN"]
