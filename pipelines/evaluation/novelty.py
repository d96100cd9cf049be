"""How different pieces are from each other, how near to the training set, and whether their seams show."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from autoencoder.metrics import log_mel

SEAM_SECONDS = 0.05
Items = Sequence[Float[np.ndarray, "_ dim"]]
"""(windows, dim) of each piece."""


def directions(items: Items, centre: Float[np.ndarray, " dim"]) -> list[Float[np.ndarray, "_ dim"]]:
    """Unit vectors from the centre of the reference; without it all embeddings point nearly the same way."""
    shifted = [item.astype(np.float64) - centre for item in items]
    return [item / np.linalg.norm(item, axis=1, keepdims=True).clip(min=1e-12) for item in shifted]


def diversity(items: Items, centre: Float[np.ndarray, " dim"]) -> float:
    """Mean cosine distance between the mean embeddings of pieces, 0 for equal ones; NaN for a single piece."""
    if len(items) < 2:
        return float("nan")
    means = np.concatenate(directions([item.mean(0, keepdims=True) for item in items], centre))
    similarity = means @ means.T
    return float(1 - similarity[np.triu_indices(len(items), 1)].mean())


def nearest_distances(items: Items, training: Items, centre: Float[np.ndarray, " dim"]) -> list[float]:
    """Cosine distance of each piece's most similar window to any window of the training set; 0 is a copy."""
    known = np.concatenate(directions(training, centre))
    return [float(1 - (windows @ known.T).max()) for windows in directions(items, centre)]


def seam_rank(waveform: Float[Tensor, "channels samples"], sample_rate: int, seconds: float) -> float:
    """Part of the piece that changes less abruptly than the place of a seam; 0.5 if the seam is like any place.

    Abruptness is the largest change of the log-mel spectrum between neighbouring frames within 50 ms.

    Raises:
        ValueError: the seam lies outside of the piece.
    """
    duration = waveform.shape[-1] / sample_rate
    if not SEAM_SECONDS < seconds < duration - SEAM_SECONDS:
        raise ValueError(f"a seam must lie inside of the piece of {duration:.2f} s, got {seconds} s")
    spectrum = log_mel(waveform.mean(0), sample_rate)
    flux = (spectrum[:, 1:] - spectrum[:, :-1]).abs().mean(0)
    frame_seconds = duration / spectrum.shape[-1]
    reach = max(1, round(SEAM_SECONDS / frame_seconds))
    padded = torch.nn.functional.pad(flux[None], (reach, reach), value=0.0)
    abruptness = padded.unfold(-1, 2 * reach + 1, 1).amax(-1)[0]
    place = min(round(seconds / frame_seconds), len(abruptness) - 1)
    far = (torch.arange(len(abruptness)) - place).abs() > 2 * reach  # places that do not see the seam
    others = abruptness[far]
    below = (others < abruptness[place]).float().mean() + 0.5 * (others == abruptness[place]).float().mean()
    return below.item()


def loop_seam_rank(waveform: Float[Tensor, "channels samples"], sample_rate: int) -> float:
    """``seam_rank`` of the place where the end of a loop meets its beginning."""
    half = waveform.shape[-1] // 2
    return seam_rank(waveform.roll(half, dims=-1), sample_rate, half / sample_rate)
