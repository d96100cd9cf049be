"""Tempo and key as a text states them: numbers in words reach the transformer as numbers."""

import logging
import re

from latent_diffusion.conditions import KEY_PATTERN, MAX_TEMPO, MIN_TEMPO, key_name

logger = logging.getLogger(__name__)
_NUMBER = r"(\d+(?:\.\d+)?)"
_RANGE = rf"(?:{_NUMBER} ?(?:-|\u2013|to|and) ?)?{_NUMBER}"
_BPM = r"(?:bpm|b\.p\.m|beats?[ -/](?:per|a)?[ -]?min)"
TEMPO_PATTERN = (
    rf"(?<!\d[.,/])(?<!\d){_RANGE}[ -]*{_BPM}"
    # not of "up-tempo 80s pop"
    rf"|(?<![\w-])(?:bpm|tempo)(?: of| at| is)? ?[:=]? ?{_RANGE}(?![\d.,]*['\u2019]?[a-z\d])"
)
WIDEST_RANGE = 2.0  # the upper end in parts of the lower: "track 30 - 120 bpm" is none


def stated_tempo(text: str) -> float | None:
    """The first tempo that a text states in numbers, as in "120 bpm" or "tempo: 90"; None without one.

    Of a range, as in "80-90 bpm", the middle. Numbers that are no tempo of music are passed over with a warning.
    """
    for found in re.finditer(TEMPO_PATTERN, text, re.IGNORECASE):
        ends = [float(end) for end in found.groups() if end]
        is_range = MIN_TEMPO <= ends[0] < ends[-1] <= WIDEST_RANGE * ends[0]
        unit_follows = found[2] is not None
        tempo = sum(ends) / len(ends) if is_range else ends[-1 if unit_follows else 0]
        if MIN_TEMPO <= tempo <= MAX_TEMPO:
            return tempo
        limits = f"{MIN_TEMPO:.0f} to {MAX_TEMPO:.0f}"
        logger.warning("the prompt states %r, which is no tempo from %s: not read", found[0], limits)
    return None


def stated_key(text: str) -> str | None:
    """The first key that a text states, as in "in F# minor" or "B-flat major"; None without one.

    An "a" in small letters, or an "A" that begins the text or a sentence, is taken for the article.
    """
    for found in re.finditer(rf"(?<![\w#'])(?:{KEY_PATTERN})\b", text, re.IGNORECASE):
        before = text[: found.start()].rstrip(" \"'(")
        is_article = found[1] == "a" or not before or before[-1] in ".!?"
        if found[1] not in "Aa" or found[2] or found[3] or not is_article:
            return key_name(found)
    return None
