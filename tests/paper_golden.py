"""What the rows should be, by scikit-learn and loops in NumPy, straight from the methods as they are published."""

import itertools

import numpy as np
from sklearn.linear_model import RidgeCV

ALPHAS = (0.1, 1.0, 10.0)


def knn_top1(train, labels, queries, wanted, *, k: int, temperature: float) -> float:
    """Share in percent of queries whose class has most votes, each exp(cosine / temperature)."""
    train, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (np.float64(train), np.float64(queries)))
    hits = 0
    for query, label in zip(queries, wanted, strict=True):
        similar = train @ query
        nearest = np.argsort(-similar)[:k]
        votes = np.zeros(labels.max() + 1)
        for row in nearest:
            votes[labels[row]] += np.exp(similar[row] / temperature)
        hits += votes.argmax() == label
    return 100 * hits / len(wanted)


def predicted(features: np.ndarray, responses: np.ndarray) -> np.ndarray:
    """Each image's responses, predicted from all other images."""
    found = np.empty(responses.shape)
    for image in range(len(features)):
        others = np.arange(len(features)) != image
        ridge = RidgeCV(ALPHAS).fit(np.float64(features[others]), responses[others])
        found[image] = ridge.predict(np.float64(features[image : image + 1]))[0]
    return found


def rdm(patterns: np.ndarray) -> np.ndarray:
    return 1 - np.corrcoef(patterns)


def lower(matrix: np.ndarray) -> np.ndarray:
    return matrix[np.tril_indices(len(matrix), -1)]


class Region:
    """The paper's measure of one region.

    Args:
        layers: by model, and layer by layer, `[N, D]`.
        responses: of each subject, `[N, V]`.
    """

    def __init__(self, layers: dict[str, list[np.ndarray]], responses: list[np.ndarray]):
        subjects = range(len(responses))
        size = len(responses) // 2
        halves = [(half, tuple(set(subjects) - set(half))) for half in itertools.combinations(subjects, size)]
        if len(responses) % 2 == 0:
            halves = [pair for pair in halves if 0 in pair[0]]
        brain = [rdm(values) for values in responses]

        def r(a, b):
            return np.corrcoef(lower(np.mean(a, 0)), lower(np.mean(b, 0)))[0, 1]

        def pick(rdms, half):
            return [rdms[i] for i in half]

        self.ceilings = [r(pick(brain, one), pick(brain, other)) for one, other in halves]
        self.best: dict[str, np.ndarray] = {}  # Fisher's z by split
        for model, features in layers.items():
            rdms = [[rdm(predicted(layer, values)) for values in responses] for layer in features]
            by_split = []
            for pair in halves:
                scores = np.array([[r(pick(layer, half), pick(brain, half)) for half in pair] for layer in rdms])
                chosen = [scores[scores[:, 1].argmax(), 0], scores[scores[:, 0].argmax(), 1]]
                by_split.append(np.arctanh(chosen).mean())
            self.best[model] = np.array(by_split)

    @property
    def ceiling(self) -> float:
        return float(np.tanh(np.mean(np.arctanh(self.ceilings))))

    def score(self, model: str) -> float:
        return float(np.tanh(self.best[model].mean()))

    def share(self, models) -> float:
        return float(np.mean([100 * (self.score(model) / self.ceiling) ** 2 for model in models]))

    def worse(self, model: str, other: str, alpha: float) -> bool:
        """Bouckaert and Frank's corrected paired t-test, with halves of one size."""
        from scipy.stats import t

        differences = self.best[model] - self.best[other]
        count = len(differences)
        statistic = differences.mean() / np.sqrt((1 / count + 1) * differences.var(ddof=1))
        return statistic < 0 and 2 * t.sf(abs(statistic), count - 1) < alpha
