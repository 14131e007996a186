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
from ipcl_jax.checkpoints import Checkpoints, claim_folder  # noqa: E402
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


def test_a_config_file_of_ones_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(
        '"""My own recipe."""\n'
        "from dataclasses import replace\n"
        "from configs.ipcl_smoke import config\n"
        'config = replace(config, name="mine_3", epochs=3)\n'
    )
    for path in ("mine.py", "./mine.py", str(tmp_path / "mine.py")):
        config = configs.load(["--config", path, "--batch-size", "7"], "")
        assert (config.name, config.epochs, config.batch_size, config.views.size) == ("mine_3", 3, 7, 64)
    assert claim_folder(config).absolute() == tmp_path / "runs/mine_3"
    with pytest.raises(SystemExit):
        configs.load(["--config", "mine.py", "--help"], "")
    text = capsys.readouterr().out
    assert "My own recipe." in text and "--config mine.py" in text


HEAD = "from ipcl_jax.config import Train, Views\n\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x = 1", "mine.py has no `config`"),
        ("\nconfig = {'epochs': 3}", "mine.py, line 2: `config` is of type dict"),
        ("from ipcl_jax import config", "mine.py, line 1: `config` is of type module"),
        ("import os\n\nconfig = 1 / 0", "mine.py, line 3: ZeroDivisionError: division by zero"),
        ("import json\njson.loads('{')", "mine.py, line 2: JSONDecodeError"),
        ("exit(3)", "mine.py, line 1: SystemExit: 3"),
        (HEAD + "config = Train(name='x', epoch=3)", "mine.py, line 3: TypeError: .*'epoch'"),
        (HEAD + "config = Train(name='x', epochs='3')", "line 3: epochs is '3', of type str; expected int"),
        (HEAD + "config = Train(name='x', optim={'lr': 1})", "line 3: optim is .* expected Optim"),
        (HEAD + "config = Train(name='x', views=Views(crop_area=[0.5, 1]))", "views.crop_area is .* tuple"),
        ("x = 1\nconfig = (", "mine.py, line 2: SyntaxError"),
        (None, "mine.py is no Python file.*Did you mean 'mine_too.py'"),
    ],
)  # fmt: skip
def test_a_config_file_that_gives_no_config(content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine_too.py").touch()
    if content is not None:
        Path("mine.py").write_text(content)
    for path in ("mine.py", str(tmp_path / "mine.py")) if content else ("mine.py",):
        with pytest.raises(ConfigError, match=message):
            configs.load(["--config", path], "")


def test_whole_numbers_and_none_are_sound(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from ipcl_jax.config import Optim, Train\n"
        "config = Train(name='x', optim=Optim(lr=1, clip_norm=2), max_steps=None)\n"
    )
    assert configs.load(["--config", str(path)], "").optim.lr == 1


def test_an_unknown_recipe_gets_the_near_ones():
    with pytest.raises(ConfigError, match="Did you mean 'supervised_augset1_5x'"):
        configs.load(["--config", "supervised_augset1_5"], "")
    for name in ("ipcl_smok.py", "./ipcl_smok"):
        with pytest.raises(ConfigError, match="is no Python file.*Did you mean 'ipcl_smoke'"):
            configs.load(["--config", name], "")


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
