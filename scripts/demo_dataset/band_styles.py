"""Styles of players rather than machines: reggae, bossa nova, waltz, solo piano, ambient pads, cinematic strings.

Each function draws one piece of about ``seconds`` from ``rng``; the clip starts after a bar of lead-in.
"""

import numpy as np

from scripts.demo_dataset import instruments as gm
from scripts.demo_dataset.beat_styles import finish, pick
from scripts.demo_dataset.instruments import DRUM_KITS, DRUMS
from scripts.demo_dataset.parts import arpeggio, bass, chords, draw_song, drums, humanise, melody
from scripts.demo_dataset.pieces import Note, Piece, Track


def reggae(rng: np.random.Generator, seconds: float) -> Piece:
    """One drop: kick and side stick on three, chords off the beat, a heavy melodic bass."""
    song = draw_song(
        rng,
        seconds,
        (68, 88),
        {"major": ["I V vi IV", "I IV", "I ii IV V", "I vi IV V"], "minor": ["i VII", "i iv", "i VII VI VII"]},
        chord_size=3,
    )
    lines = [
        [(0, 0.9, 0), (1.5, 0.4, 0), (2, 0.9, 2), (3, 0.4, 1), (3.5, 0.4, 0)],
        [(0.5, 0.4, 0), (1, 0.4, 0), (1.5, 0.9, 2), (3, 0.9, 7)],
        [(0, 0.6, 0), (0.75, 0.6, 0), (1.5, 0.4, 2), (2.5, 0.4, 2), (3, 0.9, 1)],
    ]
    grid = {
        gm.KICK: pick(rng, ["........X.......", "X.......X.......", "X...X...X...X..."]),
        gm.SIDE_STICK: "........X.......",
        gm.CLOSED_HAT: pick(rng, ["x.x.x.x.x.x.x.x.", "x.oxx.oxx.oxx.ox"]),
    }
    skank = pick(rng, ["muted guitar", "electric guitar", "piano"])
    lead = pick(rng, ["organ", "trombone", "trumpet", "harmonica", "tenor sax", "square lead"])
    offbeats = ((0.5, 0.2), (1.5, 0.2), (2.5, 0.2), (3.5, 0.2))
    swing = float(rng.uniform(0.0, 0.3))
    tracks = [
        Track(instrument=lead, notes=humanise(song, melody(song, 62, float(rng.uniform(0.3, 0.5))), swing), pan=72),
        Track(instrument=skank, notes=humanise(song, chords(song, offbeats, 57, 88), swing), pan=44),
        Track(instrument="electric bass", notes=humanise(song, bass(song, lines[rng.integers(3)]), swing), volume=116),
        Track(instrument=DRUMS, notes=humanise(song, drums(song, grid), swing), program=8, volume=94),
    ]
    return finish(song, "reggae", tracks, ["sunny", "laid-back", "relaxed", "warm", "easygoing", "hopeful"])


def bossa_nova(rng: np.random.Generator, seconds: float) -> Piece:
    """A nylon-string guitar in the bossa rhythm, root and fifth in the bass, side stick clave."""
    song = draw_song(
        rng,
        seconds,
        (116, 144),
        {
            "major": ["I ii V I", "I vi ii V", "IV iv I VI", "ii V I I"],
            "minor": ["i iv V i", "i VI ii V", "i iv VII III"],
        },
        bars_per_chord=int(rng.choice([1, 2])),
    )
    rhythm = (((0, 0.9), (1.5, 0.9), (3, 0.7)), ((0, 0.4), (1, 0.4), (2.5, 0.9), (3.5, 0.4)))[rng.integers(2)]
    grid = {
        gm.KICK: "x..xx..xx..xx..x" if rng.random() < 0.3 else "x.....o.x.....o.",
        gm.SIDE_STICK: ["x.....x.....x...", "....x.....x....."],
        gm.CLOSED_HAT: "o.o.o.o.o.o.o.o.",
        gm.SHAKER: pick(rng, ["................", "x.o.x.o.x.o.x.o."]),
    }
    lead = pick(rng, ["flute", "piano", "tenor sax", "vibraphone", "clarinet", "muted trumpet", "soprano sax"])
    walk = [(0, 1.3, 0), (1.5, 0.4, 2), (2, 1.3, 2), (3.5, 0.4, 0)]
    tracks = [
        Track(instrument=lead, notes=humanise(song, melody(song, 67, float(rng.uniform(0.3, 0.55)))), pan=74),
        Track(
            instrument="nylon-string guitar",
            notes=humanise(song, chords(song, rhythm, 54, 78, rootless=True, strum=0.015)),
            pan=48,
        ),
        Track(instrument="upright bass", notes=humanise(song, bass(song, walk)), volume=110),
        Track(instrument=DRUMS, notes=humanise(song, drums(song, grid)), program=DRUM_KITS["jazz"], volume=76),
    ]
    return finish(song, "bossa nova", tracks, ["breezy", "romantic", "gentle", "elegant", "summery", "intimate"])


