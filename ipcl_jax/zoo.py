"""A table of the sixteen released models. `convert` makes encoders of their files."""

from dataclasses import dataclass
from types import MappingProxyType

from ipcl_jax.config import IMAGENET_MEAN, IMAGENET_STD, Model

BASE_URL = "https://visionlab-pretrainedmodels.s3.amazonaws.com/project_instancenet/"


@dataclass(frozen=True, kw_only=True)
class Released:
    """A model of the paper's Supplementary Table 1, with the same number."""

    name: str
    """Name as in the reference: `ipcl1` ... `ipcl16`."""
    file: str | None
    """Path below `BASE_URL`; None for the untrained network."""
    sha256: str | None
    """First ten digits of the file's sha256."""
    out_dim: int
    """128 for models trained with IPCL, 1000 for those trained on categories."""
    augmentation: int
    """Augmentation set, 1 or 2; determines mean and std."""
    trained_on: str
    """Training images."""
    notes: str
    """How it differs from the other models."""
    knn: float
    """Published ImageNet top-1 of the kNN read-out of the last layer, in percent."""
    linear: float | None
    """Published ImageNet top-1 of the linear read-out, in percent."""

    @property
    def model(self) -> Model:
        """Config of the network; those trained on categories don't scale their output to unit length."""
        return Model(arch="alexnet_gn", out_dim=self.out_dim, l2norm=self.out_dim == 128)

    @property
    def mean(self) -> tuple[float, float, float]:
        """Subtracted from each channel of [0, 1]."""
        return IMAGENET_MEAN if self.augmentation == 1 else (0.5, 0.5, 0.5)

    @property
    def std(self) -> tuple[float, float, float]:
        """Divides each channel after that."""
        return IMAGENET_STD if self.augmentation == 1 else (0.2, 0.2, 0.2)


_STEM = "ipcl/06_instance_imagenet_AlexNet_n5_lr03_pct40_t07_div1000_e100_bs128_bm20_gn"
_SUPERVISED = "ipcl/alexnet_gn_s1000_imagenet"
_FPO = "faces, places, objects"

# number, file, sha256, out_dim, augmentation set, images, notes, kNN, linear
_TABLE = (
    (1, f"{_STEM}_stack_final", "51bcc71556", 128, 1, "ImageNet", "the paper's primary model", 38.4, 39.5),
    (2, f"{_STEM}_rep2_final", "a4b3151e28", 128, 1, "ImageNet", "primary, new code base", 38.4, 39.7),
    (3, "ipcl/alexnet_gn_dim128_unsupervised_redux_checkpoint", "543e478735", 128, 1, "ImageNet",
     "one-cycle lr and momentum, 73 epochs", 35.4, 35.7),
    (4, "ipcl/alexnet_gn_dim128_unsupervised_ranger_checkpoint", "e8d0736300", 128, 1, "ImageNet",
     "Ranger optimizer, 82 epochs", 37.5, 32.2),
    (5, "ipcl/alexnet_gn_dim128_unsupervised_transforms_checkpoint", "d06507981d", 128, 1, "ImageNet",
     "custom transforms, 82 epochs", 36.9, 38.5),
    (6, "ipcl/alexnet_gn_u128_imagenet_final", "fc6efe7bec", 128, 2, "ImageNet", "milder crops", 35.1, None),
    (7, "ipcl/alexnet_gn_u128_openimagesv6_final", "79a120b915", 128, 2, "OpenImagesV6", "", 33.3, None),
    (8, "ipcl/alexnet_gn_u128_places2_final", "343c15875d", 128, 2, "Places2", "", 30.9, None),
    (9, "ipcl/alexnet_gn_u128_vggface2_lr001_final", "23ef0936c4", 128, 2, "VGGFace2", "", 12.4, None),
    (10, "ipcl/alexnet_gn_u128_FacesPlacesObjects1281167_final", "25e539c255", 128, 2, _FPO,
     "1,281,167 images", 31.6, None),
    (11, "ipcl/alexnet_gn_u128_FacesPlacesObjects1281167x3_final", "af6119b74a", 128, 2, _FPO,
     "three times as many images", 33.9, None),
    (12, f"{_SUPERVISED}_wus_aug_final", "3a41dd57b4", 1000, 1, "ImageNet", "categories, 5 views", 58.8, 55.7),
    (13, "wusnet/alexnet_gn_supervised_final.pth.tar", "1ea33cba82", 1000, 1, "ImageNet",
     "categories, 1 view", 55.5, 54.5),
    (14, f"{_SUPERVISED}_base_aug3_blur0_rot0_w0_d0_std02_final", "f9c1603f16", 1000, 2, "ImageNet",
     "categories", 56.0, None),
    (15, f"{_SUPERVISED}_base_aug3_blur0_rot0_w0_d0_std02_rep1_final", "5b19b17783", 1000, 2, "ImageNet",
     "categories, repeat of 14", 56.0, None),
    (16, None, None, 128, 1, "–", "untrained", 3.5, 7.2),
)  # fmt: skip


def _record(number: int, file: str | None, *facts) -> Released:
    sha256, out_dim, augmentation, trained_on, notes, knn, linear = facts
    if file and not file.endswith(".pth.tar"):
        file += "_weights_only.pth.tar"
    return Released(
        name=f"ipcl{number}", file=file, sha256=sha256, out_dim=out_dim, augmentation=augmentation,
        trained_on=trained_on, notes=notes, knn=knn, linear=linear,
    )  # fmt: skip


MODELS = MappingProxyType({f"ipcl{row[0]}": _record(*row) for row in _TABLE})
"""Released models by name."""


def list_models() -> list[str]:
    """Lists the names of the released models, in the paper's order; `MODELS[name]` has each one's record."""
    return list(MODELS)
