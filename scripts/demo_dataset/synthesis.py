"""Notes to audio with FluidSynth, in this process.

Each clip gets a fresh synthesiser, because reverb and chorus keep a state that a reset does not clear: with it, audio
would depend on which clips the same process made before. A second synthesiser, kept alive, holds the samples of the
soundfont in memory, so that a fresh one costs 40 ms rather than seconds.
"""

import ctypes
import os
from collections.abc import Iterable
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest.mock import patch

import numpy as np

from scripts.demo_dataset.effects import apply, normalise
from scripts.demo_dataset.pieces import Note, Piece, Studio, Track

if TYPE_CHECKING:
    import fluidsynth

SOUNDFONTS = {
    "musescore-general-soundfont-small": Path("/usr/share/sounds/sf3/MuseScore_General_Lite.sf3"),
    "fluid-soundfont-gm": Path("/usr/share/sounds/sf2/FluidR3_GM.sf2"),
    "musescore-general-soundfont": Path("/usr/share/sounds/sf3/MuseScore_General_Full.sf3"),
    "fluidr3mono-gm-soundfont": Path("/usr/share/sounds/sf3/FluidR3Mono_GM.sf3"),
    "timgm6mb-soundfont": Path("/usr/share/sounds/sf2/TimGM6mb.sf2"),
}
"""Debian package and file, in the order tried."""
SOUNDFONT_LICENCES = {
    "MuseScore_General": (
        "MIT licence (parts public domain or CC0); copyright 2018-2021 S. Christian Collins, 2014-2017 Michael "
        "Cowgill, 2000-2002 and 2008 Frank Wen, 2002 Ethan Winer, 2016 Michael Schorsch; as stated in "
        "/usr/share/doc/musescore-general-soundfont-small/copyright of the Debian package"
    ),
    "FluidR3Mono_GM": (
        "MIT licence; copyright 2014-2017 Michael Cowgill, 2000-2002 and 2008 Frank Wen, 2002 Ethan Winer, 2016 "
        "Michael Schorsch; as stated in /usr/share/doc/fluidr3mono-gm-soundfont/copyright of the Debian package"
    ),
    "FluidR3_GM": "MIT licence; copyright 2000-2002 and 2008 Frank Wen",
    "TimGM6mb": "GPL-2.0; copyright 2004 Tim Brechbill",
}
GAIN = 0.2
FADE_SECONDS = 0.005
MAX_LEAD_IN_SECONDS = 4.0
DRUM_BANK = 128


class Event(NamedTuple):
    """A key pressed or (velocity 0) released; sorting puts releases first."""

    sample: int
    velocity: int
    channel: int
    pitch: int


def load_fluidsynth() -> ModuleType:
    """The ``fluidsynth`` module.

    The environment variable ``FLUIDSYNTH_LIBRARY`` names the shared library where the system does not know it.

    Raises:
        ImportError: the Python package or the shared library is missing; says how to install them.
    """
    library = os.environ.get("FLUIDSYNTH_LIBRARY")
    try:
        with patch("ctypes.util.find_library", return_value=library) if library else nullcontext():
            import fluidsynth
    except (ImportError, OSError) as error:
        raise ImportError(
            f"synthesis needs FluidSynth ({error}): pip install pyfluidsynth, and on Debian "
            "apt-get install libfluidsynth3"
        ) from error
    return fluidsynth


