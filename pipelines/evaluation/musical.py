"""Tempo, key and instruments as measuring tools hear them. Each errs on real music too: compare with real clips.

Sources
    AS   Albrecht and Shanahan 2013, https://doi.org/10.1525/mp.2013.31.1.59, key profiles
    HPCP Gómez 2006, https://hdl.handle.net/10803/7537, pitch classes from spectral peaks
    RAF  Raffel et al. 2014, mir_eval (the weighted key score of MIREX)
"""

import re
from collections.abc import Sequence
from functools import cache

import librosa
import mir_eval
import numpy as np
from jaxtyping import Float
from librosa.onset import onset_strength
from scipy.ndimage import median_filter
from torch import Tensor

from latent_diffusion.conditions import KEYS, key_index
from pipelines.evaluation.embeddings import musicnn_folder, prepared
from pipelines.evaluation.musicnn import MTT_TAGS, SAMPLE_RATE, MusiCNN, apply_musicnn

ANALYSIS_RATE = 22_050  # librosa's own
TEMPO_HOP = 256  # samples; with twice as many, neighbouring tempos lie as far apart as the tolerance
USUAL_TEMPO = 100.0  # centre of the prior; librosa's own, 120, doubles slow pieces (docs/experiments.md)
TEMPO_TOLERANCE = 0.04  # MIREX tempo estimation
OCTAVES = (1.0, 2.0, 0.5, 3.0, 1 / 3)
BINS_PER_OCTAVE = 36
NEIGHBOURHOOD = 24  # bins: a peak stands out of the median of eight semitones
PEAK_RANGE = 100.0  # peaks below a hundredth of the largest hardly count
MAJOR = np.array([0.238, 0.006, 0.111, 0.006, 0.137, 0.094, 0.016, 0.214, 0.009, 0.080, 0.008, 0.081])  # AS
MINOR = np.array([0.220, 0.006, 0.104, 0.123, 0.019, 0.103, 0.012, 0.214, 0.062, 0.022, 0.061, 0.052])  # AS
INSTRUMENT_TAGS = [
    "guitar", "strings", "drums", "piano", "violin", "vocal", "synth", "harpsichord", "flute", "sitar", "choir",
    "harp", "cello",
]  # fmt: skip
"""The MTT tags that are instruments."""


def measured_tempo(waveform: Float[Tensor, "channels samples"], sample_rate: int) -> float:
    """Beats per minute (librosa's tempogram with its log-normal prior); NaN for audio without onsets."""
    mono = prepared(waveform, sample_rate, ANALYSIS_RATE).numpy()
    onsets = onset_strength(y=mono, sr=ANALYSIS_RATE, hop_length=TEMPO_HOP)
    if not np.any(onsets > 1e-6):
        return float("nan")
    settings = {"sr": ANALYSIS_RATE, "hop_length": TEMPO_HOP, "start_bpm": USUAL_TEMPO}
    return float(librosa.feature.tempo(onset_envelope=onsets, **settings)[0])


def measured_key(waveform: Float[Tensor, "channels samples"], sample_rate: int) -> str:
    """The key, such as ``"F# minor"``, whose profile correlates most with the pitch classes of the tonal peaks (AS).

    Peaks of the mean spectrum, not all of it (HPCP): drums and the noise of a codec raise whole bands. Their levels
    count by the logarithm, so that the bass does not decide alone.

    "" for silence, and for less than three seconds, in which a key is hardly heard.
    """
    mono = prepared(waveform, sample_rate, ANALYSIS_RATE).numpy()
    if len(mono) < 3 * ANALYSIS_RATE or not np.any(mono):
        return ""
    bins = {"fmin": librosa.note_to_hz("C2"), "n_bins": 6 * BINS_PER_OCTAVE, "bins_per_octave": BINS_PER_OCTAVE}
    spectrum = np.abs(librosa.cqt(mono, sr=ANALYSIS_RATE, tuning=0.0, **bins)).mean(1)
    peaks = np.maximum(spectrum - median_filter(spectrum, size=NEIGHBOURHOOD), 0)
    levels = np.log1p(PEAK_RANGE * peaks / max(peaks.max(), 1e-9)).reshape(-1, BINS_PER_OCTAVE)
    # three bins a semitone, the middle one in tune
    chroma = np.roll(levels, 1, axis=1).reshape(len(levels), 12, 3).max(2).sum(0)
    profiles = np.stack([np.roll(profile, tonic) for profile in (MAJOR, MINOR) for tonic in range(12)])
    scores = np.corrcoef(np.vstack([chroma, profiles]))[0, 1:]
    return KEYS[int(np.argmax(scores))]


def tempo_agrees(measured: float, asked: float, *, any_octave: bool) -> float:
    """1 if the tempo is within 4 % of what was asked for (or of its double, half, triple, third), else 0."""
    factors = OCTAVES if any_octave else (1.0,)
    return float(any(abs(measured - factor * asked) <= TEMPO_TOLERANCE * factor * asked for factor in factors))


def key_score(measured: str, asked: str) -> float:
    """1 for the key, .5 a fifth above, .3 for the relative, .2 for the parallel key, else 0 (MIREX, RAF)."""
    if not measured:
        return 0.0
    return float(mir_eval.key.weighted_score(KEYS[key_index(asked)], measured))


def instrument_scores(waveform: Float[Tensor, "channels samples"], sample_rate: int) -> Float[np.ndarray, " tags"]:
    """Probability of each of ``INSTRUMENT_TAGS``, mean over windows of 3 s (musicnn, MTT)."""
    _, tags = apply_musicnn(_tagger(), prepared(waveform, sample_rate, SAMPLE_RATE))
    return tags.mean(0)[[MTT_TAGS.index(tag) for tag in INSTRUMENT_TAGS]].astype(np.float64)


def asked_instruments(words: str | Sequence[str]) -> tuple[str, ...]:
    """The tags that a caption or a list of instrument names asks for, whole words only."""
    text = words if isinstance(words, str) else " ".join(words)
    return tuple(tag for tag in INSTRUMENT_TAGS if re.search(rf"\b{tag}s?\b", text.lower()))


@cache
def _tagger() -> MusiCNN:
    return MusiCNN.from_checkpoint(musicnn_folder("MTT"))
