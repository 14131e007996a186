"""One schema for every run: frozen dataclasses, each field with its unit and meaning.

A recipe is an instance of `Train` in `experiments/configs/`. Derived numbers (the total number of batches, the
momentum of a batch) are computed where they are used and never stored, so no two fields can disagree. Every class
checks its fields on creation, in Python and on the command line: types, choices, ranges and combinations.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

from ipcl_jax.checked_config import Checked
from ipcl_jax.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Pixels a side. For smaller images AlexNet's conv_block_5 would have no pixels; a ResNet's strides multiply to 32.
SMALLEST_IMAGE = {"alexnet_gn": 63, "resnet18": 32, "resnet50": 32}

WIDEST = 2**20
"""Largest number of outputs of a layer."""


@dataclass(frozen=True, kw_only=True)
class Model(Checked):
    """The network that is trained."""

    section = "model."

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

    def _check(self) -> None:
        self._each("out_dim fc_dim", lambda width: 0 < width <= WIDEST, f"it must lie between 1 and {WIDEST}")


@dataclass(frozen=True, kw_only=True)
class Objective(Checked):
    """The loss: instance-prototype contrastive learning, or supervised classification."""

    section = "objective."

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

    def _check(self) -> None:
        self._positive("temperature temperature_end queue_size")


@dataclass(frozen=True, kw_only=True)
class Views(Checked):
    """Augmentation: how several views are made of an image (the default is augmentation set 1)."""

    section = "views."

    per_image: int = 5
    """Views of each image in a batch."""
    size: int = 224
    """Side of a view in pixels."""
    crop_area: tuple[float, float] = (0.2, 1.0)
    """Range of the crop's share of the image's area."""
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of the crop's width / height, drawn log-uniformly."""
    antialias: bool = True
    """Average over all pixels that an output pixel covers; otherwise interpolate between the nearest two."""
    grayscale: float = 0.2
    """Probability that a view is converted to grey."""
    brightness: float = 0.4
    """Brightness factor is uniform in 1 +- this."""
    contrast: float = 0.4
    """Contrast factor is uniform in 1 +- this."""
    saturation: float = 0.4
    """Saturation factor is uniform in 1 +- this."""
    hue: float = 0.4
    """Hue is shifted by a share of the full circle, uniform in +- this."""
    hue_space: Literal["hsv", "yiq"] = "hsv"
    """`hsv` as torchvision; `yiq` rotates the chroma of YIQ, which is cheaper and gives other colours."""
    colour_order: Literal["random", "fixed"] = "random"
    """`random`: an order drawn for every view; `fixed`: brightness, contrast, saturation, hue."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    blur: float = 0.0
    """Probability of a Gaussian blur, after the colour operations; the reference's option uses 0.5."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the blur's standard deviation in pixels of the view, drawn uniformly; up to size / 16."""
    rotation: float = 0.0
    """Largest rotation in degrees, in [0, 180]; the angle is uniform in +- this."""
    window: float = 0.0
    """Width of the soft edge of a circular window that touches the sides, as a share of half the side, in [0, 1];
    outside the window a view is the gray of the mean. 0 for no window."""
    distortion: float = 0.0
    """Radial distortion k, the same for all views, in [-1/6, 1]: the pixel at radius r shows what was at
    r (1 + k r^2), where r = 1 is the middle of a side. k > 0 gives a barrel, k < 0 a pincushion."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Subtracted from each channel of [0, 1]."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Divides each channel after that."""

    def _check(self) -> None:
        self._positive("per_image size")
        self._each("crop_area", lambda ends: 0 < ends[0] <= ends[1] <= 1, "it needs 0 < low <= high <= 1")
        self._each("crop_aspect", lambda ends: 0 < ends[0] <= ends[1], "it needs 0 < low <= high")
        self._each("grayscale flip blur", lambda share: 0 <= share <= 1, "a probability lies in [0, 1]")
        self._each("hue", lambda turn: 0 <= turn <= 0.5, "it lies in [0, 0.5] of the circle")
        self._each(
            "brightness contrast saturation", lambda spread: 0 <= spread <= 1,
            "factors are 1 +- this, so it lies in [0, 1]",
        )  # fmt: skip
        # The kernel extends to 4 sigma on each side, and must be smaller than a view.
        largest = self.size / 16 if self.blur or self.size >= min(SMALLEST_IMAGE.values()) else math.inf
        self._each(
            "blur_sigma", lambda ends: 0 < ends[0] <= ends[1] <= largest,
            f"in pixels, it needs 0 < low <= high <= {largest:g}, which is --views.size / 16",
        )  # fmt: skip
        self._each("rotation", lambda angle: 0 <= angle <= 180, "it lies in [0, 180] degrees")
        self._each("window", lambda edge: 0 <= edge <= 1, "its edge lies in [0, 1] of half the side")
        self._each(
            "distortion", lambda k: -1 / 6 <= k <= 1,
            "it lies in [-1/6, 1], as the corners would fold over below",
        )  # fmt: skip
        self._each("std", lambda channels: min(channels) > 0, "each channel's must be greater than zero")


@dataclass(frozen=True, kw_only=True)
class Data(Checked):
    """The images, and how the host loads them."""

    section = "data."

    source: str = "tfds:imagenet2012"
    """`sample`, `folder:/path`, `array_record:/path` or `tfds:NAME`; or several, as in `folder:/a@1000 + folder:/b@500`."""
    dir: str | None = None
    """TFDS data folder; by default TFDS's own ($TFDS_DATA_DIR or ~/tensorflow_datasets)."""
    canvas: tuple[int, int] = (256, 512)
    """Largest short and long side of an image, in pixels; larger images are shrunk to fit."""
    threads: int = 8
    """Decoding threads (the order of images does not depend on it)."""
    workers: int | Literal["auto"] = "auto"
    """Decoding processes instead of threads; 0 for none. `auto` times both at the start of a long run on a host of
    eight cores or more, and takes the faster."""
    accept_other_images: bool = False
    """Continue a run although its images have changed since it began; the log records the change."""

    def _check(self) -> None:
        self._positive("threads")
        self._each(
            "canvas", lambda sides: 1 <= sides[0] <= sides[1], "give the short side first, then the long one"
        )
        if self.workers != "auto":
            self._each("workers", lambda number: number >= 0, "it must be 0 or more, or auto")


