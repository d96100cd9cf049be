"""Linear probes: what can be read from frozen features with one linear layer.

Each clip gives one vector, mean and standard deviation over time; a ridge classifier on standardised vectors is
trained and judged in cross-validation whose folds keep the clips of one piece together.

Source: Pasini et al. 2024, https://arxiv.org/abs/2408.06500, section 4.3, probes latents and encoder features so.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.linear_model import RidgeClassifierCV
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from autoencoder import Music2LatentAutoencoder
from autoencoder.metrics import log_mel
from pipelines.evaluation.statistics import Estimate, bootstrap_weights, estimate

NUM_FOLDS = 5
ALPHAS = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5)  # of the ridge; chosen inside of each training part
MIN_PER_CLASS = 5
TEMPO_EDGES = (90.0, 120.0)  # beats per minute: slow, medium, fast
FEATURES = ("latents", "features", "latents, random encoder", "features, random encoder", "log-mel")
Vectors = Float[np.ndarray, "clips dim"]


@dataclass(frozen=True)
class Task:
    """What is read from the features.

    Attributes:
        name: of the task.
        labels: one per clip; None where the clip has none. A set of names is a multi-label task.
        score: the figure, ``"balanced accuracy"`` or ``"mean AUC"``.
    """

    name: str
    labels: list[Any]
    score: str


def pooled(frames: Float[Tensor, "dim frames"]) -> Float[np.ndarray, " twice_dim"]:
    """Mean and standard deviation over time."""
    return torch.cat([frames.mean(-1), frames.std(-1, correction=0)]).float().cpu().numpy()


def random_encoder(model: Music2LatentAutoencoder, seed: int) -> Music2LatentAutoencoder:
    """The same architecture as initialised before training: what the architecture alone gives."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Music2LatentAutoencoder.from_config(model.config).eval()


def clip_vectors(
    waveform: Float[Tensor, "channels samples"],
    sample_rate: int,
    model: Music2LatentAutoencoder,
    random_model: Music2LatentAutoencoder,
) -> dict[str, np.ndarray]:
    """One vector per kind of feature, of the mono mix."""
    mono = waveform.mean(0, keepdim=True)[None].to(model.device)
    return {
        "latents": pooled(model.encode(mono)[0]),
        "features": pooled(model.extract_features(mono)[0, 0]),
        "latents, random encoder": pooled(random_model.encode(mono)[0]),
        "features, random encoder": pooled(random_model.extract_features(mono)[0, 0]),
        "log-mel": pooled(log_mel(mono[0, 0], sample_rate)),
    }


def tasks(records: Sequence[Mapping[str, Any]]) -> list[Task]:
    """The tasks that the labels of a data set allow: classes with fewer than five clips do not count."""
    tempo = [None if record.get("tempo") is None else _tempo_class(record["tempo"]) for record in records]
    instruments = [set(record["instruments"]) if record.get("instruments") else None for record in records]
    candidates = [
        Task("style", _frequent([record.get("style") for record in records]), "balanced accuracy"),
        Task("tempo class", _frequent(tempo), "balanced accuracy"),
        Task("key", _frequent([record.get("key") for record in records]), "balanced accuracy"),
        Task("mode", _frequent([record.get("mode") for record in records]), "balanced accuracy"),
        Task("instruments", instruments, "mean AUC"),
    ]
    return [task for task in candidates if _is_possible(task)]


def probe(
    task: Task, vectors: Vectors, groups: Sequence[str], num_replicates: int, seed: int
) -> tuple[Estimate, float]:
    """Score of a linear probe in cross-validation, and what chance would give."""
    if task.score == "mean AUC":
        return _probe_instruments(task, vectors, groups, num_replicates, seed), 0.5
    present = np.array([index for index, label in enumerate(task.labels) if label is not None])
    labels = np.array([str(task.labels[index]) for index in present])
    folds = StratifiedGroupKFold(NUM_FOLDS, shuffle=True, random_state=seed)
    predicted = _predict(vectors[present], labels, np.array(groups)[present], folds, lambda m, x: m.predict(x))
    weights = bootstrap_weights(len(labels), num_replicates, seed)
    return balanced_accuracy(labels, predicted, weights), 1 / len(np.unique(labels))


