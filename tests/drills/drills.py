"""Fault tests: runs, extractions and read-outs that are killed, run out of disk space, or lose files.

    python tests/drills/drills.py --tries 20 --out docs/drills.md

Each fault is applied to a command as a user starts it. A try survived if after the fault the same command gives a result
that is bit-identical to that of an undisturbed command (or, where it must not go on, says why in one line). A try lost
data if anything that was written before the fault is gone.
"""

import contextlib
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from checkpoint_leaves import leaves
from command_line import SCRIPTS, environment
from ipcl_jax import save_encoder
from ipcl_jax.activations.encoder import init_encoder
from ipcl_jax.config import Model
from ipcl_jax.run.checkpoints import Checkpoints
from ipcl_jax.run.history import read_metrics

SMALL_RUN = (
    "--config ipcl_smoke --epochs 1 --batch-size 29 --views.per-image 2 --model.fc-dim 64 "
    "--objective.queue-size 64 --monitor.no-baseline --checkpoints.minutes 0.001"
).split()


@dataclass(frozen=True)
class Outcome:
    """What came of a fault.

    Attributes:
        fault: what happened.
        tries: how often.
        survived: how often all was well in the end.
        lost: how often something that had been written was gone.
        note: why it was not tried, or what went wrong.
    """

    fault: str
    tries: int
    survived: int
    lost: int = 0
    note: str = ""

    def row(self) -> str:
        """A line of the table."""
        return f"| {self.fault} | {self.tries} | {self.survived} | {self.lost} | {self.note} |"


class Lab:
    """A folder with small images and a small model, and the results that nothing happened to."""

    def __init__(self, place: Path, seed: int = 0):
        self.place, self.random = place, random.Random(seed)
        rng = np.random.default_rng(seed)
        for split, count in (("train", 60), ("val", 20)):
            for name in ("a", "b", "c"):
                folder = place / "images" / split / name
                folder.mkdir(parents=True)
                for i in range(count):
                    Image.fromarray(rng.integers(0, 256, (90, 120, 3), np.uint8)).save(folder / f"{i}.png")
        save_encoder(init_encoder(Model(fc_dim=64), name="small", size=64), place / "small.safetensors")
        self._whole: dict[str, tuple[Path, float]] = {}

    def start(self, script: str, *arguments: str | Path, **changes: str) -> subprocess.Popen:
        """Starts a command."""
        return subprocess.Popen(
            [sys.executable, str(SCRIPTS / script), *map(str, arguments)], text=True, cwd=self.place,
            env=environment(self.place / "cache") | changes, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, script: str, *arguments: str | Path, **changes: str) -> tuple[int, str]:
        """Runs a command to its end; its exit code and what it said."""
        process = self.start(script, *arguments, **changes)
        said, _ = process.communicate(timeout=300)
        return process.returncode, said

    def whole(self, kind: str) -> tuple[Path, float]:
        """What a command makes that nothing happens to, and the seconds it takes (with compiled programs)."""
        if kind not in self._whole:
            for name in ("first", "whole"):  # the first one compiles
                out, begin = self.place / f"{kind}-{name}{SUFFIX[kind]}", time.monotonic()
                code, said = self.run(*self.command(kind, out))
                assert code == 0, said
            self._whole[kind] = out, time.monotonic() - begin
        return self._whole[kind]

    def command(self, kind: str, out: Path) -> tuple:
        """The command of a kind, and where it writes."""
        model = self.place / "small.safetensors"
        return {
            "training": ("train.py", *SMALL_RUN, "--data.source", "folder:images", "--out", out),
            "extraction": ("extract.py", model, "images", "--layers", "conv_block_5", "fc7", "--batch-size", "8",
                           "--out", out),
            "linear": ("linear.py", model, "--data.source", "folder:images", "--epochs", "2", "--batch-size", "6",
                       "--optim.lr", "0.1", "--checkpoints.minutes", "0.001", "--out", out),
            "shrinking": ("prepare.py", "images", out, "--size", "64"),
        }[kind]  # fmt: skip


SUFFIX = {"training": "", "extraction": ".h5", "linear": "", "shrinking": ""}


def same(kind: str, a: Path, b: Path) -> bool:
    """Whether two results are the same, bit for bit."""
    if kind == "extraction":
        return a.read_bytes() == b.read_bytes()
    if kind == "shrinking":
        files = [sorted(path.relative_to(x) for path in x.rglob("*") if path.is_file()) for x in (a, b)]
        return files[0] == files[1] and all(
            (a / name).read_bytes() == (b / name).read_bytes() for name in files[0]
        )
    one, other = arrays(a), arrays(b)
    equal = one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
    return equal and numbers(a) == numbers(b)


