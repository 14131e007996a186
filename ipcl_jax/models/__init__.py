"""Networks: linen modules that return the embedding and the layers asked for."""

from ipcl_jax.config import Model
from ipcl_jax.models.alexnet_gn import AlexNetGN

__all__ = ["AlexNetGN", "make_model"]


def make_model(options: Model) -> AlexNetGN:
    """The network of a config."""
    return AlexNetGN(out_dim=options.out_dim, l2norm=options.l2norm, fc_dim=options.fc_dim)
