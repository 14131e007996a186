"""Responses and layers with a known relation, for tests of measures."""

import numpy as np

from ipcl_jax.measures.base import Layer


def as_layer(features: np.ndarray, dtype=np.float64) -> Layer:
    """A layer whose kernel is exact, so that a test's tolerance is that of the measure."""
    features = np.asarray(features, dtype)
    shifted = features.astype(np.float64) - features[0]
    return Layer(features, shifted @ shifted.T)


def make_up(subjects=4, images=24, voxels=6, units=12, noise=1.0, seed=0):
    """Three layers, of which subjects' voxels are sums of the second one's units, with noise.

    Returns:
        Layers by name, responses `[N, V]` by subject (each with one voxel more than the one before), and the images'
        names.
    """
    rng = np.random.default_rng(seed)
    layers = {name: rng.normal(1, 1, (images, units)) for name in ("shallow", "true", "deep")}
    responses = {}
    for subject in range(subjects):
        weights = rng.normal(size=(units, voxels + subject)) / np.sqrt(units)
        responses[f"sub{subject}"] = (
            layers["true"] @ weights + noise * rng.normal(size=(images, voxels + subject)) + rng.normal(size=voxels + subject)
        )
    return {name: as_layer(values) for name, values in layers.items()}, responses, [f"{i}.png" for i in range(images)]
