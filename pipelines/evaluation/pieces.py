"""Evaluation of generated (or any captioned) pieces: figures of each piece and of the set, agreement with requests."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from autoencoder.audio import read_audio
from latent_diffusion.conditions import key_index, tempo_value
from pipelines.evaluation.agreement import Heard, Request, agreement, clap_table, score_tables
from pipelines.evaluation.coding import MIN_ITEMS, set_distances
from pipelines.evaluation.embeddings import EmbeddingModel
from pipelines.evaluation.listening import clipping_rate, loudness, side_level, silence_rate
from pipelines.evaluation.musical import instrument_scores, measured_key, measured_tempo
from pipelines.evaluation.novelty import directions, diversity, loop_seam_rank, nearest_distances, seam_rank
from pipelines.evaluation.results import Metric, SystemResult, content_hash
from pipelines.evaluation.statistics import Estimate, bootstrap_weights, mean_estimate

PIECE_METRICS = {
    "duration error (s)": Metric("zero", "length of the audio minus what was asked for"),
    "loudness (LUFS)": Metric("none", "integrated loudness, ITU-R BS.1770; -70 is silence"),
    "side level (dB)": Metric("none", "energy of left minus right against left plus right; stereo only"),
    "silent part": Metric("lower", "part of the audio below -60 dB"),
    "clipped part": Metric("lower", "part of the samples in runs at full scale"),
    "seam rank": Metric("lower", "part of the piece that changes less abruptly than its seams; 0.5 is unremarkable"),
    "loop seam rank": Metric("lower", "the same where the end of a loop meets its beginning"),
}
AGREEMENT_METRICS = {
    "tempo within 4 %": Metric("higher", "part of the pieces whose measured tempo is the one asked for"),
    "tempo, octaves forgiven": Metric("higher", "the same, or its double, half, triple or third"),
    "key": Metric("higher", "part of the pieces whose measured key is the one asked for"),
    "key (weighted)": Metric("higher", "MIREX score of the measured key: 1 right, .5 fifth, .3 relative, .2 parallel"),
    "instruments (rank)": Metric(
        "higher", "rank of the piece for the asked instruments among all pieces; .5 is chance"
    ),
    "CLAP score": Metric("higher", "cosine similarity of audio and prompt in CLAP's space, -1 to 1"),
}


@dataclass(frozen=True)
class Piece:
    """One audio file and what it was meant to be.

    Attributes:
        name: of the piece.
        path: of the audio.
        request: index of the request it answers.
        seconds: length asked for, if any.
        seams: places of edits, in seconds.
        is_loop: whether its end should meet its beginning.
    """

    name: str
    path: Path
    request: int
    seconds: float | None = None
    seams: tuple[float, ...] = ()
    is_loop: bool = False


@dataclass(frozen=True)
class PieceResult:
    """What was measured in one piece; ``embeddings`` are (windows, dim) by model."""

    piece: Piece
    content: str
    figures: dict[str, float]
    heard: Heard
    embeddings: dict[str, Float[np.ndarray, "windows dim"]]


def read_requests(path: Path, limit: int | None = None) -> tuple[list[Request], list[dict[str, Any]]]:
    """Requests of a JSON-lines file in AudioFolder's layout, and its records.

    Raises:
        ValueError: there is no such file, or a line is no JSON, has no text, or an impossible tempo or key; line and
            remedy are named.
    """
    if not path.is_file():
        raise ValueError(f'there is no file {path}; expected JSON lines such as {{"text": "slow piano", "tempo": 70}}')
    requests: list[Request] = []
    records: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or (limit is not None and len(records) == limit):
            continue
        try:
            record = json.loads(line)
            tempo, key = record.get("tempo"), record.get("key")
            tempo_value(tempo)
            key_index(key)
            instruments = record.get("instruments") or ()
            instruments = (instruments,) if isinstance(instruments, str) else tuple(instruments)
            requests.append(Request(record["text"], tempo, key, instruments))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f'{path} line {number}: expected a line like {{"text": "slow piano", "tempo": 70, "key": "C major"}}, '
                f"tempo and key optional; {error!r}"
            ) from error
        records.append(record)
    if not records:
        raise ValueError(f"{path} holds no prompts; expected one JSON object with a text per line")
    return requests, records


def measure_piece(piece: Piece, sample_rate: int, embeddings: Sequence[EmbeddingModel]) -> PieceResult:
    """Read and measure one piece."""
    waveform = read_audio(piece.path, sample_rate)
    actual = waveform.shape[-1] / sample_rate
    seams = [seam_rank(waveform, sample_rate, seconds) for seconds in piece.seams]
    figures = {
        "duration error (s)": actual - piece.seconds if piece.seconds is not None else float("nan"),
        "loudness (LUFS)": loudness(waveform, sample_rate),
        "side level (dB)": side_level(waveform),
        "silent part": silence_rate(waveform, sample_rate),
        "clipped part": clipping_rate(waveform),
        "seam rank": float(np.mean(seams)) if seams else float("nan"),
        "loop seam rank": loop_seam_rank(waveform, sample_rate) if piece.is_loop else float("nan"),
    }
    return PieceResult(
        piece=piece,
        content=content_hash(waveform.numpy()),
        figures=figures,
        heard=hear(waveform, sample_rate),
        embeddings={model.name: model(waveform, sample_rate) for model in embeddings},
    )


def hear(waveform: Float[Tensor, "channels samples"], sample_rate: int) -> Heard:
    """Tempo, key and instruments."""
    return Heard(
        tempo=measured_tempo(waveform, sample_rate),
        key=measured_key(waveform, sample_rate),
        instruments=instrument_scores(waveform, sample_rate),
    )


@dataclass(frozen=True)
class Known:
    """What pieces are compared with.

    Attributes:
        reference: embeddings of real clips by model; they give the set distances and the centre of all directions.
        training: embeddings of the training set by model; empty to leave memorisation out.
        requests: what was asked for.
        clap_texts: unit CLAP embeddings of the requests, if there is a CLAP model.
        clap_name: name of that model among the embeddings.
    """

    reference: dict[str, list[np.ndarray]]
    training: dict[str, list[np.ndarray]]
    requests: Sequence[Request]
    clap_texts: Float[np.ndarray, "requests dim"] | None = None
    clap_name: str = ""


def summarise_pieces(
    results: Sequence[PieceResult], known: Known, num_replicates: int, seed: int, *, is_reference: bool = False
) -> SystemResult:
    """All figures of a set of pieces. Requests are resampled, with all of their pieces.

    Args:
        results: of the pieces.
        known: what they are compared with.
        num_replicates: bootstrap samples.
        seed: of the bootstrap.
        is_reference: the pieces are in the reference themselves, so that their distance from it means nothing.
    """
    own = np.array([result.piece.request for result in results])
    weights = bootstrap_weights(len(np.unique(own)), num_replicates, seed)
    columns = {name: np.array([result.figures[name] for result in results]) for name in PIECE_METRICS}
    summary = SystemResult()
    for model, reference in known.reference.items():
        items = [result.embeddings[model] for result in results]
        centre = np.concatenate(reference).mean(0).astype(np.float64)
        grouped = [np.concatenate([items[index] for index in np.flatnonzero(own == k)]) for k in np.unique(own)]
        if not is_reference:
            columns[f"typicality {model}"] = typicality(items, reference, centre)
            if min(len(grouped), len(reference)) >= MIN_ITEMS:
                summary.estimates |= set_distances(model, reference, grouped, False, num_replicates, seed)
        if known.training.get(model):
            nearest = nearest_distances(items, known.training[model], centre)
            columns[f"distance to training {model}"] = np.array(nearest)
        for name, values in diversities(items, own, centre).items():
            if np.isfinite(values).any():
                summary.estimates[f"{name} {model}"] = mean_estimate(values, weights)
    for name, values in columns.items():
        if np.isfinite(values).any():
            summary.estimates[name] = mean_estimate(_by_request(values, own), weights)
    summary.estimates |= agreements(results, own, known, num_replicates, seed)
    for index, result in enumerate(results):
        heard = {"measured tempo": result.heard.tempo}
        summary.items[result.piece.name] = {name: float(values[index]) for name, values in columns.items()} | heard
    return summary


def agreements(
    results: Sequence[PieceResult], own: np.ndarray, known: Known, num_replicates: int, seed: int
) -> dict[str, Estimate]:
    """Agreement with what was asked for: matched, shuffled and the gain, of every kind that two requests have."""
    tables = score_tables([result.heard for result in results], known.requests)
    if known.clap_texts is not None:
        tables["CLAP score"] = clap_table([result.embeddings[known.clap_name] for result in results], known.clap_texts)
    estimates: dict[str, Estimate] = {}
    for name, table in tables.items():
        if sum(np.isfinite(table[:, request]).all() for request in np.unique(own)) >= 2:
            parts = agreement(table, own, num_replicates, seed)
            estimates |= {name: parts["matched"], f"{name}, shuffled": parts["shuffled"]}
            estimates[f"{name}, gain"] = parts["gain"]
    return estimates


def typicality(items: Sequence[np.ndarray], reference: Sequence[np.ndarray], centre: np.ndarray) -> np.ndarray:
    """Cosine similarity of each piece's mean embedding to the most similar reference clip."""
    pieces, real = (
        np.concatenate(directions([item.mean(0, keepdims=True) for item in group], centre))
        for group in (items, reference)
    )
    return (pieces @ real.T).max(1)


