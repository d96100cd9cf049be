"""Tempos and keys that a prompt states."""

import pytest

from latent_diffusion.conditions import NO_KEY, key_index
from latent_diffusion.stated import stated_key, stated_tempo


@pytest.mark.parametrize(
    ("text", "tempo"),
    [
        ("lofi beat, 82 bpm", 82),
        ("Techno at 132.5 BPM.", 132.5),
        ("a 90-bpm groove", 90),
        ("House, 120 beats per minute, then 90 bpm", 120),
        ("150bpm", 150),
        ("techno,130  bpm", 130),
        ("tempo: 90", 90),
        ("Tempo of 128, dark", 128),
        ("BPM=133", 133),
        ("90 beats a minute", 90),
        ("90 b.p.m.", 90),
        ("80-90 bpm", 85),
        ("between 120 and 130 bpm", 125),
        ("10 bpm drone, then 120 bpm", 120),
        ("1,200 bpm", None),
        ("1999 bpm", None),
        ("12 bpm", None),
        ("up-tempo from 1990", None),
        ("up-tempo 80s synth pop", None),
        ("mid-tempo 90's ballad", None),
        ("up-tempo 90s eurodance, 140 bpm", 140),
        ("piano loop 3 - 90 bpm", 90),
        ("track 30 - 120 bpm", 120),
        ("tempo 120-130", 125),
        ("tempo 100 and 4 violins", 100),
        ("tempo changes, 5 parts", None),
        ("lofi from 1982", None),
        ("techno, 16 bars", None),
        ("", None),
    ],
)
def test_a_tempo_in_the_text_is_read(text, tempo):
    assert stated_tempo(text) == tempo


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("lofi in F# minor", "F# minor"),
        ("A calm piece in A minor.", "A minor"),
        ("C minor waltz", "C minor"),
        ("jazz, B-flat major", "A# major"),
        ("F sharp minor", "F# minor"),
        ("E♭ major, then C major", "D# major"),
        ("A minor hit of the eighties", None),
        ("Loud. A major event", None),
        ("Ab minor ballad", "G# minor"),
        ("a minor chord, then C major", "C major"),
        ("prelude in c-sharp minor", "C# minor"),
        ("in a minor", None),
        ("F#m", None),
        ("lofi, F#min", "F# minor"),
        ("C  MINOR", "C minor"),
        ("'A minor' music", None),
        ("piano (B♭ major)", "A# major"),
        ("DJ BC major", None),
        ("piano", None),
    ],
)
def test_a_key_in_the_text_is_read(text, key):
    assert stated_key(text) == key
    assert key is None or key_index(key) < NO_KEY


def test_a_number_that_is_no_tempo_is_named(caplog):
    assert stated_tempo("500 bpm noise") is None
    assert "the prompt states '500 bpm', which is no tempo from 20 to 400: not read" in caplog.text
