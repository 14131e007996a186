"""Made-up tables of a comparison with brain data: scores that rise along the network and fall at its end."""

import itertools

import numpy as np
from ipcl_jax.brain.table import BestScore, LayerScore, ModelDifference, Score, Tables

from ipcl_jax.models.alexnet_gn import AlexNetGN

LAYERS = AlexNetGN().layer_names
MODELS = ("ipcl_alexnet_gn", "category_alexnet_gn", "untrained")
REGIONS = ("V1", "V4", "pOTC", "aOTC")
SUBJECTS = ("subj01", "subj02", "subj05", "subj07")


def made_up(
    *, models=MODELS, layers=LAYERS, regions=REGIONS, subjects=SUBJECTS, ceilings=True, shift=0.0, seed=0
) -> Tables:
    """Tables of konkle2022 (one group of all subjects) and of encoding (by subject).

    Args:
        models: their names.
        layers: of all models, or for each model by name.
        regions: their names.
        subjects: their names.
        ceilings: whether the data have any.
        shift: added to all scores.
        seed: of the noise.
    """
    rng, tables = np.random.default_rng(seed), Tables([], [], [], [])
    for measure, groups in (("konkle2022", ("+".join(subjects),)), ("encoding", tuple(subjects))):
        kind = {"konkle2022": "split halves of subjects", "encoding": "repeats of an image"}[measure] if ceilings else ""
        for place, region in enumerate(regions):
            best = {}
            tops = {group: 0.8 - 0.05 * (place % 8) + 0.04 * rng.normal() if ceilings else None for group in groups}
            for number, model in enumerate(models):
                names = layers[model] if isinstance(layers, dict) else layers
                for group in groups:
                    peak, height = 0.3 + 0.15 * (place % 4), (0.6 - 0.04 * (place % 8)) * 0.75**number
                    curve = height * np.exp(-(((np.arange(len(names)) + 1) / len(names) - peak) ** 2) / 0.3)
                    curve += shift + 0.02 * rng.normal() + 0.008 * rng.normal(size=len(names))
                    shared = dict(measure=measure, region=region, subject=group, ceiling=tops[group], ceiling_kind=kind)
                    for depth, layer in enumerate(names):
                        value, width = float(curve[depth]), 0.02 + 0.01 * rng.random()
                        tables.scores.append(
                            Score(model=model, layer=layer, depth=depth, split="1", side="1", voxels=500, images=72,
                                  score=value, **shared)
                        )  # fmt: skip
                        tables.layers.append(
                            LayerScore(model=model, layer=layer, depth=depth, score=value, low=value - width,
                                       high=value + width, **shared)
                        )  # fmt: skip
                    top = int(curve.argmax())
                    best[model, group] = float(curve[top]) - 0.005
                    chosen = {names[top]: 25, names[top - 1]: 10} if len(names) > 1 else {names[0]: 35}
                    tables.best.append(
                        BestScore(model=model, score=best[model, group], low=best[model, group] - 0.03,
                                  high=best[model, group] + 0.03, layers=chosen, how="the other half of the subjects",
                                  **shared)
                    )  # fmt: skip
            for model, other in itertools.combinations(models, 2):
                found = np.array([best[model, group] - best[other, group] for group in groups])
                mean, t = float(found.mean()), float(found.mean() / 0.02)
                tables.differences.append(
                    ModelDifference(
                        model, other, measure, region, groups[0] if len(groups) == 1 else "", mean, mean - 0.04,
                        mean + 0.04, t, max(1, len(groups) - 1), float(np.exp(-abs(t))),
                        "splits" if len(groups) == 1 else "subjects",
                    )
                )  # fmt: skip
    return tables
