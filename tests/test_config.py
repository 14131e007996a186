"""Every config that can't run, and what is said of it, wherever it is made."""

import dataclasses
import typing

import pytest

from ipcl_jax.checked_config import check, unchecked
from ipcl_jax.config import (
    Data,
    LinearProbe,
    Model,
    Objective,
    Optim,
    Schedule,
    Train,
    Views,
    check_divisible,
)
from ipcl_jax.errors import ConfigError

REFUSED = {
    "--epochs is 0; it must be greater than zero": {"epochs": 0},
    "--optim.lr is -1": {"optim.lr": -1.0},
    "--optim.clip-norm is 0": {"optim.clip_norm": 0.0},
    "--max-steps is 0": {"max_steps": 0},
    "--objective.temperature-end is 0": {"objective.temperature_end": 0.0},
    "give --model.no-l2norm too": {"objective.name": "categories"},
    "leaves batch norm a single embedding": {"batch_size": 1, "views.per_image": 1},
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
    "--schedule.momentum is 0.8 1": {"schedule.momentum": (0.8, 1.0)},
    "--optim.name is 'adam'. Did you mean 'adamw'": {"optim.name": "adam"},
    "--schedule.name is 'cos'. Did you mean 'cosine'": {"schedule.name": "cos"},
    "--objective.name is 'IPCL'. Did you mean 'ipcl'": {"objective.name": "IPCL"},
    "--model.norm is None": {"model.norm": None},
    "--data.workers is 'many', of type str": {"data.workers": "many"},
    "--views.std is 0 0 0; each channel's": {"views.std": (0.0, 0.0, 0.0)},
    "--views.mean is (0.5,), of type tuple": {"views.mean": (0.5,)},
    "--views.crop-area is [0.5, 1.0], of type list": {"views.crop_area": [0.5, 1.0]},
    "--optim.lr is nan; expected finite": {"optim.lr": float("nan")},
    "--views.crop-area is (0.5, inf)": {"views.crop_area": (0.5, float("inf"))},
    "--optim.weight-decay is -1": {"optim.weight_decay": -1.0},
    "--epochs is '3', of type str; expected int": {"epochs": "3"},
    "--epochs is 2.5, of type float; expected int": {"epochs": 2.5},
    "--optim is {'lr': 1}, of type dict; expected Optim": {"optim": {"lr": 1}},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_run(message):
    with pytest.raises(ConfigError) as refused:
        made(REFUSED[message])
    assert message in str(refused.value)
    with unchecked():
        config = made(REFUSED[message])
    with pytest.raises(ConfigError) as refused:
        check(config)
    assert message in str(refused.value)


def made(values: dict) -> Train:
    """A config with some fields changed, each section made before the whole."""
    sections: dict[str, dict] = {}
    for name, value in values.items():
        section, _, field = name.rpartition(".")
        sections.setdefault(section, {})[field] = value
    own = sections.pop("", {})
    usual = Train(name="x")
    parts = {name: dataclasses.replace(getattr(usual, name), **fields) for name, fields in sections.items()}
    return dataclasses.replace(usual, **parts, **own)


def test_every_choice_is_checked_in_every_class():
    """A new field with choices needs no line of its own anywhere."""
    count = 0
    for kind in (Model, Objective, Views, Data, Optim, Schedule, Train, LinearProbe):
        for field, hint in typing.get_type_hints(kind).items():
            if typing.get_origin(hint) is typing.Literal:
                with pytest.raises(ConfigError, match=f"{field.replace('_', '-')} is 'cosin'"):
                    kind(**{"name": "x"} if kind is Train else {}, **{field: "cosin"})
                for choice in typing.get_args(hint):
                    with unchecked():
                        config = kind(**{"name": "x"} | {field: choice} if kind is Train else {field: choice})
                    assert getattr(config, field) == choice
                count += 1
    assert count >= 9


def test_whole_numbers_are_numbers():
    assert Optim(lr=1, clip_norm=2).lr == 1


def test_devices_share_a_batch_evenly():
    check_divisible(8, 4)
    for size, message in ((3, "take a multiple of 4: 4 is nearest"), (7, "4 or 8 is nearest")):
        with pytest.raises(ConfigError, match=message):
            check_divisible(size, 4)
