"""What README and docs/ tell a reader to run does run: every command in a small form, every block of Python, and
the notebook."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from command_line import Command, environment
from convert.models import MADE_BY
from ipcl_jax import AlexNetGN, init_queue, save_encoder
from ipcl_jax.activations.encoder import init_encoder
from ipcl_jax.config import Model
from ipcl_jax.zoo import MODELS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page.name: page.read_text(encoding="utf-8") for page in PAGES}

# Not run here: other tests do, or it takes another machine.
ELSEWHERE = ("experiments/benchmark.py", "experiments/brain.py", "experiments/reproduce.py", "--distributed")
# What makes a command small.
SMALLER = {
    "train.py": "--max-steps 2 --batch-size 4 --model.fc-dim 32 --views.per-image 2 --views.size 64 "
    "--objective.queue-size 64 --monitor.no-baseline",
    "linear.py": "--max-steps 1 --batch-size 8",
    "report.py": "--shown 20",
    "views.py": "--images 2",
}
FOLDERS = {"path/to/your/images": "images/train/a", "/data/imagenet256": "shrunk", "/data/imagenet": "images",
           "folder:fashion": "folder:images"}  # fmt: skip


def blocks(language: str) -> list:
    """Fenced blocks of a language, each once, with their page."""
    found = {}
    for name, text in TEXTS.items():
        for body in re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            found.setdefault(body, name)
    return [pytest.param(body, id=f"{name}-{place}") for place, (body, name) in enumerate(found.items())]


def commands() -> list[str]:
    """Commands of the pages in their order, each once."""
    found = {}
    for text in TEXTS.values():
        whole = text.replace("\\\n", " ")
        for command in re.findall(r"(?:^|`)(python experiments/[^`\n]+)", whole, re.MULTILINE):
            if not any(part in command for part in ELSEWHERE):
                found[command.strip()] = None
    return list(found)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with images, a recipe, and small weights in the place of the released ones."""
    folder, rng = tmp_path_factory.mktemp("reader"), np.random.default_rng(0)
    for split, name, count in (("train", "a", 8), ("train", "b", 8), ("val", "a", 3), ("val", "b", 3)):
        for i in range(count):
            path = folder / "images" / split / name / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (80, 96, 3), np.uint8)).save(path)
    Image.fromarray(rng.integers(0, 256, (80, 96, 3), np.uint8)).save(folder / "cheetah.jpg")
    encoder = init_encoder(Model(fc_dim=64), name="ipcl1", size=64, source=f"{MODELS['ipcl1'].sha256:0<64}")
    save_encoder(encoder, folder / "ipcl1.safetensors", header=MADE_BY)
    (recipe,) = re.findall(r"^cat > mine.py <<'END'\n(.*?)^END$", TEXTS["train.md"], re.MULTILINE | re.DOTALL)
    (folder / "mine.py").write_text(recipe)
    return folder


def smaller(command: str) -> list[str]:
    """A command as the test gives it to the script."""
    for there, here in FOLDERS.items():
        command = command.replace(there, here)
    command = command.replace("ipcl16", "ipcl1")  # whose stand-in is small
    _, script, *arguments = shlex.split(command)
    script = script.removeprefix("experiments/")
    more = SMALLER.get(script, "") if "--help" not in arguments else ""
    return [script, *arguments, *more.split()]


@pytest.mark.slow
def test_every_command_runs(place):
    asked = commands()
    scripts = {shlex.split(command)[1] for command in asked}
    names = ("train", "table", "views", "extract", "convert", "prepare", "knn", "linear", "rsa", "report")
    assert scripts == {f"experiments/{name}.py" for name in names}
    _, said = Command(*(smaller(command) for command in asked), cache=place).communicate(600)
    codes = re.findall(r"^exit code (\w+)", said, re.MULTILINE)
    assert codes == ["0"] * len(asked), said
    made = (
        "acts.h5",
        "pooled.h5",
        "rsa/rdms.png",
        "report/report.html",
        "table.png",
        "views.png",
        "ipcl_smoke.pth",
        "shrunk/train/a/0.jpg",
        "images.packed/dataset.json",
    )
    assert all((place / name).is_file() for name in made)


def given() -> dict:
    """What the blocks of Python take for granted."""
    rng = np.random.default_rng(0)
    X, X2 = rng.normal(size=(400, 20)), rng.normal(size=(50, 20))
    queue = init_queue(jax.random.key(1), 8, 128)
    variables = jax.jit(AlexNetGN().init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    return {
        "X": X, "X2": X2, "y": rng.integers(0, 9, 400), "y2": rng.integers(0, 9, 50), "voxels": X[:, :3],
        "voxels2": X2[:, :3], "canvas": np.zeros((2, 256, 256, 3), np.uint8), "sizes": np.full((2, 2), 256),
        "queue": queue, "log_Z": jnp.zeros(()), "variables": variables,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("python"))
def test_every_block_of_python_runs(block, place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("IPCL_JAX_CACHE", str(place))
    exec(compile(block, "block", "exec"), given())


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    notebook = json.loads((ROOT / "docs" / "quickstart.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    printed = "print(all(axis.images for axis in axes), figure.get_size_inches())"
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([*cells, printed])], text=True, capture_output=True, cwd=tmp_path,
        env=environment(tmp_path) | {"MPLBACKEND": "agg", "PYTHONPATH": str(ROOT)}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = "".join(
        text for cell in notebook["cells"] for out in cell.get("outputs", []) for text in out.get("text", "")
    )
    assert re.search(r"\d+% of images, 17% by chance", done.stdout) and "True" in done.stdout
    assert "of images, 17% by chance" in shown


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page):
    folder = ROOT if page == "README.md" else ROOT / "docs"
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", TEXTS[page])
    assert [link for link in links if not (folder / link).exists()] == []
