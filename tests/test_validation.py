"""Every config that can't run, and what is said of it."""

import dataclasses

import pytest

from ipcl_jax.config import Train
from ipcl_jax.errors import ConfigError
from ipcl_jax.validation import validate

REFUSED = {
    "--epochs is 0; it must be greater than zero": {"epochs": 0},
    "--optim.lr is -1": {"optim.lr": -1.0},
    "--optim.clip-norm is 0": {"optim.clip_norm": 0.0},
    "--max-steps is 0": {"max_steps": 0},
    "--objective.temperature-end is 0": {"objective.temperature_end": 0.0},
    "which 4 devices can't share evenly; take a multiple of 4: 4 is nearest": {"batch_size": 3},
    "4 or 8 is nearest": {"batch_size": 7},
    "give --model.no-l2norm too": {"objective.name": "categories"},
    "leaves batch norm a single embedding": {"batch_size": 4, "views.per_image": 1, "devices": 1},
    "--precision is 'bfloat61'. Did you mean 'bfloat16'": {"precision": "bfloat61"},
    "--model.arch is 'alexnet'. Did you mean 'alexnet_gn'": {"model.arch": "alexnet"},
    "--views.size is 62 pixels; alexnet_gn needs at least 63": {"views.size": 62},
    "--views.crop-area is 0 1": {"views.crop_area": (0, 1)},
    "--views.crop-area is 0.5 1.5": {"views.crop_area": (0.5, 1.5)},
    "--views.crop-aspect is 2 1": {"views.crop_aspect": (2, 1)},
    "--views.grayscale is 1.5; a probability": {"views.grayscale": 1.5},
    "--views.flip is -0.1; a probability": {"views.flip": -0.1},
    "--views.hue is 0.6": {"views.hue": 0.6},
    "--views.contrast is 1.1": {"views.contrast": 1.1},
    "--views.hue-space is 'hvs'. Did you mean 'hsv'": {"views.hue_space": "hvs"},
    "--views.colour-order is 'none'": {"views.colour_order": "none"},
    "--data.canvas is 512 256; give the short side first": {"data.canvas": (512, 256)},
    "--schedule.pct-start is 1": {"schedule.pct_start": 1.0},
    "--schedule.warmup-epochs is 100": {"schedule.name": "warmup_cosine", "schedule.warmup_epochs": 100},
    "--schedule.momentum holds 1": {"schedule.momentum": (0.8, 1.0)},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_run(message):
    config, devices = Train(name="x"), 4
    for name, value in REFUSED[message].items():
        section, _, field = name.rpartition(".")
        if name == "devices":
            devices, config = value, dataclasses.replace(config, batch_size=1)
        elif section:
            changed = dataclasses.replace(getattr(config, section), **{field: value})
            config = dataclasses.replace(config, **{section: changed})
        else:
            config = dataclasses.replace(config, **{field: value})
    with pytest.raises(ConfigError) as refused:
        validate(config, devices)
    assert message in str(refused.value)
