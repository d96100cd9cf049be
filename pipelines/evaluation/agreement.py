"""Do generated pieces have what was asked for, more than by chance?

Every piece is scored against every request. The mean of the pieces against their own requests is compared with that
against the requests of other prompts ("shuffled"). The difference is what the conditions achieve: it is zero for a
generator that ignores them, however good or bad the measuring tools are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from latent_diffusion.conditions import KEYS, NO_KEY, key_index
from pipelines.evaluation.musical import INSTRUMENT_TAGS, asked_instruments, key_score, tempo_agrees
from pipelines.evaluation.statistics import Estimate, bootstrap_weights, mean_estimate


@dataclass(frozen=True)
class Request:
    """What a prompt asks for.

    Attributes:
        text: the prompt.
        tempo: beats per minute, if asked for.
        key: such as ``"A minor"``, if asked for.
        instruments: names; taken from the text if not given.
    """

    text: str
    tempo: float | None = None
    key: str | None = None
    instruments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Heard:
    """What was measured in a piece: tempo, key, and the probability of each instrument tag."""

    tempo: float
    key: str
    instruments: Float[np.ndarray, " tags"]


Scores = Float[np.ndarray, "pieces requests"]
"""Score of each piece against each request; NaN where a request asks for nothing of the kind."""


def score_tables(heard: Sequence[Heard], requests: Sequence[Request]) -> dict[str, Scores]:
    """One table per kind of condition that any request has."""

    def table(has: Callable[[Request], object], score: Callable[[Heard, Request], float]) -> np.ndarray:
        rows = [[score(piece, request) if has(request) else np.nan for request in requests] for piece in heard]
        return np.array(rows, dtype=np.float64)

    def has_key(request: Request) -> bool:
        return key_index(request.key) != NO_KEY

    tables = {
        "tempo within 4 %": table(
            lambda request: request.tempo,
            lambda piece, request: tempo_agrees(piece.tempo, request.tempo or 0.0, any_octave=False),
        ),
        "tempo, octaves forgiven": table(
            lambda request: request.tempo,
            lambda piece, request: tempo_agrees(piece.tempo, request.tempo or 0.0, any_octave=True),
        ),
        "key": table(has_key, lambda piece, request: float(piece.key == KEYS[key_index(request.key)])),
        "key (weighted)": table(has_key, lambda piece, request: key_score(piece.key, request.key or "")),
        "instruments (rank)": _instrument_table(heard, requests),
    }
    return {name: values for name, values in tables.items() if np.isfinite(values).any()}


def clap_table(audio: Sequence[np.ndarray], texts: Float[np.ndarray, "requests dim"]) -> Scores:
    """Cosine similarity of the mean CLAP embedding of each piece with each text."""
    pieces = np.stack([windows.mean(0) for windows in audio]).astype(np.float64)
    pieces /= np.linalg.norm(pieces, axis=1, keepdims=True).clip(min=1e-12)
    return pieces @ texts.T.astype(np.float64)


def agreement(scores: Scores, own: Int[np.ndarray, " pieces"], num_replicates: int, seed: int) -> dict[str, Estimate]:
    """Mean score of the pieces against their own requests, against shuffled ones, and the gain.

    Args:
        scores: one table of ``score_tables``.
        own: index of each piece's request; the pieces of one request are resampled together.
        num_replicates: bootstrap samples.
        seed: of the bootstrap.

    Raises:
        ValueError: fewer than two requests have the condition, so that there is nothing to shuffle.
    """
    asked = [request for request in np.unique(own) if np.isfinite(scores[:, request]).all()]
    if len(asked) < 2:
        raise ValueError(f"agreement needs two requests with the condition to compare, got {len(asked)}")
    matched, shuffled = [], []
    for request in asked:
        pieces = scores[own == request]
        matched.append(pieces[:, request].mean())
        shuffled.append(pieces[:, [other for other in asked if other != request]].mean())
    weights = bootstrap_weights(len(asked), num_replicates, seed)
    gain = np.array(matched) - np.array(shuffled)
    values = {"matched": np.array(matched), "shuffled": np.array(shuffled), "gain": gain}
    return {name: mean_estimate(value, weights) for name, value in values.items()}


def _instrument_table(heard: Sequence[Heard], requests: Sequence[Request]) -> Scores:
    """Mean over the asked tags of the part of the other pieces that have less of the tag; 0.5 is chance."""
    probabilities = np.stack([piece.instruments for piece in heard])
    below = (probabilities[:, None] > probabilities[None]).sum(1) + 0.5 * (
        (probabilities[:, None] == probabilities[None]).sum(1) - 1
    )
    ranks = below / max(1, len(heard) - 1)
    table = np.full((len(heard), len(requests)), np.nan)
    for column, request in enumerate(requests):
        tags = asked_instruments(request.instruments or request.text)
        if tags:
            table[:, column] = ranks[:, [INSTRUMENT_TAGS.index(tag) for tag in tags]].mean(1)
    return table