@dataclass(frozen=True, kw_only=True)
class Optim(Checked):
    """The optimizer."""

    section = "optim."

    name: Literal["sgd", "madgrad", "lars", "adamw", "radam_lookahead"] = "sgd"
    """Update rule; formulas in `optim.make_optimizer`. The schedule's momentum is that of SGD,
    LARS and MADGRAD, and beta1 of AdamW and RAdam (as torch's OneCycleLR sets it)."""
    lr: float = 0.03
    """Highest learning rate of the schedule; each rule needs its own."""
    weight_decay: float = 5e-4
    """Multiplies the parameter, and is added to the gradient before momentum; AdamW and RAdam add it to the
    finished step instead."""
    decay_norms: bool = True
    """Weight decay on norms' scales and biases too, not just on parameters of two or more dimensions."""
    clip_norm: float | None = None
    """Largest global norm of the accumulated gradient, which is scaled down to it; None for no clipping."""

    def _check(self) -> None:
        self._positive("lr clip_norm")
        self._each("weight_decay", lambda decay: decay >= 0, "it must not be negative")


@dataclass(frozen=True, kw_only=True)
class Schedule(Checked):
    """Learning rate and momentum as a function of the batch (not of the optimizer step)."""

    section = "schedule."

    name: Literal["one_cycle", "one_cycle_torch", "constant", "cosine", "warmup_cosine"] = "one_cycle"
    """`one_cycle` as in the paper, `one_cycle_torch` as torch's OneCycleLR, `constant`, `cosine`
    from lr to 0, `warmup_cosine` linearly from 0 to lr and then the cosine."""
    pct_start: float = 0.4
    """Share of the run in which the learning rate of a one-cycle rises."""
    div_factor: float = 1000.0
    """A one-cycle starts at lr / div_factor."""
    final_div_factor: float = 1e4
    """It ends at its start / final_div_factor."""
    warmup_epochs: int = 10
    """Epochs of `warmup_cosine` in which the learning rate rises."""
    momentum: tuple[float, float] = (0.85, 0.95)
    """Momentum at the highest and at the lowest learning rate of a one-cycle; the other schedules always use the
    second."""

    def _check(self) -> None:
        self._positive("div_factor final_div_factor")
        self._each("pct_start", lambda share: 0 < share < 1, "it lies between 0 and 1")
        self._each("warmup_epochs", lambda epochs: epochs >= 0, "it must not be negative")
        self._each(
            "momentum", lambda ends: 0 <= min(ends) and max(ends) < 1, "momentum lies in [0, 1)"
        )


