"""One schema for every run: frozen dataclasses, each field with its unit and meaning.

A recipe is an instance of `Train` in `experiments/configs/`. Derived numbers
(batches in all, momentum of a batch) are computed where they are used, never
stored, so two fields can't disagree. `validation` refuses what can't run.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Pixels a side. Below, AlexNet's conv_block_5 would be smaller than 1x1, and the strides of a ResNet,
# 32 in all, longer than the image.
SMALLEST_IMAGE = {"alexnet_gn": 63, "resnet18": 32, "resnet50": 32}


@dataclass(frozen=True, kw_only=True)
class Model:
    """The network that is trained."""

    arch: Literal["alexnet_gn", "resnet18", "resnet50"] = "alexnet_gn"
    """Backbone."""
    out_dim: int = 128
    """Width of the embedding (fc8; a ResNet's fc)."""
    fc_dim: int = 4096
    """Width of alexnet_gn's fc6 and fc7; the paper's is 4096."""
    norm: Literal["group", "batch"] = "group"
    """Normalisation of a ResNet; alexnet_gn has its own."""
    l2norm: bool = True
    """Scale embeddings to unit length."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What is learned: instance-prototype contrastive learning, or (the supervised twin) categories."""

    name: Literal["ipcl", "categories"] = "ipcl"
    """`ipcl` needs no labels; `categories` is softmax cross-entropy of every view with its image's
    class, and uses none of the fields below."""
    temperature: float = 0.07
    """Divides every similarity before the exponential (and in the votes of the kNN read-out)."""
    temperature_end: float | None = None
    """Temperature that the loss reaches by a half cosine over the run; None keeps `temperature`.
    Z is fixed at the first step, and so at `temperature`."""
    queue_size: int = 4096
    """Number K of negatives: embeddings of the most recent views."""
    norm_prototype: bool = False
    """Scale prototypes to unit length before they are compared."""
    store_prototype: bool = False
    """Put each image's prototype in the queue instead of its views."""


@dataclass(frozen=True, kw_only=True)
class Views:
    """How one image becomes several views (the default is augmentation set 1)."""

    per_image: int = 5
    """Views of each image in a batch."""
    size: int = 224
    """Side of a view in pixels."""
    crop_area: tuple[float, float] = (0.2, 1.0)
    """Range of the crop's share of the image's area."""
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of the crop's width / height, drawn log-uniformly."""
    antialias: bool = True
    """Average over all pixels that a crop's pixel covers; without, only between the nearest two each way."""
    grayscale: float = 0.2
    """Probability that a view loses its colour."""
    brightness: float = 0.4
    """Brightness factor is uniform in 1 +- this."""
    contrast: float = 0.4
    """Contrast factor is uniform in 1 +- this."""
    saturation: float = 0.4
    """Saturation factor is uniform in 1 +- this."""
    hue: float = 0.4
    """Hue turns by a uniform share of the full circle in +- this."""
    hue_space: Literal["hsv", "yiq"] = "hsv"
    """`hsv` as torchvision; `yiq` rotates the chroma of YIQ, which is cheaper and turns colours otherwise."""
    colour_order: Literal["random", "fixed"] = "random"
    """`random`: drawn for every view; `fixed`: brightness, contrast, saturation, hue."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    blur: float = 0.0
    """Probability of a Gaussian blur, after the colour operations; the reference's option uses 0.5."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the blur's standard deviation in pixels of the view, drawn uniformly; up to size / 16."""
    rotation: float = 0.0
    """Largest rotation in degrees, in [0, 180]; the angle is uniform in +- this."""
    window: float = 0.0
    """Soft edge of a circular window that touches the sides, as a share of half the side, in [0, 1]: there
    a view fades to the gray of the mean; 0 for no window."""
    distortion: float = 0.0
    """Radial distortion k, the same for all views, in [-1/6, 1]: at r shows what was at r (1 + k r^2), where
    r = 1 is the middle of a side. Above 0 the corners are drawn in (barrel), below 0 magnified (pincushion)."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Subtracted from each channel of [0, 1]."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Divides each channel after that."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where images come from and how the host prepares them."""

    source: str = "tfds:imagenet2012"
    """`sample`, `folder:/path` or `tfds:NAME`; or several, as in `folder:/a@1000 + folder:/b@500`."""
    dir: str | None = None
    """TFDS data folder; by default TFDS's own ($TFDS_DATA_DIR or ~/tensorflow_datasets)."""
    canvas: tuple[int, int] = (256, 512)
    """Largest short and long side kept of an image, in pixels; larger images are shrunk."""
    threads: int = 8
    """Decoding threads (the order of images does not depend on it)."""
    workers: int | Literal["auto"] = 0
    """Decoding processes instead of threads, for hosts with many cores; 0 for none, `auto` for whichever is
    faster in a few seconds' trial."""


@dataclass(frozen=True, kw_only=True)
class Optim:
    """The optimizer."""

    name: Literal["sgd", "madgrad", "lars", "adamw", "radam_lookahead"] = "sgd"
    """Rule of descent; formulas in `optim.make_optimizer`. The schedule's momentum is that of SGD,
    LARS and MADGRAD, and beta1 of AdamW and RAdam (as torch's OneCycleLR sets it)."""
    lr: float = 0.03
    """Highest learning rate of the schedule; each rule needs its own."""
    weight_decay: float = 5e-4
    """Times the parameter, added to the gradient before momentum; AdamW and RAdam add it to the
    finished step instead."""
    decay_norms: bool = True
    """Weight decay on norms' scales and biases too, not just on parameters of two or more dimensions."""
    clip_norm: float | None = None
    """Largest global norm of the accumulated gradient; None leaves it alone."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Learning rate and momentum as a function of the batch (not of the optimizer step)."""

    name: Literal["one_cycle", "one_cycle_torch", "constant", "cosine", "warmup_cosine"] = "one_cycle"
    """`one_cycle` as in the paper, `one_cycle_torch` as torch's OneCycleLR, `constant`, `cosine`
    from lr to 0, `warmup_cosine` from 0 to lr in a line and then the cosine."""
    pct_start: float = 0.4
    """Share of the run in which the learning rate of a one-cycle rises."""
    div_factor: float = 1000.0
    """A one-cycle starts at lr / div_factor."""
    final_div_factor: float = 1e4
    """It ends at its start / final_div_factor."""
    warmup_epochs: int = 10
    """Epochs of `warmup_cosine` in which the learning rate rises."""
    momentum: tuple[float, float] = (0.85, 0.95)
    """Momentum at the highest and at the lowest learning rate of a one-cycle (the others: always
    the latter)."""


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """When the whole state is saved."""

    minutes: float = 20.0
    """Save this often besides at the end of every epoch."""
    keep: int = 2
    """Newest checkpoints kept."""


@dataclass(frozen=True, kw_only=True)
class Monitor:
    """What is measured after each epoch."""

    k: int = 200
    """Neighbours that vote (fewer where a class has fewer training images)."""
    baseline: bool = False
    """Measure the untrained network first: one epoch of views, forward only."""


@dataclass(frozen=True, kw_only=True)
class Hosts:
    """With --distributed: where the processes meet. Slurm and its like need none of it."""

    coordinator: str | None = None
    """HOST:PORT of the first process, for all of them; or $JAX_COORDINATOR_ADDRESS."""
    processes: int | None = None
    """How many there are; or $JAX_NUM_PROCESSES."""
    process: int | None = None
    """Which one this is, from 0; or $JAX_PROCESS_ID."""
    patience: int = 300
    """Seconds to wait for the others at the start."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """A training run."""

    name: str
    """Name of the recipe."""
    model: Model = field(default_factory=Model)
    objective: Objective = field(default_factory=Objective)
    views: Views = field(default_factory=Views)
    data: Data = field(default_factory=Data)
    optim: Optim = field(default_factory=Optim)
    schedule: Schedule = field(default_factory=Schedule)
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    monitor: Monitor = field(default_factory=Monitor)
    hosts: Hosts = field(default_factory=Hosts)
    distributed: bool = False
    """One of several processes that train together."""
    epochs: int = 100
    """Passes over the training images; fixes the length of the schedule."""
    batch_size: int = 128
    """Images in a batch, over all devices."""
    accumulate: int = 20
    """Batches whose gradients are summed before the optimizer moves."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the network's convolutions and products. Parameters, norms, similarities, loss, queue and optimizer
    are float32 either way. GPUs round the operands of float32 products to 10 bits (TF32), as in PyTorch's
    convolutions; JAX_DEFAULT_MATMUL_PRECISION=highest keeps all."""
    seed: int = 0
    """Seed of the weights, the queue, the order of images and their views."""
    max_steps: int | None = None
    """Stop after this many batches; the schedule stays that of all epochs."""
    profile_steps: int = 0
    """Trace so many steps, after the first few, into the run's folder `profile`."""
    out: str | None = None
    """Folder of the run; by default runs/NAME."""


def _crop_and_flip() -> Views:
    colour = dict.fromkeys(("grayscale", "brightness", "contrast", "saturation", "hue"), 0.0)
    return Views(per_image=1, crop_area=(0.08, 1.0), **colour)


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """A linear read-out of a frozen model's layers."""

    name: str = ""
    """The model, as on the command line."""
    weights_sha256: str = ""
    """Its `Encoder.digest()`."""
    layers: tuple[str, ...] = ("fc7",)
    """Layers, each with a head of its own; the model is computed once for all of them."""
    data: Data = field(default_factory=Data)
    """Images with labels."""
    views: Views = field(default_factory=_crop_and_flip)
    """What heads are trained on; the default is torchvision's random resized crop, and a flip. Size, mean
    and std are the model's."""
    transform: Literal["stimulus", "validation"] = "validation"
    """Of held-out images: shorter side to the model's size, or (validation) to 8/7 of it, before the centre
    is cut out."""
    optim: Optim = field(default_factory=lambda: Optim(lr=30.0, weight_decay=0.0))
    """The optimizer; every head has one of its own."""
    schedule: Schedule = field(default_factory=lambda: Schedule(pct_start=0.3, div_factor=1e6))
    """Learning rate and momentum by batch."""
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    """When the state is saved."""
    epochs: int = 10
    """Passes over the training images."""
    batch_size: int = 256
    """Images in a batch, over all devices."""
    seed: int = 0
    """Seed of the heads, the order of images and their views."""
    max_steps: int | None = None
    """Stop after this many batches; the schedule stays that of all epochs."""
    out: str | None = None
    """Folder of the read-out; by default runs/linear-NAME."""


def to_json(config: Train | LinearProbe) -> str:
    """The whole config as JSON text, the same for equal configs."""
    return json.dumps(dataclasses.asdict(config), indent=2)


# Fields that change where, when or how fast a run goes, but not what it computes.
_CIRCUMSTANCE = (
    "out", "max_steps", "profile_steps", "checkpoints", "distributed", "hosts",
    "data.dir", "data.threads", "data.workers",
)  # fmt: skip


def differences(config: Train | LinearProbe, stored: dict) -> list[str]:
    """Fields in which a config departs from one read back from JSON.

    Fields that can't change the result (threads, folders, when to stop) don't count. A field that the
    earlier run's version did not have yet stands at its default, which is what that version did.

    Args:
        config: the config asked for.
        stored: what `json.loads` gives for the config of an earlier run.

    Returns:
        Lines such as `optim.lr: 0.03 there, 0.01 here`; empty if the runs are the same.
    """
    here, defaults = (_flatten(json.loads(to_json(c))) for c in (config, type(config)(name="")))
    return [
        line
        for name, line in unlike(defaults | _flatten(stored), here).items()
        if not any(name == c or name.startswith(c + ".") for c in _CIRCUMSTANCE)
    ]


def unlike(there: Mapping[str, object], here: Mapping[str, object]) -> dict[str, str]:
    """Fields that two requests have not in common: a line for each, such as `lr: 0.03 there, 0.01 here`."""
    return {
        name: f"{name}: {there.get(name, 'not set')} there, {here.get(name, 'not set')} here"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    }


def _flatten(tree: dict, prefix: str = "") -> dict:
    flat: dict[str, object] = {}
    for name, value in tree.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
