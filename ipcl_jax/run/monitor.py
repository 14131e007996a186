"""What is measured after each epoch, on images the run never trains on."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh, Sharding

from ipcl_jax.config import Train
from ipcl_jax.data.base import Source
from ipcl_jax.data.loader import TOLERATED, eval_batches
from ipcl_jax.errors import InputError
from ipcl_jax.readout.knn import knn_scores, nearest
from ipcl_jax.readout.spread import effective_rank, instance_retrieval, mean_cosine
from ipcl_jax.system.distributed import all_gather, batch_sharding, shard
from ipcl_jax.training.state import Bank


@dataclass(frozen=True)
class Embedded:
    """Validation images as the network embeds them now."""

    whole: np.ndarray  # [M, D] of the whole image
    pairs: np.ndarray  # [M, 2, D] of two augmented views
    index: np.ndarray  # [M] place in the source
    label: np.ndarray  # [M] class, -1 without


def embed_held_out(
    embed: Callable, variables: Mapping, held_out: Source, config: Train, mesh: Mesh
) -> Embedded:
    """Embeds the held-out images of a run; all processes take part.

    Args:
        embed: `training.Steps.embed`.
        variables: of the model.
        held_out: the images.
        config: the run.
        mesh: from `distributed.make_mesh`.

    Returns:
        The embeddings of those that can be read.
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
        batches: from `loading.eval_batches`, this process's part.
        sharding: of a batch over the devices.

    Returns:
        The embeddings.
    """
    rows = []
    for i, batch in enumerate(batches):
        given = {name: batch[name] for name in ("canvas", "size")}
        images = jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), given)
        whole, pairs = embed(variables, np.uint32(i), images)
        rows.append((*map(all_gather, (batch["valid"], batch["index"], batch["label"])), whole, pairs))
    if not rows:
        raise InputError("There are no held-out images to embed.")
    valid, index, label, whole, pairs = (np.concatenate(column) for column in zip(*rows, strict=True))
    return Embedded(whole[valid], pairs[valid], index[valid], label[valid])


def measure(
    images: Embedded, bank: Bank, config: Train, *, n_classes: int
) -> dict[str, float]:
    """The numbers of an epoch.

    Args:
        images: embedded validation images.
        bank: the epoch's training images.
        config: the run: monitor.k neighbours vote, but no more than the training images of a class;
            objective.temperature is that of their votes; with categories, embeddings are scores of the classes.
        n_classes: number of classes; 0 leaves out the kNN read-out.

    Returns:
        top1 and top5 (shares, for scores), knn_top1 and knn_top5 (shares, with labels), and for two images or
        more retrieval (share), mean_cosine, effective_rank. What can't be measured is left out, and images without
        a class neither vote nor are asked.
    """
    metrics: dict[str, float] = {}
    asked, voters = images.label >= 0, np.asarray(bank.label).reshape(-1)
    voting = voters >= 0
    if config.objective.name == "categories" and asked.any():
        ranked = np.argsort(-images.whole[asked], axis=1, kind="stable")[:, :5]
        hits = ranked == images.label[asked, None]
        metrics = {"top1": float(hits[:, 0].mean()), "top5": float(hits.any(1).mean())}
    if n_classes and asked.any() and voting.any():
        references = np.asarray(bank.embeddings).reshape(-1, bank.embeddings.shape[-1])[voting]
        k = max(1, min(config.monitor.k, len(references) // n_classes))
        (score,) = knn_scores(
            images.whole[asked], images.label[asked], references, voters[voting],
            n_classes=n_classes, k=k, temperature=config.objective.temperature,
        )  # fmt: skip
        metrics |= {"knn_top1": score.top1, "knn_top5": score.top5}
    if len(images.whole) < 2:  # nothing to tell an image from
        return metrics
    return metrics | {
        "retrieval": instance_retrieval(images.pairs),
        "mean_cosine": mean_cosine(images.whole),
        "effective_rank": effective_rank(images.whole),
    }


def nearest_images(
    images: Embedded, bank: Bank, *, n_queries: int = 8, k: int = 5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The training images nearest to some validation images.

    Args:
        images: embedded validation images.
        bank: the epoch's training images.
        n_queries: how many, spread evenly over the images.
        k: neighbours of each.

    Returns:
        Places of the queries in their source `[Q]`, of the neighbours in theirs `[Q, k]`, and
        cosines `[Q, k]`.
    """
    chosen = spread(len(images.index), n_queries)
    references = bank.embeddings.reshape(-1, bank.embeddings.shape[-1])
    if not len(chosen):
        return np.empty(0, int), np.empty((0, k), int), np.empty((0, k), np.float32)
    cosines, rows = nearest(images.whole[chosen], references, k=min(k, len(references)))
    return images.index[chosen], np.asarray(bank.index).reshape(-1)[rows], cosines


def spread(count: int, most: int) -> np.ndarray:
    """Up to that many places of a list, from its first to its last, evenly."""
    return np.linspace(0, max(count - 1, 0), min(count, most)).astype(int)