def numbers(folder: Path) -> list[dict]:
    """The metrics of a run but for times."""
    measured = [line for lines in read_metrics(folder) for line in lines]
    return [
        {name: value for name, value in line.items() if "wait" not in name and "second" not in name and "input" not in name}
        for line in measured
    ]  # fmt: skip


def arrays(folder: Path) -> dict[str, np.ndarray]:
    """Every array of a run's newest checkpoint."""
    return leaves(folder)


# --- faults ------------------------------------------------------------------------------


def killed(lab: Lab, kind: str, tries: int) -> Outcome:
    """SIGKILL at a random moment, and the same command again."""
    _, seconds = lab.whole(kind)
    survived = lost = 0
    for _ in range(tries):
        out = lab.place / f"{kind}-killed{SUFFIX[kind]}"
        process = lab.start(*lab.command(kind, out))
        time.sleep(lab.random.uniform(0.1, 1.0) * seconds)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)  # nobody is left who holds its output
        well, gone = goes_on(lab, kind, out)
        survived, lost = survived + well, lost + gone
        shutil.rmtree(out, ignore_errors=True)
        out.unlink(missing_ok=True)
    return Outcome(f"{kind} killed (SIGKILL) at a random moment", tries, survived, lost)


def done(out: Path) -> int:
    """Steps that a run has saved; nothing else counts them."""
    return max((int(path.name) for path in out.glob("checkpoints/*") if path.name.isdigit()), default=0)


def goes_on(lab: Lab, kind: str, out: Path) -> tuple[bool, bool]:
    """The same command again: does it end as if nothing had happened, and are steps gone that were saved?"""
    steps = done(out)
    code, said = lab.run(*lab.command(kind, out))
    if code:
        print(said[-3000:])
    return code == 0 and same(kind, lab.whole(kind)[0], out), done(out) < steps


def damaged(lab: Lab, tries: int) -> Outcome:
    """A random byte of a random file of the newest checkpoint is flipped, or the file is gone."""
    whole, _ = lab.whole("training")
    survived = lost = 0
    for number in range(tries):
        out = lab.place / "training-damaged"
        shutil.copytree(whole, out)
        newest = out / "checkpoints" / str(done(out))
        victim = lab.random.choice(
            sorted(path for path in newest.rglob("*") if path.is_file() and path.stat().st_size)
        )
        content = bytearray(victim.read_bytes())
        content[lab.random.randrange(len(content))] ^= 1 << lab.random.randrange(8)
        victim.unlink() if number % 2 else victim.write_bytes(content)
        code, said = lab.run(*lab.command("training", out))
        told = "is damaged" in said or victim.name == "sha256.json"  # a lost seal is no damage
        survived += code == 0 and told and same("training", whole, out)
        lost += not told and not same("training", whole, out)
        shutil.rmtree(out)
    return Outcome("newest checkpoint: a bit flipped, or a file missing", tries, survived, lost)


def occupied(lab: Lab, tries: int) -> Outcome:
    """A second process is started in the folder of a run that is under way."""
    whole, _ = lab.whole("training")
    survived = 0
    for _ in range(tries):
        out = lab.place / "training-occupied"
        shutil.copytree(whole, out)
        with Checkpoints(out, keep=2):
            code, said = lab.run(*lab.command("training", out))
        survived += code == 2 and "Another process is using" in said and same("training", whole, out)
        shutil.rmtree(out)
    return Outcome("second process in a run's folder", tries, survived)


def vanished(lab: Lab, tries: int) -> Outcome:
    """The folder of images is gone in mid-run, and comes back."""
    lab.whole("training")  # while the images are there
    images, away, survived, lost = lab.place / "images", lab.place / "away", 0, 0
    for _ in range(tries):
        out = lab.place / "training-vanished"
        process = lab.start(*lab.command("training", out))
        deadline = time.monotonic() + 60
        while len(read_metrics(out)[0]) < 2 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        images.rename(away)
        said, _ = process.communicate(timeout=120)
        away.rename(images)
        told = process.returncode in (0, 1) and "Traceback" not in said  # 0: all images had been read by then
        if not told:
            print(said[-3000:])
        well, gone = goes_on(lab, "training", out)
        survived, lost = survived + (told and well), lost + gone
        shutil.rmtree(out)
    return Outcome("images disappear in mid-run, and come back", tries, survived, lost)