def waltz(rng: np.random.Generator, seconds: float) -> Piece:
    """Three beats: bass, chord, chord, under a singing lead."""
    song = draw_song(
        rng,
        seconds,
        (96, 168),
        {"major": ["I I V V V V I I", "I IV V I", "I vi ii V"], "minor": ["i i V V V V i i", "i iv V i", "i VI iv V"]},
        chord_size=3,
        beats_per_bar=3,
    )
    lead = pick(rng, ["violin", "accordion", "clarinet", "piano", "flute", "cello", "oboe"])
    backing = pick(rng, ["strings", "piano", "acoustic guitar", "accordion", "harp"])
    backing = "acoustic guitar" if backing == lead else backing
    low = 55 if lead == "cello" else 67
    tracks = [
        Track(instrument=lead, notes=humanise(song, melody(song, low, float(rng.uniform(0.45, 0.7)))), volume=108),
        Track(instrument=backing, notes=humanise(song, chords(song, ((1, 0.7), (2, 0.7)), 55, 66)), pan=50, volume=92),
        Track(instrument="double bass", notes=humanise(song, bass(song, [(0, 0.9, 0)], low=31)), volume=108, pan=74),
    ]
    if rng.random() < 0.3:
        grid = {gm.KICK: "x.....", gm.SIDE_STICK: "..o.o.", gm.RIDE: "x.o.o."}
        notes = humanise(song, drums(song, grid, steps_per_beat=2))
        tracks.append(Track(instrument=DRUMS, notes=notes, program=DRUM_KITS["brush"], volume=84))
    moods = ["graceful", "romantic", "nostalgic", "bittersweet", "lilting", "charming", "wistful"]
    return finish(song, "waltz", tracks, moods, reverb=0.5)


def solo_piano(rng: np.random.Generator, seconds: float) -> Piece:
    """Two hands: a broken or blocked left hand and a melody, from slow ballads to lively studies."""
    beats_per_bar = int(rng.choice([4, 4, 3]))
    tempo = (56, 84) if rng.random() < 0.6 else (92, 126)
    song = draw_song(
        rng,
        seconds,
        tempo,
        {
            "major": ["I V vi IV", "I iii IV V", "IV I V vi", "I vi IV V", "I IV ii V"],
            "minor": ["i VI III VII", "i iv VII III", "i VII VI V", "i VI iv V", "VI VII i i"],
        },
        chord_size=int(rng.choice([3, 4, 5])),
        beats_per_bar=beats_per_bar,
    )
    figures = [[0, 2, 1, 2], [0, 1, 2, 3, 2, 1], [0, 2, 3, 2], [0, 1, 2, 1]]
    figure = figures[int(rng.integers(len(figures)))]
    if rng.random() < 0.7:
        left = arpeggio(song, figure, step=0.5, length=1.4, low=43, velocity=56)
    else:
        left = chords(song, tuple((float(beat), 0.9) for beat in range(beats_per_bar)), low=48, velocity=52)
    left += bass(song, [(0, beats_per_bar * 0.95, 0)], low=33, velocity=64)
    right = melody(song, int(rng.choice([67, 72])), float(rng.uniform(0.4, 0.8)), velocity=86, legato=1.1)
    if rng.random() < 0.3:
        right += [Note(n.onset, n.duration, n.pitch - 12, max(1, n.velocity - 16)) for n in right]
    moods = ["reflective", "tender", "melancholic", "peaceful", "intimate", "hopeful", "wistful", "romantic", "calm"]
    notes = humanise(song, left + right, timing=0.014, loudness=7)
    return finish(song, "solo piano", [Track(instrument="piano", notes=notes, volume=110)], moods, reverb=0.45)