@dataclass(frozen=True, kw_only=True)
class Checkpoints(Checked):
    """When checkpoints are saved."""

    section = "checkpoints."

    minutes: float = 20.0
    """Minutes between checkpoints, besides one at the end of every epoch."""
    keep: int = 2
    """Number of newest checkpoints to keep."""

    def _check(self) -> None:
        self._positive("minutes keep")


@dataclass(frozen=True, kw_only=True)
class Monitor(Checked):
    """The kNN read-out after each epoch."""

    section = "monitor."

    k: int = 200
    """Number of neighbours that vote; fewer if a class has fewer training images."""
    baseline: bool = False
    """Also measure the untrained network before training, which takes one epoch of forward passes."""

    def _check(self) -> None:
        self._positive("k")


@dataclass(frozen=True, kw_only=True)
class Hosts(Checked):
    """With --distributed: how the processes connect. Not needed under Slurm and other cluster managers."""

    section = "hosts."

    coordinator: str | None = None
    """HOST:PORT of the first process, for all of them; or $JAX_COORDINATOR_ADDRESS."""
    processes: int | None = None
    """Number of processes; or $JAX_NUM_PROCESSES."""
    process: int | None = None
    """Index of this process, from 0; or $JAX_PROCESS_ID."""
    patience: int = 300
    """Seconds to wait for the others at the start."""

    def _check(self) -> None:
        self._positive("processes patience")
        self._each("process", lambda number: number >= 0, "processes are counted from 0")


@dataclass(frozen=True, kw_only=True)
class Train(Checked):
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
    """Train in several processes, of which this is one."""
    epochs: int = 100
    """Passes over the training images; fixes the length of the schedule."""
    batch_size: int = 128
    """Images in a batch, over all devices."""
    accumulate: int = 20
    """Batches whose gradients are averaged for one step of the optimizer."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the network's convolutions and matrix products. Parameters, norms, similarities, loss, queue and
    optimizer are always float32. GPUs round the operands of float32 products to 10 bits (TF32), as in PyTorch's
    convolutions, unless JAX_DEFAULT_MATMUL_PRECISION=highest is set."""
    seed: int = 0
    """Seed of the weights, the queue, the order of images and their views."""
    max_steps: int | None = None
    """Stop after this many batches; the schedule stays that of all epochs."""
    log_every: int | None = None
    """Batches that a line of metrics summarises; by default as many as keep a run's file under 100,000 lines (25 MB)."""
    profile_steps: int = 0
    """Number of steps to trace, after the first few, into the run's folder `profile`."""
    out: str | None = None
    """Folder of the run; by default runs/NAME."""

    def _check(self) -> None:
        self._positive("epochs batch_size accumulate max_steps log_every")
        self._each("profile_steps", lambda steps: steps >= 0, "it must not be negative")
        _check_warmup(self.schedule, self.epochs)
        if self.objective.name == "categories" and self.model.l2norm:
            raise ConfigError(
                "--objective.name categories compares outputs with classes, which outputs of unit length can "
                "hardly tell apart; give --model.no-l2norm too."
            )
        if self.batch_size * self.views.per_image < 2:
            raise ConfigError(
                "--batch-size 1 with --views.per-image 1 leaves batch norm a single embedding; raise either."
            )
        arch, smallest = self.model.arch, SMALLEST_IMAGE[self.model.arch]
        if self.views.size < smallest:
            raise ConfigError(f"--views.size is {self.views.size} pixels; {arch} needs at least {smallest}.")


