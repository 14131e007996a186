"""Every recipe: what its docstring promises, and that it trains, is saved and goes on."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from ipcl_jax import KNNReadout
from ipcl_jax.commands import recipes
from ipcl_jax.config import Data, LinearProbe, Train
from ipcl_jax.data.loader import TrainBatches
from ipcl_jax.data.sources import open_source
from ipcl_jax.errors import ConfigError
from ipcl_jax.run.checkpoints import Checkpoints
from ipcl_jax.run.folder import check_folder
from ipcl_jax.stored_config import differences, to_json
from ipcl_jax.system.distributed import batch_sharding
from ipcl_jax.training.step import compile_steps
from ipcl_jax.zoo import MODELS
from thinning import first

EVERY = pytest.mark.parametrize("name", recipes.RECIPES)
SMALLEST_FIRST = sorted(recipes.RECIPES, key=lambda name: name != "ipcl_smoke")


def recipe(name: str) -> Train:
    return recipes.load(["--config", name], "")


@EVERY
def test_a_recipe_says_what_it_is(name):
    config = recipe(name)
    assert config.name == name
    text = recipes.RECIPES[name].read_text(encoding="utf-8").split('"""')[1]
    assert f"    python experiments/train.py --config {name}" in text
    assert all(word in text for word in ("\nData: ", "Published: ", "\nCost: "))
    for model in MODELS.values():
        if f"released as {model.name})" in text and model.name != "ipcl16":
            assert f"kNN top-1 {model.knn} %" in text, model.name
            assert config.model.out_dim == model.out_dim and config.model.l2norm == model.model.l2norm
            assert (config.views.mean, config.views.std) == (model.mean, model.std)


def test_the_primary_recipe_has_the_papers_numbers():
    """Written out once more, from the paper and its release: a default that moves must not move this."""
    config = recipe("ipcl_alexnet_gn")
    model, objective, views, schedule = config.model, config.objective, config.views, config.schedule
    assert (model.arch, model.out_dim, model.fc_dim, model.l2norm) == ("alexnet_gn", 128, 4096, True)
    assert (objective.name, objective.temperature, objective.queue_size) == ("ipcl", 0.07, 4096)
    assert (objective.temperature_end, objective.norm_prototype, objective.store_prototype) == (None, False, False)
    assert (config.epochs, config.batch_size, views.per_image, config.accumulate) == (100, 128, 5, 20)
    assert (config.optim.name, config.optim.lr, config.optim.weight_decay) == ("sgd", 0.03, 5e-4)
    assert (config.optim.decay_norms, config.optim.clip_norm, config.precision) == (True, None, "float32")
    assert (schedule.name, schedule.pct_start, schedule.div_factor) == ("one_cycle", 0.4, 1000)
    assert (schedule.final_div_factor, schedule.momentum) == (1e4, (0.85, 0.95))
    assert (views.size, views.crop_area, views.crop_aspect) == (224, (0.2, 1.0), (3 / 4, 4 / 3))
    assert (views.grayscale, views.flip, views.antialias, views.colour_order) == (0.2, 0.5, True, "random")
    assert (views.brightness, views.contrast, views.saturation, views.hue) == (0.4, 0.4, 0.4, 0.4)
    assert (views.hue_space, views.blur, views.rotation, views.window, views.distortion) == ("hsv", 0, 0, 0, 0)
    assert views.mean == (0.485, 0.456, 0.406) and views.std == (0.229, 0.224, 0.225)
    assert (config.data.canvas[0], config.data.source) == (256, "tfds:imagenet2012")
    assert (config.monitor.k, config.max_steps) == (200, None)