def balanced_accuracy(labels: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> Estimate:
    """Mean over classes of the part of their clips that is right; the clips are resampled."""
    is_of = labels == np.unique(labels)[:, None]
    is_hit = is_of & (predicted == labels)
    drawn, hits = weights @ is_of.T, weights @ is_hit.T
    recalls = np.divide(hits, drawn, out=np.full(drawn.shape, np.nan), where=drawn > 0)  # a class may not be drawn
    value = (is_hit.sum(1) / is_of.sum(1)).mean()
    return estimate(float(value), np.nanmean(recalls, axis=1), len(labels))


def _probe_instruments(
    task: Task, vectors: Vectors, groups: Sequence[str], num_replicates: int, seed: int
) -> Estimate:
    """Mean over instruments of the area under the ROC curve; clips are resampled."""
    present = np.array([index for index, label in enumerate(task.labels) if label is not None])
    sets = [task.labels[index] for index in present]
    weights = bootstrap_weights(len(present), num_replicates, seed)
    values, replicates = [], []
    for name in _common_instruments(task.labels):
        labels = np.array([name in names for names in sets])
        folds = StratifiedGroupKFold(NUM_FOLDS, shuffle=True, random_state=seed)
        scores = _predict(
            vectors[present], labels, np.array(groups)[present], folds, lambda m, x: m.decision_function(x)
        )
        values.append(roc_auc_score(labels, scores))
        replicates.append([_weighted_auc(labels, scores, weight) for weight in weights])
    return estimate(float(np.mean(values)), np.nanmean(np.array(replicates), axis=0), len(present))


def _predict(
    vectors: Vectors,
    labels: np.ndarray,
    groups: np.ndarray,
    folds: StratifiedGroupKFold,
    answer: Callable[[Any, Vectors], np.ndarray],
) -> np.ndarray:
    """Answers for each clip of a probe that was trained on the other folds."""
    predictions: np.ndarray | None = None
    for train, test in folds.split(vectors, labels, groups):
        model = make_pipeline(
            StandardScaler(),
            RidgeClassifierCV(ALPHAS, class_weight="balanced"),
        )
        model.fit(vectors[train], labels[train])
        answers = answer(model, vectors[test])
        if predictions is None:
            predictions = np.empty(
                len(labels), dtype=np.asarray(answers).dtype if answers.dtype.kind == "f" else object
            )
        predictions[test] = answers
    assert predictions is not None
    return predictions


def _weighted_auc(labels: np.ndarray, scores: np.ndarray, weight: np.ndarray) -> float:
    drawn = weight > 0
    if labels[drawn].all() or not labels[drawn].any():
        return float("nan")
    return float(roc_auc_score(labels[drawn], scores[drawn], sample_weight=weight[drawn]))


def _tempo_class(tempo: float) -> str:
    return ("slow", "medium", "fast")[sum(tempo >= edge for edge in TEMPO_EDGES)]


def _frequent(labels: list[Any]) -> list[Any]:
    """Labels of classes with fewer than five clips become None."""
    return [label if label is not None and labels.count(label) >= MIN_PER_CLASS else None for label in labels]


def _common_instruments(labels: Sequence[set[str] | None]) -> list[str]:
    present = [names for names in labels if names is not None]
    every = sorted({name for names in present for name in names})
    counts = {name: sum(name in names for names in present) for name in every}
    return [name for name in every if MIN_PER_CLASS <= counts[name] <= len(present) - MIN_PER_CLASS]


def _is_possible(task: Task) -> bool:
    if task.score == "mean AUC":
        return bool(_common_instruments(task.labels))
    return len({label for label in task.labels if label is not None}) >= 2