def find_soundfont(path: Path | None = None) -> Path:
    """The given soundfont, or the first installed one of ``SOUNDFONTS``.

    Raises:
        FileNotFoundError: there is none.
    """
    candidates = list(SOUNDFONTS.values()) if path is None else [path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    if path is not None:
        raise FileNotFoundError(f"soundfont {path} does not exist")
    raise FileNotFoundError(
        f"no soundfont found at {', '.join(map(str, candidates))}; pass --soundfont FILE.sf2, or on Debian "
        f"apt-get install {next(iter(SOUNDFONTS))} (others: {', '.join(list(SOUNDFONTS)[1:])})"
    )


def soundfont_licence(path: Path) -> str:
    """Licence and author of a known soundfont; tells the reader to look where it is not known."""
    known = (text for stem, text in SOUNDFONT_LICENCES.items() if path.resolve().name.startswith(stem))
    return next(known, "see the licence of this file")


@lru_cache(maxsize=1)
def _sample_cache(soundfont: Path) -> Any:
    """A synthesiser that is never played: as long as it lives, FluidSynth keeps the decoded samples."""
    return _load(soundfont, 44100)


def _load(soundfont: Path, sample_rate: int) -> "tuple[fluidsynth.Synth, int]":
    synth = load_fluidsynth().Synth(gain=GAIN, samplerate=sample_rate, channels=32)
    identifier = synth.sfload(str(soundfont))
    if identifier < 0:
        raise ValueError(f"{soundfont} is not a soundfont that FluidSynth can read (expected .sf2 or .sf3)")
    return synth, identifier


def render(piece: Piece, studio: Studio) -> np.ndarray:
    """The clip: waveform (samples, channels) with effects, normalised, with 5 ms fades at both ends."""
    if studio.soundfont is None:
        raise ValueError("notes can only be rendered with a soundfont, but this studio has none")
    lead_in = min(piece.start * 60 / piece.tempo, MAX_LEAD_IN_SECONDS)
    skipped = round(lead_in * studio.sample_rate)
    _sample_cache(studio.soundfont)
    synth, identifier = _load(studio.soundfont, studio.sample_rate)
    try:
        _set_up(synth, identifier, piece)
        offset = piece.start - lead_in * piece.tempo / 60
        events = _events(piece.tracks, offset, piece.tempo, studio.sample_rate)
        waveform = _play(synth, events, skipped + studio.num_samples)[skipped:]
    finally:
        synth.delete()
    waveform = apply(waveform, piece.facts.effects, studio.sample_rate, piece.effects_seed)
    if studio.channels == 1:
        waveform = waveform.mean(axis=1, keepdims=True)
    return normalise(_fade(waveform, round(FADE_SECONDS * studio.sample_rate)))


def _set_up(synth: "fluidsynth.Synth", identifier: int, piece: Piece) -> None:
    """Choose the instrument, volume, pan and reverb of each channel; one channel per track."""
    for channel, track in enumerate(piece.tracks):
        bank = DRUM_BANK if track.is_drums else 0
        synth.program_select(channel, identifier, bank, track.midi_program)
        if synth.channel_info(channel)[1:3] != (bank, track.midi_program):
            synth.program_select(channel, identifier, bank, 0)  # a small soundfont without this drum kit
        for controller, value in ((7, track.volume), (10, track.pan), (91, round(127 * piece.reverb)), (93, 0)):
            synth.cc(channel, controller, value)


def _events(tracks: Iterable[Track], offset: float, tempo: float, sample_rate: int) -> list[Event]:
    """Presses and releases in time order, for a rendering that starts at beat ``offset``."""
    events = []
    samples_per_beat = sample_rate * 60 / tempo
    for channel, track in enumerate(tracks):
        for note in _without_overlap(track.notes):
            if note.onset >= offset:
                start = round((note.onset - offset) * samples_per_beat)
                end = max(start + 1, round((note.onset + note.duration - offset) * samples_per_beat))
                events += [
                    Event(start, note.velocity, channel, note.pitch),
                    Event(end, 0, channel, note.pitch),
                ]
    return sorted(events)


def _without_overlap(notes: Iterable[Note]) -> list[Note]:
    """Shorten a note that is struck again while it sounds; its late release would end the second stroke."""
    next_onset: dict[int, float] = {}
    result = []
    for note in sorted(notes, reverse=True):
        end = min(note.onset + note.duration, next_onset.get(note.pitch, np.inf))
        next_onset[note.pitch] = note.onset
        result.append(note._replace(duration=end - note.onset))
    return result[::-1]


def _play(synth: "fluidsynth.Synth", events: Iterable[Event], num_samples: int) -> np.ndarray:
    blocks, position = [], 0
    for event in events:
        if event.sample >= num_samples:
            break
        if event.sample > position:
            blocks.append(_get_samples(synth, event.sample - position))
            position = event.sample
        if event.velocity:
            synth.noteon(event.channel, event.pitch, event.velocity)
        else:
            synth.noteoff(event.channel, event.pitch)
    blocks.append(_get_samples(synth, num_samples - position))
    return np.concatenate(blocks)


def _get_samples(synth: "fluidsynth.Synth", num_samples: int) -> np.ndarray:
    """Like ``Synth.get_samples``, but as float32 (samples, 2): its 16-bit integers can clip."""
    write = load_fluidsynth()._fl.fluid_synth_write_float
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    write.argtypes = [pointer, integer, *[pointer, integer, integer] * 2]
    block = np.empty((num_samples, 2), dtype=np.float32)
    address = block.ctypes.data
    write(synth.synth, num_samples, address, 0, 2, address, 1, 2)
    return block


def _fade(waveform: np.ndarray, num_samples: int) -> np.ndarray:
    """Ramp both ends, where the cut would click."""
    gain = np.ones((len(waveform), 1), dtype=np.float32)
    ramp = np.linspace(0, 1, num_samples, dtype=np.float32)[:, None]
    gain[:num_samples] = ramp
    gain[-num_samples:] = ramp[::-1]
    return waveform * gain