def jumping(lab: Lab, tries: int) -> Outcome:
    """The clock is set forwards and back by a day, every second."""
    lab.whole("training")  # before anything happens
    folder, survived, lost = lab.place / "clock", 0, 0
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(
        "import time\nnow = time.time\ntime.time = lambda: now() + 86400 * (int(time.monotonic()) % 3 - 1)\n"
    )
    paths = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    for _ in range(tries):
        out = lab.place / "training-jumping"
        code, said = lab.run(*lab.command("training", out), PYTHONPATH=paths)
        told = code == 0 or (code == 1 and "give the same command" in said and "Traceback" not in said)
        well, gone = goes_on(lab, "training", out)
        survived, lost = survived + (told and well), lost + gone
        shutil.rmtree(out)
    return Outcome("clock set forwards and back by a day, every second", tries, survived, lost)


def tree(folder: Path) -> dict[Path, bytes]:
    """Every file in a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def other_images(
    lab: Lab, tries: int, fault: str, change: Callable[[Lab], contextlib.AbstractContextManager], turns: int = 1
) -> Outcome:
    """A run that was stopped meets other images, and later those that it began with."""
    lab.whole("training")
    survived = lost = 0
    for _ in range(tries):
        out = lab.place / "training-others"
        assert lab.run(*lab.command("training", out), "--max-steps", str(lab.random.randint(2, 5)))[0] == 0
        before, refused = tree(out), 0
        with change(lab):
            for _ in range(turns):
                code, said = lab.run(*lab.command("training", out))
                one_line = len(said.splitlines()) == 1 and "images then" in said and "Traceback" not in said
                refused += code == 2 and one_line and tree(out) == before
        well, gone = goes_on(lab, "training", out)
        survived, lost = survived + (refused == turns and well), lost + gone
        shutil.rmtree(out)
    return Outcome(fault, tries, survived, lost)


@contextlib.contextmanager
def images_added(lab: Lab) -> Iterator[None]:
    """A few more training images, then no longer."""
    some = sorted((lab.place / "images/train/a").iterdir())[: lab.random.randint(1, 9)]
    copies = [path.with_name(f"new-{path.name}") for path in some]
    for path, copy in zip(some, copies, strict=True):
        shutil.copy(path, copy)
    yield
    for copy in copies:
        copy.unlink()


@contextlib.contextmanager
def images_replaced(lab: Lab) -> Iterator[None]:
    """Two images, of which each has the other's name."""
    split = lab.random.choice(("train", "val"))
    one, other = lab.random.sample(sorted((lab.place / "images" / split / "a").iterdir()), 2)
    aside = lab.place / "aside.png"

    def swap() -> None:
        one.rename(aside)
        other.rename(one)
        aside.rename(other)

    swap()
    yield
    swap()


@contextlib.contextmanager
def half_mounted(lab: Lab) -> Iterator[None]:
    """Some folders of images are empty."""
    folders = [lab.place / "images" / split / name for split in ("train", "val") for name in ("b", "c")]
    for folder in folders:
        folder.rename(folder.with_name(f".{folder.name}"))
        folder.mkdir()
    yield
    for folder in folders:
        folder.rmdir()
        folder.with_name(f".{folder.name}").rename(folder)


def second_writer(lab: Lab, tries: int) -> Outcome:
    """A read-out begins to fill a cache, is held up, and meanwhile another one wants the same activations."""
    survived = lost = 0
    command = ("knn.py", lab.place / "small.safetensors", "--layer", "fc7", "--data.source", "folder:images",
               "--k", "5", "--batch-size", "8", "--json")  # fmt: skip
    assert lab.run(*command, "alone.json")[0] == 0
    expected = (lab.place / "alone.json").read_bytes()
    compiled = str(lab.place / "cache" / "compiled")
    for _ in range(tries):
        cache = lab.place / "shared-cache"
        changes = {"IPCL_JAX_CACHE": str(cache), "JAX_COMPILATION_CACHE_DIR": compiled}
        first = lab.start(*command, "0.json", **changes)
        while not list(cache.glob("features/*.part")) and first.poll() is None:
            time.sleep(0.002)
        first.send_signal(signal.SIGSTOP)
        both = [first, lab.start(*command, "1.json", **changes)]
        time.sleep(lab.random.uniform(4, 8))  # long enough for it to come to the cache
        first.send_signal(signal.SIGCONT)
        said = [process.communicate(timeout=300)[0] for process in both]
        codes = [process.returncode for process in both]
        files = [lab.place / f"{number}.json" for number in range(2)]
        well = codes == [0, 0] and all(file.read_bytes() == expected for file in files)
        if not well:
            print(*said, sep="\n")
        survived += well
        for file in files:
            file.unlink(missing_ok=True)
        shutil.rmtree(cache, ignore_errors=True)
    return Outcome("second writer of the cache of activations", tries, survived, lost)


