"""Small files with the names, axes and types of the Algonauts 2023 Challenge's training data."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = (13, 17)  # vertices of the left and right hemisphere
NAMES = {0: "Unknown", 1: "early", 2: "midventral", 5: "ventral", 6: "lateral"}  # no vertex is lateral


def picture(number: int) -> np.ndarray:
    """`[6, 8, 3]`, whose colours are the image's number."""
    return np.full((6, 8, 3), (number // 256, number % 256, 99), np.uint8)


def write_subject(
    root: Path,
    subject: str,
    numbers: list[int],
    seed: int = 0,
    *,
    responses: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    pictures: Mapping[int, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Writes a subject who saw some images; returns responses `[n, V]` float32 and labels `[V]`, left side first.

    Responses and labels are random, and pictures those of `picture`, where they aren't given.
    """
    rng = np.random.default_rng(seed)
    fmri, images = (root / subject / "training_split" / f"training_{part}" for part in ("fmri", "images"))
    masks = root / subject / "roi_masks"
    for folder in (fmri, images, masks):
        folder.mkdir(parents=True)
    if responses is None:
        responses = rng.standard_normal((len(numbers), sum(SIZES)))
    if labels is None:
        labels = rng.choice([0, 1, 2, 5], sum(SIZES))
    responses = responses.astype(np.float32)
    for side, part, here in zip(
        ("lh", "rh"), np.split(responses, [SIZES[0]], axis=1), np.split(labels, [SIZES[0]]), strict=True
    ):
        np.save(fmri / f"{side}_training_fmri.npy", part)
        np.save(masks / f"{side}.streams_challenge_space.npy", here)
    np.save(masks / "mapping_streams.npy", NAMES)
    for row, number in enumerate(numbers, 1):
        pixels = picture(number) if pictures is None else pictures[number]
        Image.fromarray(pixels).save(images / f"train-{row:04d}_nsd-{number:05d}.png")
    return responses, labels
