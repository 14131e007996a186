"""Refuses configs that could not run, before anything long starts."""

from ipcl_jax.config import SMALLEST_IMAGE, Train
from ipcl_jax.errors import ConfigError, near_miss


def validate(config: Train, devices: int = 1) -> None:
    """Refuses a config that could not run, before anything long starts.

    Args:
        config: the run asked for.
        devices: number of accelerators that share each batch.

    Raises:
        ConfigError: naming the field, its value, what is allowed and what to do.
    """
    def positive(name: str, value: float) -> None:
        if value <= 0:
            raise ConfigError(f"--{name} is {value}; it must be greater than zero.")

    positive("epochs", config.epochs)
    positive("batch-size", config.batch_size)
    positive("accumulate", config.accumulate)
    positive("views.per-image", config.views.per_image)
    positive("model.out-dim", config.model.out_dim)
    positive("model.fc-dim", config.model.fc_dim)
    positive("objective.temperature", config.objective.temperature)
    if config.objective.temperature_end is not None:
        positive("objective.temperature-end", config.objective.temperature_end)
    positive("objective.queue-size", config.objective.queue_size)
    positive("optim.lr", config.optim.lr)
    positive("schedule.div-factor", config.schedule.div_factor)
    positive("schedule.final-div-factor", config.schedule.final_div_factor)
    positive("data.threads", config.data.threads)
    positive("checkpoints.minutes", config.checkpoints.minutes)
    positive("checkpoints.keep", config.checkpoints.keep)
    positive("monitor.k", config.monitor.k)
    if config.max_steps is not None:
        positive("max-steps", config.max_steps)
    if config.optim.clip_norm is not None:
        positive("optim.clip-norm", config.optim.clip_norm)
    if config.batch_size % devices:
        above = (config.batch_size // devices + 1) * devices
        near = f"{above - devices} or {above}" if above > devices else f"{above}"
        raise ConfigError(
            f"--batch-size is {config.batch_size}, which {devices} devices can't share evenly; "
            f"take a multiple of {devices}: {near} is nearest."
        )
    if config.objective.name == "categories" and config.model.l2norm:
        raise ConfigError(
            "--objective.name categories compares outputs with classes, which outputs of unit length can hardly "
            "tell apart; give --model.no-l2norm too."
        )
    if config.batch_size * config.views.per_image < 2:
        raise ConfigError(
            "--batch-size 1 with --views.per-image 1 leaves batch norm a single embedding; raise either."
        )
    if config.precision not in (known := ("float32", "bfloat16")):
        raise ConfigError(f"--precision is {config.precision!r}.{near_miss(config.precision, known)}")
    arch = config.model.arch
    if arch not in SMALLEST_IMAGE:
        raise ConfigError(f"--model.arch is {arch!r}.{near_miss(arch, SMALLEST_IMAGE)}")
    if config.views.size < SMALLEST_IMAGE[arch]:
        raise ConfigError(
            f"--views.size is {config.views.size} pixels; {arch} needs at least {SMALLEST_IMAGE[arch]}."
        )
    low, high = config.views.crop_area
    if not 0 < low <= high <= 1:
        raise ConfigError(f"--views.crop-area is {low} {high}; it needs 0 < low <= high <= 1.")
    low, high = config.views.crop_aspect
    if not 0 < low <= high:
        raise ConfigError(f"--views.crop-aspect is {low:g} {high:g}; it needs 0 < low <= high.")
    for name in ("grayscale", "flip", "blur"):
        value = getattr(config.views, name)
        if not 0 <= value <= 1:
            raise ConfigError(f"--views.{name} is {value}; a probability lies in [0, 1].")
    if not 0 <= config.views.hue <= 0.5:
        raise ConfigError(f"--views.hue is {config.views.hue}; it lies in [0, 0.5] of the circle.")
    for name in ("brightness", "contrast", "saturation"):
        value = getattr(config.views, name)
        if not 0 <= value <= 1:
            raise ConfigError(f"--views.{name} is {value}; factors are 1 +- this, so it lies in [0, 1].")
    low, high = config.views.blur_sigma
    largest = config.views.size / 16  # the kernel, four times as wide each way, stays well inside a view
    if not 0 < low <= high <= largest:
        raise ConfigError(
            f"--views.blur-sigma is {low:g} {high:g} pixels; it needs 0 < low <= high <= {largest:g}, "
            "which is --views.size / 16."
        )
    if not 0 <= config.views.rotation <= 180:
        raise ConfigError(f"--views.rotation is {config.views.rotation}; it lies in [0, 180] degrees.")
    if not 0 <= config.views.window <= 1:
        raise ConfigError(
            f"--views.window is {config.views.window}; its edge lies in [0, 1] of half the side."
        )
    if not -1 / 6 <= config.views.distortion <= 1:
        raise ConfigError(
            f"--views.distortion is {config.views.distortion}; it lies in [-1/6, 1], as the corners would "
            "fold over below."
        )
    for name, known in (("hue_space", ("hsv", "yiq")), ("colour_order", ("random", "fixed"))):
        value = getattr(config.views, name)
        if value not in known:
            flag = name.replace("_", "-")
            raise ConfigError(f"--views.{flag} is {value!r}.{near_miss(value, known)}")
    short, long = config.data.canvas
    if not 1 <= short <= long:
        raise ConfigError(f"--data.canvas is {short} {long}; give the short side first, then the long one.")
    if not 0 < config.schedule.pct_start < 1:
        raise ConfigError(f"--schedule.pct-start is {config.schedule.pct_start}; it lies between 0 and 1.")
    if config.schedule.name == "warmup_cosine" and not 0 < config.schedule.warmup_epochs < config.epochs:
        raise ConfigError(
            f"--schedule.warmup-epochs is {config.schedule.warmup_epochs}; with --epochs {config.epochs} it "
            f"lies between 0 and {config.epochs} (--schedule.name cosine has no warm-up)."
        )
    for value in config.schedule.momentum:
        if not 0 <= value < 1:
            raise ConfigError(f"--schedule.momentum holds {value}; momentum lies in [0, 1).")
