"""Measurements after each epoch, on images that the run never trains on."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh, Sharding

from ipcl_jax.config import Train
from ipcl_jax.data.base import Source
from ipcl_jax.data.loader import TOLERATED, eval_batches
from ipcl_jax.errors import InputError
from ipcl_jax.readout.knn import EXCLUDED, knn_scores, nearest
from ipcl_jax.readout.spread import effective_rank, instance_retrieval, mean_cosine
from ipcl_jax.run.bank import References
from ipcl_jax.system.distributed import all_gather, batch_sharding, shard


@dataclass(frozen=True)
class Embedded:
    """Current embeddings of M held-out images."""

    uncropped: np.ndarray  # [M, D] of the image without augmentation
    pairs: np.ndarray  # [M, 2, D] of two augmented views
    index: np.ndarray  # [M] index in the source
    label: np.ndarray  # [M] class, -1 for none


def embed_held_out(
    embed: Callable, variables: Mapping, held_out: Source, config: Train, mesh: Mesh
) -> Embedded:
    """Embeds the held-out images of a run; every process must call it.

    Args:
        embed: `training.Steps.embed`.
        variables: of the model.
        held_out: the images.
        config: the run.
        mesh: from `distributed.make_mesh`.

    Returns:
        The embeddings of the images that can be read.
    """
    batches = eval_batches(
        held_out, batch_size=config.batch_size, canvas=config.data.canvas, threads=config.data.threads,
        shard=shard(), tolerated=TOLERATED,
    )  # fmt: skip
    return embed_images(embed, variables, batches, batch_sharding(mesh))


def embed_images(
    embed: Callable, variables: Mapping, batches: Iterable[dict], sharding: Sharding
) -> Embedded:
    """Embeds every readable image of some batches.

    Args:
        embed: `training.Steps.embed`.
        variables: of the model.
        batches: this process's shards, from `data.loader.eval_batches`.
        sharding: of a batch over the devices.

    Returns:
        The embeddings.
    """
    rows = []
    for i, batch in enumerate(batches):
        given = {name: batch[name] for name in ("canvas", "size")}
        images = jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), given)
        uncropped, pairs = embed(variables, np.uint32(i), images)
        rows.append((*map(all_gather, (batch["valid"], batch["index"], batch["label"])), uncropped, pairs))
    if not rows:
        raise InputError("There are no held-out images to embed.")
    valid, index, label, uncropped, pairs = (np.concatenate(column) for column in zip(*rows, strict=True))
    return Embedded(uncropped[valid], pairs[valid], index[valid], label[valid])


def measure(
    images: Embedded, references: References, config: Train, *, n_classes: int
) -> dict[str, float]:
    """Computes the metrics of an epoch.

    Args:
        images: embeddings of held-out images.
        references: prototypes of the epoch's training images.
        config: the run: monitor.k neighbours vote, but at most as many as a class has training images on average;
            objective.temperature weights their votes; with objective.name `categories`, embeddings are class scores.
        n_classes: number of classes; 0 leaves out the kNN read-out.

    Returns:
        top1 and top5 (shares, if embeddings are class scores), knn_top1 and knn_top5 (shares, with labels), and for
        two images or more retrieval (share), mean_cosine, effective_rank. Metrics that can't be measured are left
        out; images without a class are used neither as queries nor as references.
    """
    metrics: dict[str, float] = {}
    labelled, voting = images.label >= 0, (references.index >= 0) & (references.label >= 0)
    if config.objective.name == "categories" and labelled.any():
        ranked = np.argsort(-images.uncropped[labelled], axis=1, kind="stable")[:, :5]
        hits = ranked == images.label[labelled, None]
        metrics = {"top1": float(hits[:, 0].mean()), "top5": float(hits.any(1).mean())}
    if n_classes and labelled.any() and voting.any():
        k = max(1, min(config.monitor.k, int(voting.sum()) // n_classes))
        (score,) = knn_scores(
            images.uncropped[labelled], images.label[labelled], references.embeddings, references.label,
            n_classes=n_classes, k=k, temperature=config.objective.temperature,
            groups=(np.zeros(labelled.sum(), int), np.where(voting, 1, EXCLUDED)),
        )  # fmt: skip
        metrics |= {"knn_top1": score.top1, "knn_top5": score.top5}
    if len(images.uncropped) < 2:  # the remaining metrics compare different images
        return metrics
    return metrics | {
        "retrieval": instance_retrieval(images.pairs),
        "mean_cosine": mean_cosine(images.uncropped),
        "effective_rank": effective_rank(images.uncropped),
    }


def nearest_images(
    images: Embedded, references: References, *, n_queries: int = 8, k: int = 5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Finds the training images nearest to some held-out images.

    Args:
        images: embeddings of held-out images.
        references: prototypes of the epoch's training images.
        n_queries: number of queries, evenly spaced over the held-out images.
        k: neighbours of each.

    Returns:
        Indices of the queries in the held-out source `[Q]`, of their neighbours in the training source `[Q, k]`, and
        cosines `[Q, k]`.
    """
    chosen = evenly_spaced(len(images.index), n_queries)
    held = references.index >= 0
    if not len(chosen) or not held.any():
        return np.empty(0, int), np.empty((0, k), int), np.empty((0, k), np.float32)
    groups = np.zeros(len(chosen), int), np.where(held, 1, EXCLUDED)
    cosines, rows = nearest(images.uncropped[chosen], references.embeddings, k=min(k, int(held.sum())), groups=groups)
    return images.index[chosen], references.index[rows], cosines


def evenly_spaced(count: int, most: int) -> np.ndarray:
    """Returns up to `most` evenly spaced indices from 0 to `count - 1`."""
    return np.linspace(0, max(count - 1, 0), min(count, most)).astype(int)
