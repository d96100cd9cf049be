"""Source ``patterns``: our own compositions, free of anybody's rights.

``STYLES`` is the one list of styles. ``compose`` is a pure function of style, seed and length.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

import numpy as np

from scripts.demo_dataset import band_styles, beat_styles
from scripts.demo_dataset.pieces import OWN_CREDIT, OWN_LICENCE, Job, Performance, Piece, Studio
from scripts.demo_dataset.synthesis import render

STYLES: Mapping[str, Callable[[np.random.Generator, float], Piece]] = MappingProxyType(
    {
        "lofi": beat_styles.lofi,
        "solo piano": band_styles.solo_piano,
        "house": beat_styles.house,
        "techno": beat_styles.techno,
        "drum and bass": beat_styles.drum_and_bass,
        "funk": beat_styles.funk,
        "reggae": band_styles.reggae,
        "bossa nova": band_styles.bossa_nova,
        "waltz": band_styles.waltz,
        "ambient": band_styles.ambient,
        "cinematic": band_styles.cinematic,
    }
)
SHARES = MappingProxyType({"lofi": 4, "solo piano": 2, "house": 2})
"""Clips of a style in each round through all styles; one where not given."""


def compose(style: str, seed: Sequence[int], seconds: float) -> Piece:
    """The piece of a style for a seed, with the notes that sound within ``seconds``.

    Raises:
        ValueError: there is no such style.
    """
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}; expected one of: {', '.join(STYLES)}")
    return STYLES[style](np.random.default_rng(seed), seconds).audible(seconds)


def perform(style: str, seed: Sequence[int], studio: Studio) -> Performance:
    """Compose and render one clip."""
    piece = compose(style, seed, studio.seconds)
    return Performance(render(piece, studio), piece.facts)


def plan(num_clips: int, styles: Sequence[str], seed: int) -> list[Job]:
    """One job per clip, going round the styles by their shares; no two clips share a piece.

    Args:
        num_clips: how many.
        styles: names in ``STYLES``; empty for all.
        seed: of the whole data set.
    """
    unknown = sorted(set(styles) - set(STYLES))
    if unknown:
        raise ValueError(f"unknown styles {unknown}; expected some of: {', '.join(STYLES)}")
    chosen = [style for style in STYLES if not styles or style in styles]
    rounds = [style for style in chosen for _ in range(SHARES.get(style, 1))]
    jobs = []
    for index in range(num_clips):
        style = rounds[index % len(rounds)]
        name = f"{style.replace(' ', '_')}_{index:05d}"
        jobs.append(
            Job(
                name=name,
                piece=name,
                source="patterns",
                licence=OWN_LICENCE,
                credit=OWN_CREDIT,
                perform=partial(perform, style, (seed, index)),
            )
        )
    return jobs
