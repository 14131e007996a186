"""Networks: linen modules that return the embedding and requested layers."""

from ipcl_jax.config import Model
from ipcl_jax.models.alexnet_gn import AlexNetGN
from ipcl_jax.models.resnet import ResNet

__all__ = ["AlexNetGN", "ResNet", "make_model"]


def make_model(options: Model) -> AlexNetGN | ResNet:
    """Makes the network of a config, `images -> embedding, layers`.

    Args:
        options: architecture and widths; `fc_dim` is used by alexnet_gn only, `norm` by ResNets only.

    Returns:
        The module, without variables.

    Raises:
        InputError: for an unknown architecture or norm.
    """
    if options.arch == "alexnet_gn":
        return AlexNetGN(out_dim=options.out_dim, l2norm=options.l2norm, fc_dim=options.fc_dim)
    return ResNet(out_dim=options.out_dim, l2norm=options.l2norm, arch=options.arch, norm=options.norm)
