"""Benchmarks of a trained network: activations of image files, and nearest neighbours."""

import contextlib
import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import jax
import numpy as np

from ipcl_jax.activations.encoder import init_encoder
from ipcl_jax.activations.preprocess import make_transform
from ipcl_jax.activations.stimuli import Reader, open_stimuli
from ipcl_jax.activations.write import Extraction
from ipcl_jax.benchmarks import in_torch
from ipcl_jax.benchmarks.material import origin, write_jpegs
from ipcl_jax.benchmarks.torch_process import TorchProcess, setting
from ipcl_jax.benchmarks.turns import Against, Measured, Memory, compare, finish, prepare_torch, take_turns
from ipcl_jax.config import Model
from ipcl_jax.readout.knn import nearest


def extract(
    images: int = 2000,
    side: int = 375,
    batch_size: int = 64,
    rounds: int = 3,
    against: Against | None = None,
    compiled: bool | None = None,
    json: Path | None = None,
) -> Measured:
    """Measures the extraction of fc7 from JPEGs on disk into an HDF5 file.

    Each turn covers all images and the complete command except its start: images are checked, decoded, and their
    activations stored. Both implementations use the same untrained weights.

    Args:
        images: JPEGs to make.
        side: their shorter side in pixels; the longer is 1 to 1.5 times that.
        batch_size: of this package.
        rounds: turns of either.
        against: torch does it as the PyTorch release: one image after the other, batches of 32, a hook on fc7.
        compiled: torch does it compiled too, reading images with as many threads as there are cores; by default on a
            GPU only.
        json: file to write the measurements to.
    """
    prepare_torch(against)
    table = Measured("extract", "images/s", ("ours",))
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as processes:
        stimuli = Path(folder, "stimuli")
        stimuli.mkdir()
        write_jpegs(stimuli, images, side)
        files = open_stimuli([str(stimuli)])
        encoder = init_encoder(Model())
        extraction = Extraction(encoder=encoder, reader=Reader(make_transform("stimulus"), batch_size))
        extraction.write(open_stimuli([str(stimuli / files.names[0])]), Path(folder, "first.h5"))  # compiles
        size = sum((stimuli / name).stat().st_size for name in files.names) / images
        table.facts["JPEGs"] = f"{images:,} of {size / 1000:.0f} kB, {origin()}"
        out = Path(folder, "activations.h5")

        def ours() -> float:
            out.unlink(missing_ok=True)
            start = time.perf_counter()
            with Memory() as memory:
                extraction.write(files, out)
            seconds = time.perf_counter() - start
            early, late = memory.most(0, 0.5), memory.most(0.5, 1)
            table.facts["memory of ours"] = (
                f"at most {early:.0f} MB in the first half of a turn, {late:.0f} in the second"
            )
            return images / seconds

        turns: list[Callable[[], float]] = [ours]
        expected = None
        if against is not None:
            variables = jax.tree.map(np.asarray, encoder.variables)
            paths = [str(stimuli / name) for name in files.names]
            ways = [setting(compiled=False), setting(compiled=compiled)]
            for way in ways if ways[1].compiled else ways[:1]:
                process = processes.enter_context(TorchProcess(way, in_torch.fc7, variables, paths))
                turns.append(functools.partial(_speed, process, images))
                name = f"{against} compiled" if way.compiled else against
                table.columns += (name,)
                table.facts[name] = process.about
                expected = process.first if expected is None else expected
        table.turns = take_turns(rounds, *turns)
        if expected is not None:
            with h5py.File(out) as file:
                error = np.abs(file["fc7"][:] - expected).max() / np.abs(expected).max()
            table.facts["largest difference, share of the largest value"] = float(error)
    return finish(table, json)


def _speed(process: TorchProcess, count: int) -> float:
    return count / process.run()


def knn(
    queries: int = 5000,
    references: int = 200_000,
    dim: int = 128,
    k: int = 200,
    rounds: int = 5,
    against: Against | None = None,
    json: Path | None = None,
) -> Measured:
    """Measures the search for exact nearest neighbours by cosine, with random features.

    Args:
        queries: number of queries.
        references: number of references.
        dim: width of the features.
        k: neighbours of each query.
        rounds: turns of either.
        against: torch does a matrix product and topk, 128 queries at a time; on a CPU with two threads.
        json: file to write the measurements to.
    """
    prepare_torch(against)
    rng = np.random.default_rng(0)
    features = [rng.normal(size=(n, dim)).astype(np.float32) for n in (queries, references)]
    _, rows = nearest(*features, k=k)

    def work(times: int) -> None:
        with Memory() as memory:
            for _ in range(times):
                nearest(*features, k=k)
        table.facts["memory of ours, at most"] = f"{memory.most(0, 1):,.0f} MB, the features among them"

    def build() -> TorchProcess:
        return TorchProcess(setting(compiled=False), in_torch.kneighbours, *features, k)

    table = Measured("knn", "queries/s", ("ours",))
    table.facts = {"features": f"{queries:,} against {references:,} of {dim}, {k} neighbours"}
    theirs = compare(table, rounds, work, queries, against, build)
    if theirs is not None:
        pairs = zip(rows.tolist(), theirs.tolist(), strict=True)
        shared = [len(set(a) & set(b)) for a, b in pairs]
        table.facts["neighbours in common"] = f"{np.mean(shared) / k:.4%}"
    return finish(table, json)
