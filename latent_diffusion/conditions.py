"""What a piece can be asked for besides its text: tempo, beats, key, kept context, with their "not given" values."""

import re
from numbers import Real

import torch
from jaxtyping import Float, Int
from torch import Tensor

TONICS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
FLATS = {"Db": "C#", "Eb": "D#", "Gb": "F#", "Ab": "G#", "Bb": "A#", "Cb": "B", "Fb": "E", "E#": "F", "B#": "C"}
MODES = ("major", "minor")
SIGNS = {"#": "#", "♯": "#", "sharp": "#", "b": "b", "♭": "b", "flat": "b"}
KEY_PATTERN = r"([A-G])(?: ?([#♯b♭])|[ -](sharp|flat))?[ -]*(maj|min)(?:or)?"
KEYS = tuple(f"{tonic} {mode}" for mode in MODES for tonic in TONICS)
NO_KEY = len(KEYS)
NO_TEMPO = 0.0
MIN_TEMPO, MAX_TEMPO = 20.0, 400.0
BEAT_CYCLE = 48.0
"""Beats after which their count begins again: whole bars of every usual metre."""
NO_BEAT = -1.0


def key_index(key: str | None) -> int:
    """Number of a key such as ``"F# minor"`` or ``"Bb major"``; ``NO_KEY`` for None, and for "none", music in no key.

    Raises:
        ValueError: it is not one of the 24 keys.
    """
    text = "none" if key is None else " ".join(str(key).split())
    if text.lower() == "none":
        return NO_KEY
    found = re.fullmatch(KEY_PATTERN, text, re.IGNORECASE)
    name = key_name(found) if found else ""
    if name not in KEYS:
        raise ValueError(f"key must be a tonic and a mode such as 'F# minor' or 'Bb major', or 'none', got {key!r}")
    return KEYS.index(name)


def key_name(found: re.Match[str]) -> str:
    """The name in ``KEYS`` of what ``KEY_PATTERN`` matched."""
    tonic = found[1].upper() + SIGNS.get((found[2] or found[3] or "").lower(), "")
    return f"{FLATS.get(tonic, tonic)} {found[4].lower()}or"


def tempo_value(tempo: float | None) -> float:
    """Tempo in beats per minute; ``NO_TEMPO`` for None, and for 0, music that keeps none.

    Raises:
        ValueError: it lies outside of what music has.
    """
    if tempo is None or tempo == NO_TEMPO:
        return NO_TEMPO
    if not isinstance(tempo, Real) or not MIN_TEMPO <= float(tempo) <= MAX_TEMPO:
        limits = f"{MIN_TEMPO:.0f} to {MAX_TEMPO:.0f} beats per minute"
        raise ValueError(f"tempo must be a number from {limits}, or 0 for none, got {tempo!r}")
    return float(tempo)


def beats_at(
    seconds: Float[Tensor, "*batch frames"], tempo: Float[Tensor, "*#batch 1"]
) -> Float[Tensor, "*batch frames"]:
    """Beats, modulo ``BEAT_CYCLE``, at moments counted from a bar line; ``NO_BEAT`` where there is no tempo."""
    return torch.where(tempo > 0, (seconds * tempo / 60) % BEAT_CYCLE, NO_BEAT)


def whole_beats(seconds: float, tempo: float) -> float:
    """Length nearest to ``seconds`` that holds a whole number of beats, at least one."""
    return max(round(seconds * tempo / 60), 1) * 60 / tempo


def random_context_mask(
    uniform: Float[Tensor, "batch 8"], lengths: Int[Tensor, " batch"], num_frames: int
) -> Float[Tensor, "batch 1 frames"]:
    """Frames that are kept as context in training: 1 where kept.

    One of three kinds, equally likely: a prefix to be continued, a suffix to be led up to, or everything but one to
    three segments to be filled in. No value leaves the device.

    Args:
        uniform: random numbers in [0, 1), eight per item.
        lengths: real frames of each item; nothing beyond is kept.
        num_frames: frames of the padded batch.
    """
    place = (torch.arange(num_frames, device=uniform.device) + 0.5) / lengths[:, None]
    kind, kept = uniform[:, 0, None], 0.1 + 0.8 * uniform[:, 1, None]
    around_segments = torch.ones_like(place, dtype=torch.bool)
    for k in range(3):
        start, width = uniform[:, 2 + 2 * k, None], 0.1 + 0.3 * uniform[:, 3 + 2 * k, None]
        is_used = uniform[:, 1, None] >= k / 3
        around_segments &= ~(is_used & (place >= start * (1 - width)) & (place < start * (1 - width) + width))
    mask = torch.where(kind < 1 / 3, place < kept, torch.where(kind < 2 / 3, place >= 1 - kept, around_segments))
    return (mask & (place < 1)).float()[:, None]
