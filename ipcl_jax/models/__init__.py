"""Networks: linen modules that return the embedding and the layers asked for."""

from ipcl_jax.config import Model
from ipcl_jax.models.alexnet_gn import AlexNetGN
from ipcl_jax.models.resnet import ResNet

__all__ = ["AlexNetGN", "ResNet", "make_model"]


def make_model(options: Model) -> AlexNetGN | ResNet:
    """The network of a config, `images -> embedding, layers`.

    Args:
        options: which one, and its widths; `fc_dim` counts for alexnet_gn only, `norm` for ResNets only.

    Returns:
        The module, without variables.

    Raises:
        InputError: for an architecture or a norm that is not there.
    """
    common = dict(out_dim=options.out_dim, l2norm=options.l2norm)
    if options.arch == "alexnet_gn":
        return AlexNetGN(**common, fc_dim=options.fc_dim)
    return ResNet(**common, arch=options.arch, norm=options.norm)