def test_other_recipes_differ_from_it_as_the_paper_says():
    primary = json.loads(to_json(recipe("ipcl_alexnet_gn")))
    set_2 = ["views.crop_area", "views.mean", "views.std"]
    expected = {
        "ipcl_alexnet_gn_fastaug": ["views.antialias", "views.colour_order", "views.hue_space"],
        "ipcl_alexnet_gn_diet_imagenet": set_2,
        "ipcl_alexnet_gn_diet_places": ["data.source", *set_2],
        "supervised_augset1_5x": ["accumulate", "model.l2norm", "model.out_dim", "objective.name"],
    }
    for name, fields in expected.items():
        found = {line.partition(":")[0] for line in differences(recipe(name), primary)} - {"name"}
        assert found == set(fields), name  # when to stop is no difference
    assert recipe("ipcl_alexnet_gn_fastaug").max_steps == 82 * (1_281_167 // 128)
    views = recipe("ipcl_alexnet_gn_diet_imagenet").views
    assert (views.crop_area, views.mean, views.std) == ((0.5, 1.0), (0.5,) * 3, (0.2,) * 3)


def test_read_outs_have_the_papers_numbers():
    probe, monitor = LinearProbe(), KNNReadout()
    assert (probe.epochs, probe.batch_size, probe.optim.name, probe.optim.lr) == (10, 256, "sgd", 30)
    assert (probe.optim.weight_decay, probe.schedule.name) == (0, "one_cycle")
    assert (probe.schedule.pct_start, probe.schedule.div_factor) == (0.3, 1e6)
    assert (monitor.k, monitor.temperature) == (200, 0.07)


def test_no_two_recipes_are_the_same():
    anonymous = [dataclasses.replace(recipe(name), name="") for name in recipes.RECIPES]
    assert len({to_json(config) for config in anonymous}) == len(anonymous)


def test_every_trained_model_of_the_paper_has_a_recipe():
    text = "".join(path.read_text(encoding="utf-8") for path in recipes.RECIPES.values())
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
        config = recipes.load(["--config", path, "--batch-size", "7"], "")
        assert (config.name, config.epochs, config.batch_size, config.views.size) == ("mine_3", 3, 7, 64)
    assert check_folder(config, {})[0].absolute() == tmp_path / "runs/mine_3"
    with pytest.raises(SystemExit):
        recipes.load(["--config", "mine.py", "--help"], "")
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
        (HEAD + "config = Train(name='x', epochs='3')", "line 3: --epochs is '3', of type str; expected int"),
        (HEAD + "config = Train(name='x', optim={'lr': 1})", "line 3: --optim is .* expected Optim"),
        (HEAD + "config = Train(name='x', views=Views(crop_area=[0.5, 1]))", "line 3: --views.crop-area is .* tuple"),
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
            recipes.load(["--config", path], "")


def test_whole_numbers_and_none_are_sound(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from ipcl_jax.config import Optim, Train\n"
        "config = Train(name='x', optim=Optim(lr=1, clip_norm=2), max_steps=None)\n"
    )
    assert recipes.load(["--config", str(path)], "").optim.lr == 1


def test_an_unknown_recipe_gets_the_near_ones():
    with pytest.raises(ConfigError, match="Did you mean 'supervised_augset1_5x'"):
        recipes.load(["--config", "supervised_augset1_5"], "")
    for name in ("ipcl_smok.py", "./ipcl_smok"):
        with pytest.raises(ConfigError, match="is no Python file.*Did you mean 'ipcl_smoke'"):
            recipes.load(["--config", name], "")


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


def compiled(name: str):
    """A recipe at that size: its config, images, devices and steps."""
    config, images = small(recipe(name)), open_source("sample", "train")
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    steps = compile_steps(config, mesh, n_images=len(images), steps_per_epoch=len(images) // 4)
    return config, images, mesh, steps


@pytest.mark.parametrize("name", first(2, SMALLEST_FIRST))
def test_a_recipe_can_be_traced(name):
    config, images, _, steps = compiled(name)
    with TrainBatches(images, batch_size=4, canvas=(64, 64), seed=0, threads=1) as batches:
        batch = next(batches)
    state, metrics, row = jax.eval_shape(steps.train, steps.state, batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(lambda x: (x.shape, x.dtype), steps.state)
    assert {name: leaf.shape for name, leaf in metrics.items()} == dict.fromkeys(("loss", "lr", "momentum", "grad_norm"), ())
    assert jax.tree.map(lambda x: (x.shape, x.dtype), row) == jax.tree.map(lambda x: (x.shape, x.dtype), steps.prototypes)
    embeddings, _ = jax.eval_shape(steps.embed, steps.state.variables, np.uint32(0), {name: batch[name] for name in ("canvas", "size")})
    assert embeddings.shape == (4, config.model.out_dim)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["ipcl_alexnet_gn", "ipcl_alexnet_gn_fastaug", "ipcl_alexnet_gn_ranger", "ipcl_resnet18", "ipcl_resnet50",
             "supervised_augset1_1x"],
)  # fmt: skip
def test_two_optimizer_steps_saved_and_resumed(name, tmp_path):
    """Recipes that differ in more than numbers."""
    config, images, mesh, steps = compiled(name)
    start = jax.device_get(steps.init())

    def go_on(state, until: int):
        losses = []
        options = dict(batch_size=4, canvas=(64, 64), seed=config.seed, threads=1)
        with TrainBatches(images, start_step=int(state.step), **options) as batches:
            while int(state.step) < until:
                state, metrics, _ = steps.train(state, jax.device_put(next(batches), batch_sharding(mesh)))
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
