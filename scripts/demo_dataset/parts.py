"""Parts of a band: drums, bass, chords, arpeggios and melodies over one chord per bar.

Every part is a list of notes on the grid; ``humanise`` then adds swing and small errors of timing and loudness.
A rhythm is a tuple of (beat in the bar, duration in beats).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scripts.demo_dataset.pieces import Note
from scripts.demo_dataset.theory import Chord, Key, build_chord, voicing

Rhythm = tuple[tuple[float, float], ...]
GRID_VELOCITY = {"X": 118, "x": 96, "o": 48}
"""Loudness of the signs of a drum grid: accent, hit, ghost note. A dot is silence."""


@dataclass(frozen=True, kw_only=True)
class Song:
    """The frame that all parts of a piece share."""

    rng: np.random.Generator
    key: Key
    tempo: float
    chords: tuple[Chord, ...]
    """One per bar."""
    beats_per_bar: int = 4

    def bars(self) -> Iterable[tuple[float, Chord]]:
        """First beat and chord of each bar."""
        return ((bar * float(self.beats_per_bar), chord) for bar, chord in enumerate(self.chords))


def draw_song(
    rng: np.random.Generator,
    seconds: float,
    tempo: tuple[int, int],
    progressions: Mapping[str, Sequence[str]],
    chord_size: int = 4,
    beats_per_bar: int = 4,
    bars_per_chord: int = 1,
) -> Song:
    """Draw key, tempo and progression, with one bar more than the clip at each end.

    Args:
        rng: source of every choice.
        seconds: length of the clip.
        tempo: lowest and highest BPM, both possible.
        progressions: for ``"major"`` and/or ``"minor"``, progressions such as ``"ii V I vi"``.
        chord_size: notes per chord, 3 to 5.
        beats_per_bar: beats per bar.
        bars_per_chord: how long each chord of the progression lasts.
    """
    modes = sorted(progressions)
    key = Key(int(rng.integers(12)), modes[int(rng.integers(len(modes)))])
    beats_per_minute = int(rng.integers(tempo[0], tempo[1] + 1))
    numerals = str(rng.choice(list(progressions[key.mode]))).split()
    num_bars = int(np.ceil(seconds * beats_per_minute / 60 / beats_per_bar)) + 2
    chords = [build_chord(key, numerals[bar // bars_per_chord % len(numerals)], chord_size) for bar in range(num_bars)]
    return Song(rng=rng, key=key, tempo=float(beats_per_minute), chords=tuple(chords), beats_per_bar=beats_per_bar)


def drums(song: Song, grid: Mapping[int, str | Sequence[str]], steps_per_beat: int = 4) -> list[Note]:
    """Percussion from strings of X, x, o and dots, one sign per step; several strings alternate bar by bar."""
    notes = []
    for bar, (start, _) in enumerate(song.bars()):
        for pitch, lines in grid.items():
            line = lines if isinstance(lines, str) else lines[bar % len(lines)]
            for step, sign in enumerate(line):
                if sign != ".":
                    notes.append(Note(start + step / steps_per_beat, 0.2, pitch, GRID_VELOCITY[sign]))
    return notes


def bass(song: Song, pattern: Sequence[tuple[float, float, int]], low: int = 28, velocity: int = 96) -> list[Note]:
    """A bass line from (beat, duration, chord note): 0 root, 1 third, 2 fifth, 3 seventh; 7 the octave of the root."""
    notes = []
    for start, chord in song.bars():
        root = low + (chord.root - low) % 12
        for beat, duration, member in pattern:
            above = 12 if member == 7 else (chord.notes[member % len(chord.notes)] - chord.notes[0]) % 12
            notes.append(Note(start + beat, duration, root + above, velocity))
    return notes


def chords(
    song: Song, rhythm: Rhythm, low: int = 52, velocity: int = 72, rootless: bool = False, strum: float = 0.0
) -> list[Note]:
    """Voice-led chords in a rhythm; ``strum`` is the delay from string to string in beats."""
    notes = []
    pitches: tuple[int, ...] = ()
    for start, chord in song.bars():
        pitches = voicing(chord, pitches, low, rootless)
        for beat, duration in rhythm:
            for index, pitch in enumerate(pitches):
                notes.append(Note(start + beat + index * strum, duration, pitch, velocity))
    return notes


def arpeggio(
    song: Song, order: Sequence[int], step: float = 0.5, length: float = 0.5, low: int = 55, velocity: int = 74
) -> list[Note]:
    """Broken chords: ``order`` indexes the voicing from below, and counts on into the next octave; -1 rests."""
    notes = []
    pitches: tuple[int, ...] = ()
    num_steps = round(song.beats_per_bar / step)
    for start, chord in song.bars():
        pitches = voicing(chord, pitches, low)
        for index in range(num_steps):
            member = order[index % len(order)]
            if member >= 0:
                pitch = pitches[member % len(pitches)] + 12 * (member // len(pitches))
                notes.append(Note(start + index * step, length, pitch, velocity))
    return notes


def melody(
    song: Song, low: int = 67, density: float = 0.5, grid: float = 0.5, velocity: int = 92, legato: float = 0.92
) -> list[Note]:
    """A singable line: two rhythmic motifs in the form A B A B', steps of the scale, chord notes on strong beats.

    Args:
        song: the frame.
        low: centre of the range less a fifth; the line stays within an octave and a half.
        density: chance of a note on each beat; off-beats have half of it.
        grid: shortest note in beats.
        velocity: loudness.
        legato: part of the time to the next note that a note sounds.
    """
    motifs = [_motif(song, density, grid) for _ in range(2)]
    centre = song.key.nearest_degree(low + 7)
    degree = centre
    notes = []
    for bar, (start, chord) in enumerate(song.bars()):
        motif = motifs[bar % 2] if bar % 4 != 3 else motifs[1][: max(2, len(motifs[1]) - 1)]
        for onset, duration, move in motif:
            degree = _reflect(degree + move, centre)
            pitch = song.key.pitch(degree)
            if onset % 2 == 0 or duration >= 2:
                pitch = _snap(pitch, chord)
                degree = song.key.nearest_degree(pitch)
            accent = 8 if onset == 0 else 0
            notes.append(Note(start + onset, duration * legato, pitch, velocity + accent))
    return notes


def _motif(song: Song, density: float, grid: float) -> list[tuple[float, float, int]]:
    """One bar of (onset, duration, scale steps from the note before), with at least two notes."""
    rng = song.rng
    slots = np.arange(0, song.beats_per_bar, grid)
    chance = np.where(slots % 1 == 0, density, density / 2)
    onsets = slots[rng.random(len(slots)) < chance]
    if len(onsets) < 2:
        onsets = np.array([float(rng.integers(2)), 2.0])
    ends = [*onsets[1:], float(song.beats_per_bar)]
    moves = rng.choice([-3, -2, -1, -1, 0, 1, 1, 2, 3], size=len(onsets))
    return [
        (float(onset), float(min(end - onset, 2.5)), int(move))
        for onset, end, move in zip(onsets, ends, moves, strict=True)
    ]


def _reflect(degree: int, centre: int, reach: int = 5) -> int:
    if degree > centre + reach:
        return 2 * (centre + reach) - degree
    return 2 * (centre - reach) - degree if degree < centre - reach else degree


def _snap(pitch: int, chord: Chord) -> int:
    """Nearest pitch of the chord; the lower one of two equally close."""
    return min((p for p in range(pitch - 6, pitch + 7) if p % 12 in chord.pitch_classes), key=lambda p: abs(p - pitch))


def humanise(
    song: Song,
    notes: Iterable[Note],
    swing: float = 0.0,
    swing_unit: float = 0.25,
    timing: float = 0.006,
    loudness: float = 5.0,
) -> tuple[Note, ...]:
    """Swing the grid and move notes a little, as players do.

    Args:
        song: gives tempo and random numbers.
        notes: on the grid.
        swing: delay of every second grid step, as part of a step (1/3 is a triplet feel).
        swing_unit: the step that swings, in beats.
        timing: standard deviation of the onset in seconds.
        loudness: standard deviation of the velocity.
    """
    played = []
    for note in sorted(notes):
        place = note.onset % (2 * swing_unit) / swing_unit
        warped = place * (1 + swing) if place <= 1 else 1 + swing + (place - 1) * (1 - swing)
        onset = note.onset + (warped - place) * swing_unit + song.rng.normal(0, timing) * song.tempo / 60
        velocity = int(np.clip(round(note.velocity + song.rng.normal(0, loudness)), 1, 127))
        played.append(Note(max(0.0, float(onset)), note.duration, note.pitch, velocity))
    return tuple(sorted(played))