def infinite(lab: Lab, tries: int) -> Outcome:
    """The loss stops being a number."""
    survived = 0
    for _ in range(tries):
        out = lab.place / "training-infinite"
        wild = "--optim.lr", "1e30", "--schedule.name", "constant"
        code, said = lab.run(*lab.command("training", out), *wild)
        survived += code == 1 and "the loss is" in said and "At step" in said and "Traceback" not in said
        shutil.rmtree(out, ignore_errors=True)
    return Outcome("loss is not a number: stops, names the step, saves nothing of it", tries, survived)


@contextlib.contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[Callable]:
    """A disk of that size at a place; gives a function that changes how it is mounted."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        yield lambda option: subprocess.run(["mount", "-o", f"remount,{option}", str(place)], check=True)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
        place.rmdir()


def full(lab: Lab, tries: int) -> Outcome:
    """The disk is full during a save; then there is room."""
    lab.whole("training")  # before anything happens
    fault, survived, lost = "disk full during a save, then room again", 0, 0
    for _ in range(tries):
        try:
            with small_disk(lab.place / "disk", 75) as remount:
                out = lab.place / "disk" / "run"
                code, said = lab.run(*lab.command("training", out))
                told = code == 1 and "no room" in said and "Traceback" not in said
                remount("size=600m")
                well, gone = goes_on(lab, "training", out)
                survived, lost = survived + (told and well), lost + gone
        except (subprocess.CalledProcessError, FileNotFoundError):
            return Outcome(fault, 0, 0, note="needs the right to mount")
    return Outcome(fault, tries, survived, lost)


def read_only(lab: Lab, tries: int) -> Outcome:
    """The run's folder can't be written to; then it can."""
    lab.whole("training")  # before anything happens
    fault, survived = "run's folder is read-only, then writable", 0
    for _ in range(tries):
        try:
            with small_disk(lab.place / "disk", 600) as remount:
                out = lab.place / "disk" / "run"
                assert lab.run(*lab.command("training", out), "--max-steps", "3")[0] == 0
                remount("ro")
                code, said = lab.run(*lab.command("training", out))
                told = code == 2 and "is read-only" in said and "Traceback" not in said
                remount("rw")
                survived += told and goes_on(lab, "training", out)[0]
        except (subprocess.CalledProcessError, FileNotFoundError):
            return Outcome(fault, 0, 0, note="needs the right to mount")
    return Outcome(fault, tries, survived)


DRILLS: dict[str, Callable[[Lab, int], Outcome]] = {
    "killed training": lambda lab, tries: killed(lab, "training", tries),
    "killed extraction": lambda lab, tries: killed(lab, "extraction", tries),
    "killed linear": lambda lab, tries: killed(lab, "linear", tries),
    "killed shrinking": lambda lab, tries: killed(lab, "shrinking", tries),
    "damaged": damaged,
    "full": full,
    "read-only": read_only,
    "occupied": occupied,
    "vanished": vanished,
    "infinite": infinite,
    "jumping": jumping,
    "images added": lambda lab, tries: other_images(
        lab, tries, "images are added to a run that was stopped", images_added
    ),
    "images replaced": lambda lab, tries: other_images(
        lab, tries, "images are replaced under their names", images_replaced
    ),
    "half mounted": lambda lab, tries: other_images(
        lab, tries, "most images are gone while the command is started three times", half_mounted, turns=3
    ),
    "second writer": second_writer,
}
ONCE = (
    "full", "read-only", "occupied", "vanished", "infinite", "jumping", "images added", "images replaced",
    "half mounted", "second writer",
)  # fmt: skip
"""Faults without a moment or a place to draw; a quarter of the tries will do."""


def main(
    tries: int = 20, out: Path | None = None, only: tuple[str, ...] = (), place: Path | None = None
) -> None:
    """Goes through all faults and prints the table.

    Args:
        tries: of each fault that has a random moment or place; a quarter of the others.
        out: file to write the table to.
        only: names of some drills.
        place: an empty folder to work in; by default a temporary one.
    """
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(place or Path(folder))
        lines = ["| fault | tries | survived | lost | |", "|---|---|---|---|---|"]
        for name in only or DRILLS:
            lines.append(DRILLS[name](lab, max(1, tries // 4) if name in ONCE else tries).row())
            print(lines[-1], flush=True)
    if out:
        out.write_text(
            f"# Fault tests\n\n{__doc__.split(chr(10) * 2)[2].strip()}\n\n" + "\n".join(lines) + "\n"
        )


if __name__ == "__main__":
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax misses a file that it doesn't need
    os.environ["JAX_PLATFORMS"] = "cpu"
    tyro.cli(main)