def _crop_and_flip() -> Views:
    return Views(
        per_image=1, crop_area=(0.08, 1.0), grayscale=0.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0
    )


@dataclass(frozen=True, kw_only=True)
class LinearProbe(Checked):
    """A linear read-out of a frozen model's layers."""

    name: str = ""
    """The model, as on the command line."""
    weights_sha256: str = ""
    """Its `Encoder.digest()`."""
    layers: tuple[str, ...] = ("fc7",)
    """Layers; each gets its own head, and all share one forward pass of the model."""
    data: Data = field(default_factory=Data)
    """Images with labels."""
    views: Views = field(default_factory=_crop_and_flip)
    """Augmentation of the training images; by default torchvision's random resized crop and a flip. Size, mean
    and std are the model's."""
    transform: Literal["stimulus", "validation"] = "validation"
    """Preprocessing of held-out images: `stimulus` resizes the shorter side to the model's size, `validation` to
    8/7 of it; then the centre is cropped."""
    optim: Optim = field(default_factory=lambda: Optim(lr=30.0, weight_decay=0.0))
    """The optimizer; every head has its own."""
    schedule: Schedule = field(default_factory=lambda: Schedule(pct_start=0.3, div_factor=1e6))
    """Learning rate and momentum of each batch."""
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    """When checkpoints are saved."""
    hosts: Hosts = field(default_factory=Hosts)
    distributed: bool = False
    """Train in several processes, of which this is one."""
    epochs: int = 10
    """Passes over the training images."""
    batch_size: int = 256
    """Images in a batch, over all devices."""
    seed: int = 0
    """Seed of the heads, the order of images and their views."""
    max_steps: int | None = None
    """Stop after this many batches; the schedule stays that of all epochs."""
    log_every: int | None = None
    """Batches that a line of metrics summarises; by default as many as keep a run's file under 100,000 lines (25 MB)."""
    profile_steps: int = 0
    """Number of steps to trace, after the first few, into the read-out's folder `profile`."""
    out: str | None = None
    """Folder of the read-out; by default runs/linear-NAME."""

    def _check(self) -> None:
        self._positive("epochs batch_size max_steps log_every")
        self._each("profile_steps", lambda steps: steps >= 0, "it must not be negative")
        _check_warmup(self.schedule, self.epochs)
        if not self.layers:
            raise ConfigError("--layers is empty; give at least one layer.")


def _check_warmup(schedule: Schedule, epochs: int) -> None:
    warmup = schedule.warmup_epochs
    if schedule.name == "warmup_cosine" and not 0 < warmup < epochs:
        raise ConfigError(
            f"--schedule.warmup-epochs is {warmup}; with --epochs {epochs} it lies between 0 and {epochs} "
            "(--schedule.name cosine has no warm-up)."
        )


def check_divisible(batch_size: int, devices: int) -> None:
    """Raises ConfigError if a batch can't be divided evenly among the devices.

    Args:
        batch_size: images in a batch, over all devices.
        devices: number of devices.

    Raises:
        ConfigError: with the nearest sizes that can.
    """
    if batch_size % devices:
        above = (batch_size // devices + 1) * devices
        near = f"{above - devices} or {above}" if above > devices else f"{above}"
        raise ConfigError(
            f"--batch-size is {batch_size}, which {devices} devices can't share evenly; "
            f"take a multiple of {devices}: {near} is nearest."
        )
