"""Keys, chords and voice leading.

Symbols
    pitch     MIDI note number, 60 is middle C
    tonic     pitch class 0 (C) to 11 (B)
    degree    step of the scale counted from 0; 7 is the tonic an octave higher, negative degrees lie below
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

TONICS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
NUMERALS = ("I", "II", "III", "IV", "V", "VI", "VII")
_LETTERS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_ACCIDENTALS = {"#": 1, "b": -1, "": 0}


@dataclass(frozen=True)
class Key:
    """One of the 24 keys; minor is natural minor, and a major dominant is asked for by an upper-case ``V``."""

    tonic: int
    mode: str

    def __str__(self) -> str:
        return f"{TONICS[self.tonic]} {self.mode}"

    @property
    def pitch_classes(self) -> frozenset[int]:
        """The seven pitch classes of the scale."""
        return frozenset((self.tonic + step) % 12 for step in SCALES[self.mode])

    def pitch(self, degree: int, octave: int = 4) -> int:
        """Pitch of a scale degree; octave 4 holds middle C."""
        return 12 * (octave + 1) + self.tonic + SCALES[self.mode][degree % 7] + 12 * (degree // 7)

    def nearest_degree(self, pitch: int) -> int:
        """Scale degree (octave 4) closest to ``pitch``; the lower one of two equally close."""
        return min(range(-35, 40), key=lambda degree: (abs(self.pitch(degree) - pitch), degree))

    @classmethod
    def parse(cls, name: str) -> "Key":
        """Read ``"F# minor"`` or ``"Bb major"``; flats become the sharps that ``str`` writes."""
        match = re.fullmatch(r"([A-G])([#b]?) (major|minor)", name)
        if match is None:
            raise ValueError(f"expected a key such as 'F# minor' or 'Bb major', got {name!r}")
        letter, accidental, mode = match.groups()
        return cls((_LETTERS[letter] + _ACCIDENTALS[accidental]) % 12, mode)


@dataclass(frozen=True)
class Chord:
    """A chord as semitones above C of its octave: root first, then third, fifth, seventh and ninth, as far as used."""

    notes: tuple[int, ...]

    @property
    def root(self) -> int:
        """Pitch class of the root."""
        return self.notes[0] % 12

    @property
    def pitch_classes(self) -> tuple[int, ...]:
        """Pitch classes, root first."""
        return tuple(note % 12 for note in self.notes)


def build_chord(key: Key, numeral: str, size: int = 4) -> Chord:
    """Stack ``size`` thirds (3 triad, 4 seventh, 5 ninth) on a Roman numeral.

    The case of the numeral sets the third (``V`` in minor has the leading tone, ``iv`` in major is borrowed). A ninth
    that would be a semitone above the root is left out: it sounds wrong on these instruments.
    """
    if numeral.upper() not in NUMERALS:
        raise ValueError(f"expected a Roman numeral from I to VII in either case, got {numeral!r}")
    degree = NUMERALS.index(numeral.upper())
    notes = [key.pitch(degree + 2 * step, octave=-1) for step in range(size)]
    notes[1] = notes[0] + (4 if numeral.isupper() else 3)
    if size == 5 and notes[4] - notes[0] == 13:
        notes.pop()
    return Chord(tuple(notes))


def voicing(chord: Chord, previous: Sequence[int], low: int, rootless: bool = False) -> tuple[int, ...]:
    """Place a chord within the octave and a half above ``low``, moving as little as possible from ``previous``.

    Args:
        chord: what to play.
        previous: pitches of the chord before; empty at the start, where the lowest position is taken.
        low: lowest pitch allowed.
        rootless: leave the root to the bass, as long as three notes remain.
    """
    classes = chord.pitch_classes[1:] if rootless and len(chord.notes) > 3 else chord.pitch_classes
    options = []
    for turn in range(len(classes)):
        pitches: list[int] = []
        for pitch_class in sorted(classes[turn:] + classes[:turn], key=lambda c: (c - classes[turn]) % 12):
            floor = pitches[-1] + 1 if pitches else low
            pitches.append(floor + (pitch_class - floor) % 12)
        options.append(tuple(pitches))
    if not previous:
        return min(options)
    return min(options, key=lambda pitches: (_movement(pitches, previous), pitches))


def _movement(pitches: Sequence[int], previous: Sequence[int]) -> int:
    return sum(min(abs(pitch - old) for old in previous) for pitch in pitches)
