"""Every recipe: what its docstring promises, and that it trains, is saved and goes on."""

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
sys.path.append(str(EXPERIMENTS))

import configs  # noqa: E402

from ipcl_jax.checkpoints import Checkpoints  # noqa: E402
from ipcl_jax.config import ConfigError, Data, Train, to_json  # noqa: E402
from ipcl_jax.loading import TrainBatches  # noqa: E402
from ipcl_jax.sources import open_source  # noqa: E402
from ipcl_jax.training import batch_sharding, compile_steps  # noqa: E402
from ipcl_jax.validation import validate  # noqa: E402
from ipcl_jax.zoo import MODELS  # noqa: E402

EVERY = pytest.mark.parametrize("name", configs.RECIPES)


def recipe(name: str) -> Train:
    return configs.load(["--config", name], "")


@EVERY
def test_a_recipe_says_what_it_is(name):
    config = recipe(name)
    validate(config)
    assert config.name == name
    text = configs.RECIPES[name].read_text(encoding="utf-8").split('"""')[1]
    assert f"    python experiments/train.py --config {name}" in text
    assert all(word in text for word in ("\nData: ", "Published: ", "\nCost: "))
    for model in MODELS.values():
        if f"released as {model.name})" in text and model.name != "ipcl16":
            assert f"kNN top-1 {model.knn} %" in text, model.name
            assert config.model.out_dim == model.out_dim and config.model.l2norm == model.model.l2norm
            assert (config.views.mean, config.views.std) == (model.mean, model.std)


def test_no_two_recipes_are_the_same():
    recipes = [dataclasses.replace(recipe(name), name="") for name in configs.RECIPES]
    assert len({to_json(config) for config in recipes}) == len(recipes)


def test_every_trained_model_of_the_paper_has_a_recipe():
    text = "".join(path.read_text(encoding="utf-8") for path in configs.RECIPES.values())
    named = {name for name in MODELS if f"{name})" in text or f"{name}," in text}
    assert named == set(MODELS) - {"ipcl16"}


def test_a_config_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        '"""My own recipe."""\n'
        "from dataclasses import replace\n"
        "from configs.ipcl_smoke import config\n"
        'config = replace(config, name="mine", epochs=3)\n'
    )
    config = configs.load(["--config", str(path), "--batch-size", "7"], "")
    assert (config.name, config.epochs, config.batch_size, config.views.size) == ("mine", 3, 7, 64)


@pytest.mark.parametrize(
    "content, message",
    [
        ("x = 1", "has no `config`"),
        ("config = {'epochs': 3}", "has a `config` of type dict"),
        ("import os\n\nconfig = 1 / 0", "line 3: ZeroDivisionError"),
        (
            "from ipcl_jax.config import Train\nconfig = Train(name='x', epoch=3)",
            "line 2: TypeError: .*'epoch'",
        ),
        ("config = (", "line 1: SyntaxError"),
        (None, "There is no file"),
    ],
    ids=["none", "dict", "fails", "unknown-field", "syntax", "missing"],
)
def test_a_config_file_that_is_none(content, message, tmp_path):
    path = tmp_path / "mine.py"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        configs.load(["--config", str(path)], "")
    assert "mine.py" in str(caught.value)


def test_an_unknown_recipe_gets_the_near_ones():
    with pytest.raises(ConfigError, match="Did you mean 'supervised_augset1_5x'"):
        configs.load(["--config", "supervised_augset1_5"], "")


def small(config: Train) -> Train:
    """A recipe at a size that takes a second a step; what makes it different stays."""
    return dataclasses.replace(
        config,
        data=Data(source="sample", canvas=(64, 64), threads=2),
        model=dataclasses.replace(config.model, fc_dim=32),
        views=dataclasses.replace(config.views, size=64),
        objective=dataclasses.replace(config.objective, queue_size=64),
        # From the peak, so that even a bias whose gradient batch norm takes away moves by more than a rounding.
        schedule=dataclasses.replace(config.schedule, div_factor=1.0),
        epochs=1 if config.schedule.name != "warmup_cosine" else 20,
        batch_size=4,
        accumulate=min(2, config.accumulate),
    )


@EVERY
def test_two_optimizer_steps_saved_and_resumed(name, tmp_path):
    config = small(recipe(name))
    images = open_source("sample", "train")
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    steps = compile_steps(config, mesh, n_images=len(images), steps_per_epoch=len(images) // 4)
    start = jax.device_get(steps.init())

    def go_on(state, until: int):
        losses = []
        options = dict(batch_size=4, canvas=(64, 64), seed=config.seed, threads=1)
        with TrainBatches(images, start_step=int(state.step), **options) as batches:
            while int(state.step) < until:
                state, metrics = steps.train(state, jax.device_put(next(batches), batch_sharding(mesh)))
                losses.append(float(metrics["loss"]))
        return state, losses

    once, twice = config.accumulate, 2 * config.accumulate
    unbroken, losses = go_on(steps.init(), twice)
    assert np.isfinite(losses).all()
    for path, value in jax.tree_util.tree_leaves_with_path(unbroken.params):
        before = dict(jax.tree_util.tree_leaves_with_path(start.params))[path]
        assert np.isfinite(value).all(), path
        assert not np.array_equal(value, before), path

    half, _ = go_on(steps.init(), once)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(half)
        checkpoints.wait()
        resumed, rest = go_on(checkpoints.restore(steps.state), twice)
    assert rest == losses[once:]
    jax.tree.map(np.testing.assert_array_equal, resumed, unbroken)
    assert steps.train._cache_size() == 1