def diversities(items: Sequence[np.ndarray], own: np.ndarray, centre: np.ndarray) -> dict[str, np.ndarray]:
    """Per request: cosine distance among its own pieces, and from its pieces to those of other requests."""
    unit = np.concatenate(directions([item.mean(0, keepdims=True) for item in items], centre))
    between_seeds, between_requests = [], []
    for request in np.unique(own):
        mine = np.flatnonzero(own == request).tolist()
        between_seeds.append(diversity([items[index] for index in mine], centre))
        others = unit[own != request]
        between_requests.append(float(1 - (unit[mine] @ others.T).mean()) if len(others) else float("nan"))
    return {"diversity of seeds": np.array(between_seeds), "diversity of prompts": np.array(between_requests)}


def piece_metrics(names: Sequence[str], held_out: str | None) -> dict[str, Metric]:
    """How to read the figures that depend on embeddings, and the agreements."""
    metrics = {}
    for name, metric in AGREEMENT_METRICS.items():
        metrics[name] = metric
        metrics[f"{name}, shuffled"] = Metric("none", f"{name}, against the requests of other prompts: chance")
        metrics[f"{name}, gain"] = Metric(
            "higher", f"{name}, own minus shuffled requests; 0 if the request is ignored"
        )
    for name in names:
        which = f"{name}{' (held out)' if name == held_out else ''}"
        metrics[f"diversity of seeds {name}"] = Metric("higher", f"cosine distance among pieces of a prompt, {which}")
        metrics[f"diversity of prompts {name}"] = Metric("higher", f"cosine distance between prompts, {which}")
        metrics[f"distance to training {name}"] = Metric(
            "none", f"cosine distance of the nearest window of the training set, {which}; 0 is a copy"
        )
        metrics[f"typicality {name}"] = Metric("higher", f"cosine similarity to the nearest reference clip, {which}")
    return metrics


def _by_request(values: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Mean over the pieces of each request that have a value."""
    means = []
    for request in np.unique(own):
        mine = values[own == request]
        mine = mine[np.isfinite(mine)]
        means.append(mine.mean() if len(mine) else np.nan)
    return np.array(means)