def ambient(rng: np.random.Generator, seconds: float) -> Piece:
    """Layers of slow pads with a few drops of melody, no drums."""
    song = draw_song(
        rng,
        seconds,
        (58, 78),
        {"major": ["I IV", "I iii IV I", "IV I", "I vi"], "minor": ["i VI", "i VII VI VII", "i iv", "VI i"]},
        chord_size=5,
        bars_per_chord=int(rng.choice([1, 2])),
    )
    pads = ["warm pad", "halo pad", "bowed pad", "choir pad", "sweep pad", "strings", "synth pad", "choir"]
    first, second = (str(name) for name in rng.choice(pads, 2, replace=False))
    tracks = [
        Track(instrument=first, notes=tuple(chords(song, ((0, 4.3),), 52, 76)), volume=100, pan=44),
        Track(instrument=second, notes=tuple(chords(song, ((0, 4.3),), 60, 62, rootless=True)), volume=84, pan=84),
        Track(instrument="synth bass", notes=tuple(bass(song, [(0, 3.9, 0)], low=33, velocity=60)), volume=84),
    ]
    if rng.random() < 0.75:
        lead = pick(
            rng, ["vibraphone", "harp", "music box", "flute", "piano", "electric piano", "crystal bells", "cello"]
        )
        tune = melody(song, 55 if lead == "cello" else 69, float(rng.uniform(0.15, 0.35)), velocity=78, legato=1.2)
        tracks.insert(0, Track(instrument=lead, notes=humanise(song, tune, timing=0.02), volume=92))
    moods = ["calm", "spacious", "ethereal", "floating", "meditative", "serene", "dreamy", "mysterious"]
    return finish(song, "ambient", tracks, moods, reverb=0.9)


def cinematic(rng: np.random.Generator, seconds: float) -> Piece:
    """An ostinato in the strings, sustained chords, a broad lead and timpani."""
    song = draw_song(
        rng,
        seconds,
        (76, 116),
        {"minor": ["i VI III VII", "i VI iv V", "i VII VI VII"], "major": ["I V vi IV", "I iii IV V"]},
        chord_size=3,
    )
    lead = pick(rng, ["french horn", "violin", "cello", "trumpet", "piano", "oboe", "strings"])
    ostinato = arpeggio(song, [0, 2, 1, 2, 3, 2, 1, 2], step=0.5, length=0.3, low=57, velocity=80)
    tune = melody(song, 53 if lead in ("cello", "french horn") else 65, float(rng.uniform(0.25, 0.45)), legato=1.0)
    roll = [(0, 0.4, 0), (0.75, 0.3, 0), (2, 0.4, 0)]
    tracks = [
        Track(instrument=lead, notes=humanise(song, tune, timing=0.012), volume=112),
        Track(instrument="pizzicato strings", notes=humanise(song, ostinato), volume=104, pan=44),
        Track(instrument="tremolo strings", notes=tuple(chords(song, ((0, 3.95),), 52, 70)), volume=84, pan=80),
        Track(instrument="double bass", notes=humanise(song, bass(song, [(0, 3.8, 0)])), volume=100),
    ]
    if rng.random() < 0.6:
        tracks.append(Track(instrument="timpani", notes=humanise(song, bass(song, roll, low=36, velocity=92))))
    moods = ["epic", "dramatic", "heroic", "tense", "majestic", "solemn", "adventurous"]
    return finish(song, "cinematic", tracks, moods, reverb=0.7)
