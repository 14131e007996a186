"""Makes the files in this folder, which tests hold later versions to.

Run once, in an empty folder, by the version of 2026-11-27 (commit ce71313; jax 0.10.2, flax 0.12.8, orbax-checkpoint
0.12.8, h5py 3.16.0) on x86-64. Weights are a constant for each array, so that they take little room once packed. The folder's path was then taken out
of Orbax's commit_success.txt, and its checksum renewed.
"""

import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ipcl_jax.checkpoints import Checkpoints
from ipcl_jax.encoder import load_encoder, save_encoder
from ipcl_jax.extraction import plan
from ipcl_jax.features import FeatureFile, Layer
from ipcl_jax.provenance import image_digests
from ipcl_jax.stimuli import make_transform
from ipcl_jax.stimulus_sets import open_stimuli
from ipcl_jax.streaming import stream
from PIL import Image

from ipcl_jax.config import Data, Model, Objective, Optim, Train, Views
from ipcl_jax.training import compile_steps, make_mesh

SCRIPTS = Path(sys.argv[1])
RECIPE = '''"""A tiny run."""

from ipcl_jax.config import Data, Model, Objective, Optim, Train, Views

config = Train(
    name="tiny",
    model=Model(fc_dim=8, out_dim=4),
    objective=Objective(queue_size=16),
    views=Views(size=64, per_image=2),
    data=Data(source="folder:images", canvas=(64, 64), threads=1),
    optim=Optim(lr=1e-3, clip_norm=1.0),
    epochs=3,
    batch_size=4,
    accumulate=2,
    out="run",
)
'''
TIME = 1_700_000_000


def script(name, *arguments, code=0):
    done = subprocess.run([sys.executable, SCRIPTS / name, *arguments], text=True, capture_output=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def images():
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 3)):
        for number, label in enumerate("ab"):
            for i in range(count):
                path = Path("images", split, label, f"{i}.png")
                path.parent.mkdir(parents=True, exist_ok=True)
                coarse = rng.integers(0, 256, (4, 4, 3)) * 0.5 + 100 * number
                Image.fromarray(coarse.astype(np.uint8).repeat(16, 0).repeat(16, 1)).save(path)
                os.utime(path, (TIME, TIME))


def constant(tree):
    leaves, kind = jax.tree.flatten(tree)
    some = np.random.default_rng(1).normal(size=len(leaves)) * 0.02
    return kind.unflatten(
        jnp.full_like(leaf, some[i]) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
        for i, leaf in enumerate(leaves)
    )


images()
Path("tiny.py").write_text(RECIPE)
script("train.py", "--config", "./tiny.py", "--max-steps", "2")
config = Train(
    name="tiny", model=Model(fc_dim=8, out_dim=4), objective=Objective(queue_size=16),
    views=Views(size=64, per_image=2), data=Data(source="folder:images", canvas=(64, 64), threads=1),
    optim=Optim(lr=1e-3, clip_norm=1.0), epochs=3, batch_size=4, accumulate=2, out="run",
)
steps = compile_steps(config, make_mesh(), n_images=8, steps_per_epoch=2)
with Checkpoints(Path("run"), keep=1) as checkpoints:
    state = checkpoints.restore(steps.state)
shutil.rmtree("run/checkpoints")
state = state.replace(
    params=constant(state.params), opt_state=constant(state.opt_state), grad_sum=constant(state.grad_sum)
)
with Checkpoints(Path("run"), keep=1) as checkpoints:
    checkpoints.save(state)
    checkpoints.wait()
for extra in ("tensorboard", "report.html", "log.txt"):
    path = Path("run", extra)
    shutil.rmtree(path) if path.is_dir() else path.unlink()

linear = ("linear.py", "run", "--layers", "conv_block_5", "fc7", "--data.source", "folder:images", "--data.canvas", "64", "64",
          "--data.threads", "1", "--batch-size", "4", "--epochs", "2", "--out", "linear")
script(*linear, "--max-steps", "2")
for extra in ("tensorboard", "log.txt"):
    path = Path("linear", extra)
    shutil.rmtree(path) if path.is_dir() else path.unlink()

script("extract.py", "run", "images/val", "--layers", "fc7", "--batch-size", "2", "--threads", "1", "--out", "whole.h5")
encoder, stimuli, transform = load_encoder("run"), open_stimuli(["images/val"]), make_transform("stimulus", 64)
attributes = {
    "model": encoder.name, "model_sha256": encoder.digest(), "weights_sha256": encoder.digest(),
    "preprocessing": f"{transform}, [0, 1], less {list(encoder.mean)}, by {list(encoder.std)}",
    "pool": "none", "projection": "none", "compute": "float32", "batch_size": 2,
}
layers = {"fc7": Layer(plan(encoder, ["fc7"], size=64)["fc7"][0], np.dtype("float32"))}
with FeatureFile(
    Path("part.h5"), names=stimuli.names, layers=layers, attributes=attributes,
    digests=lambda count: image_digests(stimuli, count, threads=1),
) as file:
    batch, values = next(stream(encoder, stimuli, transform, {"fc7": None}, batch_size=2, threads=1))
    file.write(values, batch.sha256)
    file.save()
save_encoder(encoder, "tiny.safetensors")
shutil.copytree("run", "run_on"), shutil.copytree("linear", "linear_on")
script("train.py", "--config", "./tiny.py", "--max-steps", "4", "--out", "run_on")
script(*linear[:-1], "linear_on")
Path("expected").mkdir()
for name in ("run_on", "linear_on"):
    shutil.copy(f"{name}/metrics.jsonl", f"expected/{name[:-3]}.jsonl")
    shutil.rmtree(name)
with open("tiny.safetensors", "rb") as whole, gzip.GzipFile("tiny.safetensors.gz", "wb", mtime=0) as packed:
    shutil.copyfileobj(whole, packed)
os.remove("tiny.safetensors")
