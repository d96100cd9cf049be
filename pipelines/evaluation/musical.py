"""Tempo, key and instruments as measuring tools hear them. Each errs on real music too: compare with real clips.

Sources
    KP   key profiles of Kostka and Payne's harmonies, in Temperley 2007, Music and Probability
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
from torch import Tensor

from latent_diffusion.conditions import KEYS, key_index
from pipelines.evaluation import basic_pitch
from pipelines.evaluation.embeddings import musicnn_folder, prepared, transcriber
from pipelines.evaluation.musicnn import MTT_TAGS, SAMPLE_RATE, MusiCNN, apply_musicnn

ANALYSIS_RATE = 22_050  # librosa's own
TEMPO_HOP = 256  # samples; with twice as many, neighbouring tempos lie as far apart as the tolerance
USUAL_TEMPO = 100.0  # centre of the prior; librosa's own, 120, doubles slow pieces (docs/experiments.md)
TEMPO_TOLERANCE = 0.04  # MIREX tempo estimation
OCTAVES = (1.0, 2.0, 0.5, 3.0, 1 / 3)
HEARD = 0.3  # Basic Pitch's own threshold
MAJOR = np.array([0.748, 0.060, 0.488, 0.082, 0.670, 0.460, 0.096, 0.715, 0.104, 0.366, 0.057, 0.400])  # KP
MINOR = np.array([0.712, 0.084, 0.474, 0.618, 0.049, 0.460, 0.105, 0.747, 0.404, 0.067, 0.133, 0.330])  # KP
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
    """The key, such as ``"F# minor"``, whose profile (KP) correlates most with the pitch classes of what is played.

    Notes are heard by a transcription network. A note counts by how long it is heard and by how often it is struck;
    the square root keeps a bass that never stops from deciding alone.

    "" for silence, and for less than three seconds, in which a key is hardly heard.
    """
    mono = prepared(waveform, sample_rate, basic_pitch.SAMPLE_RATE)
    if len(mono) < 3 * basic_pitch.SAMPLE_RATE or not mono.any():
        return ""
    notes, onsets = transcriber()(mono)
    heard = notes / 2 + onsets
    heard = np.where(heard > HEARD, heard, 0).mean((0, 1))
    pitch_classes = (np.arange(len(heard)) + basic_pitch.LOWEST_NOTE) % 12
    chroma = np.sqrt(np.bincount(pitch_classes, heard, minlength=12))
    if not chroma.any():
        return ""
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
