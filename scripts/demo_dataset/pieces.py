"""What a piece of demo music is: its notes, and everything that is known about it.

Times inside a piece are in beats (the beat of the metre: a quarter note, or a dotted quarter in 6/8, 9/8 and 12/8).
A waveform is float32 (samples, channels) in [-1, 1]: the layout of soundfile and soxr.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scripts.demo_dataset.instruments import DRUM_KITS, DRUMS, PROGRAMS

OWN_LICENCE = "CC0-1.0"
OWN_CREDIT = "composed by music2latent-kit"


class UnusableClipError(Exception):
    """This clip cannot be made (a file that does not decode, near silence); the run counts it and goes on."""


class Note(NamedTuple):
    """One note; ``onset`` and ``duration`` in beats, ``pitch`` and ``velocity`` as in MIDI."""

    onset: float
    duration: float
    pitch: int
    velocity: int


@dataclass(frozen=True, kw_only=True)
class Track:
    """The notes of one instrument."""

    instrument: str
    notes: tuple[Note, ...]
    volume: int = 100
    """MIDI controller 7."""
    pan: int = 64
    """MIDI controller 10: 0 left, 64 middle, 127 right."""
    program: int | None = None
    """General MIDI program (drum kit for drums); found from ``instrument`` if not given."""

    @property
    def is_drums(self) -> bool:
        return self.instrument == DRUMS

    @property
    def midi_program(self) -> int:
        if self.program is not None:
            return self.program
        return DRUM_KITS["standard"] if self.is_drums else PROGRAMS[self.instrument]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What captions and metadata may say about a clip; ``None`` and empty mean unknown."""

    style: str
    instruments: tuple[str, ...] = ()
    """Human words, lead first."""
    tempo: float | None = None
    """Beats per minute."""
    first_beat: float | None = None
    """Seconds until the first bar line, where it is known."""
    key: str | None = None
    """One of 24: tonic spelled with sharps, then ``major`` or ``minor``."""
    mode: str | None = None
    """``major``, ``minor``, or a church mode such as ``dorian``."""
    metre: str | None = None
    moods: tuple[str, ...] = ()
    effects: tuple[str, ...] = ()
    title: str | None = None
    """Only where it says something about the sound."""
    description: str | None = None
    """A full sentence of the source's own."""
    has_drums: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Notes and facts. The clip starts at beat ``start``; notes before it are heard only as they ring on."""

    facts: Facts
    tracks: tuple[Track, ...]
    start: float = 0.0
    reverb: float = 0.4
    """Reverb send of every track, 0 to 1."""
    effects_seed: int = 0

    @property
    def tempo(self) -> float:
        """Beats per minute; a piece made of notes always has one."""
        assert self.facts.tempo is not None
        return self.facts.tempo

    def beats(self, seconds: float) -> float:
        """Length of ``seconds`` in beats."""
        return seconds * self.tempo / 60

    def audible(self, seconds: float) -> "Piece":
        """The piece with only the notes that sound in the clip, and only the instruments that have such notes."""
        end = self.start + self.beats(seconds)
        cut = [
            replace(track, notes=tuple(n for n in track.notes if n.onset < end and n.onset + n.duration > self.start))
            for track in self.tracks
        ]
        tracks = tuple(track for track in cut if track.notes)
        heard = {track.instrument for track in tracks}
        facts = replace(
            self.facts,
            instruments=tuple(name for name in self.facts.instruments if name in heard),
            has_drums=DRUMS in heard,
        )
        return replace(self, facts=facts, tracks=tracks)


@dataclass(frozen=True)
class Studio:
    """How every clip of a data set is made."""

    seconds: float
    channels: int
    sample_rate: int
    soundfont: Path | None
    """``None`` where nothing is synthesised."""

    @property
    def num_samples(self) -> int:
        return round(self.seconds * self.sample_rate)


class Performance(NamedTuple):
    """A finished clip: waveform (samples, channels) and what is known about it."""

    waveform: np.ndarray
    facts: Facts


@dataclass(frozen=True, kw_only=True)
class Job:
    """One clip to be made, in any process. All clips of one ``piece`` go to the same split."""

    name: str
    """File name without suffix, unique in the data set."""
    piece: str
    source: str
    licence: str
    credit: str
    perform: Callable[[Studio], Performance]
    """Makes the clip; raises ``UnusableClipError`` if that is impossible. Must be picklable."""
