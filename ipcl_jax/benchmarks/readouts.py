"""Benchmarks of a trained network: activations of image files, and nearest neighbours."""

import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

from ipcl_jax.activations.preprocess import make_transform
from ipcl_jax.activations.stimuli import Reader, open_stimuli
from ipcl_jax.activations.write import Extraction
from ipcl_jax.benchmarks import in_torch
from ipcl_jax.benchmarks.in_torch import TorchProcess
from ipcl_jax.benchmarks.material import write_jpegs
from ipcl_jax.benchmarks.turns import Against, Measured, Memory, check_torch, compare, finish, take_turns
from ipcl_jax.conversion import conversion
from ipcl_jax.readout.knn import nearest


def extract(
    images: int = 2000,
    side: int = 375,
    batch_size: int = 64,
    rounds: int = 3,
    against: Against | None = None,
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
        against: torch does it as the PyTorch release: one image after the other, batches of 32.
        json: file to write the measurements to.
    """
    check_torch(against)
    table = Measured("extract", "images/s", ("ours", *([against] if against else [])))
    with tempfile.TemporaryDirectory() as folder:
        stimuli, weights = Path(folder, "stimuli"), Path(folder, "weights.pth")
        stimuli.mkdir()
        write_jpegs(stimuli, images, side)
        conversion().save_torch(conversion().convert_torch_checkpoint("ipcl16"), weights)
        files = open_stimuli([str(stimuli)])
        encoder = conversion().convert_torch_checkpoint(weights)
        extraction = Extraction(encoder=encoder, reader=Reader(make_transform("stimulus"), batch_size))
        extraction.write(open_stimuli([str(stimuli / files.names[0])]), Path(folder, "first.h5"))  # compiles
        size = sum((stimuli / name).stat().st_size for name in files.names) / images
        table.facts["JPEGs"] = f"{images:,} of {size / 1000:.0f} kB"
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

        if against is None:
            table.turns = take_turns(rounds, ours)
            return finish(table, json)
        paths = [str(stimuli / name) for name in files.names]
        with TorchProcess(in_torch.fc7, str(weights), paths) as torch_process:
            expected: np.ndarray | None = None

            def theirs() -> float:
                nonlocal expected
                seconds, expected = torch_process.run()
                return images / seconds

            table.turns = take_turns(rounds, ours, theirs)
        assert expected is not None  # of the last turn
        with h5py.File(out) as file:
            error = np.abs(file["fc7"][:] - expected).max() / np.abs(expected).max()
        table.facts["largest difference, share of the largest value"] = float(error)
    return finish(table, json)


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
        against: torch does a matrix product and topk, 128 queries at a time, on two threads.
        json: file to write the measurements to.
    """
    check_torch(against)
    rng = np.random.default_rng(0)
    features = [rng.normal(size=(n, dim)).astype(np.float32) for n in (queries, references)]
    _, rows = nearest(*features, k=k)

    def ours() -> float:
        start = time.perf_counter()
        with Memory() as memory:
            nearest(*features, k=k)
        seconds = time.perf_counter() - start
        table.facts["memory of ours, at most"] = f"{memory.most(0, 1):,.0f} MB, the features among them"
        return queries / seconds

    table = Measured("knn", "queries/s", ("ours",))
    table.facts = {"features": f"{queries:,} against {references:,} of {dim}, {k} neighbours"}
    theirs = compare(
        table, rounds, ours, queries, against, lambda: TorchProcess(in_torch.kneighbours, *features, k)
    )
    if theirs is not None:
        pairs = zip(rows.tolist(), theirs.tolist(), strict=True)
        shared = [len(set(a) & set(b)) for a, b in pairs]
        table.facts["neighbours in common"] = f"{np.mean(shared) / k:.4%}"
    return finish(table, json)
