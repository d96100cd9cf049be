"""Styles that live by the drum machine: lofi, house, techno, drum and bass, funk.

Each function draws one piece of about ``seconds`` from ``rng``; the clip starts after a bar of lead-in.
"""

import numpy as np

from scripts.demo_dataset import instruments as gm
from scripts.demo_dataset.instruments import DRUM_KITS, DRUMS
from scripts.demo_dataset.parts import Song, arpeggio, bass, chords, draw_song, drums, humanise, melody
from scripts.demo_dataset.pieces import Facts, Piece, Track

START_MARGIN = 0.03
"""Seconds that the clip starts before the bar line, so that a note played early keeps its attack."""


def finish(
    song: Song,
    style: str,
    tracks: list[Track],
    moods: list[str],
    reverb: float = 0.35,
    effects: tuple[str, ...] = (),
    num_moods: int = 2,
) -> Piece:
    """Put tracks (lead first) and facts together; the moods are drawn from those that suit the style."""
    facts = Facts(
        style=style,
        instruments=tuple(dict.fromkeys(track.instrument for track in tracks)),
        tempo=song.tempo,
        first_beat=START_MARGIN,
        key=str(song.key),
        mode=song.key.mode,
        metre=f"{song.beats_per_bar}/4",
        moods=tuple(str(mood) for mood in song.rng.choice(moods, num_moods, replace=False)),
        effects=effects,
        has_drums=any(track.is_drums for track in tracks),
    )
    return Piece(
        facts=facts,
        tracks=tuple(tracks),
        start=song.beats_per_bar - START_MARGIN * song.tempo / 60,
        reverb=reverb,
        effects_seed=int(song.rng.integers(2**31)),
    )


def pick(song_or_rng: Song | np.random.Generator, options: list[str]) -> str:
    """One of the options, all equally likely."""
    rng = song_or_rng.rng if isinstance(song_or_rng, Song) else song_or_rng
    return str(options[int(rng.integers(len(options)))])


LOFI_PROGRESSIONS = {
    "major": ["ii V I vi", "I vi ii V", "IV iii ii I", "IV V iii vi", "I iii IV iv", "vi ii V I"],
    "minor": ["i iv VII III", "i VI iv v", "VI VII i i", "iv v i VI", "i VI III VII"],
}
LOFI_KICKS = ["X.....x.x.......", "X..x......x.....", "X.......x.x.....", "X......x..x...x."]
LOFI_SNARES = ["....X.......X...", "....X.......X..o", "....X..o....X..."]
LOFI_HATS = ["x.x.x.x.x.x.x.x.", "x.o.x.o.x.o.x.oo", "x.xox.x.x.xox.x.", "..x...x...x...x."]


def lofi(rng: np.random.Generator, seconds: float) -> Piece:
    """Swung boom-bap drums, ninth chords, bass and a sparse melody, on worn tape."""
    song = draw_song(rng, seconds, (68, 92), LOFI_PROGRESSIONS, chord_size=5)
    swing = float(rng.uniform(0.15, 0.36))
    lead = pick(song, ["piano", "electric piano", "vibraphone", "jazz guitar", "flute", "tenor sax", "music box"])
    keys = pick(song, [name for name in ["electric piano", "piano", "jazz guitar"] if name != lead])
    rhythm = (((0, 3.8),), ((0, 1.4), (1.5, 2.2)), ((0, 0.9), (2.5, 1.3)), ((0.5, 1.4), (2.5, 1.4)))[rng.integers(4)]
    bassline = (
        [(0, 1.4, 0), (1.5, 0.9, 0), (2.5, 1.4, 2)],
        [(0, 2.4, 0), (2.5, 0.5, 7), (3, 0.9, 2)],
        [(0, 1.9, 0), (3, 0.4, 2), (3.5, 0.4, 7)],
    )[rng.integers(3)]
    backbeat = gm.SIDE_STICK if rng.random() < 0.3 else gm.SNARE
    grid = {
        gm.KICK: [pick(song, LOFI_KICKS), pick(song, LOFI_KICKS)],
        backbeat: [pick(song, LOFI_SNARES), pick(song, LOFI_SNARES)],
        gm.CLOSED_HAT: pick(song, LOFI_HATS),
    }
    low = 60 if lead in ("jazz guitar", "tenor sax", "electric piano") else 67
    tune = humanise(song, melody(song, low, float(rng.uniform(0.25, 0.6))), swing, timing=0.015, loudness=8)
    chord_notes = chords(song, rhythm, low=52, rootless=bool(rng.random() < 0.5), strum=0.012)
    kit = DRUM_KITS[pick(song, ["standard", "room", "jazz", "808"])]
    low_end = pick(song, ["upright bass", "electric bass", "fretless bass"])
    tracks = [
        Track(instrument=lead, notes=tune, volume=96, pan=72),
        Track(instrument=keys, notes=humanise(song, chord_notes, swing, timing=0.012, loudness=7), pan=54),
        Track(instrument=low_end, notes=humanise(song, bass(song, bassline), swing, timing=0.01), volume=112),
        Track(instrument=DRUMS, notes=humanise(song, drums(song, grid), swing, timing=0.008), volume=104, program=kit),
    ]
    moods = ["mellow", "relaxed", "dreamy", "nostalgic", "warm", "sleepy", "rainy", "cosy", "melancholic", "hazy"]
    wear = ("tape wow", "tape saturation", "low-pass filter", "vinyl crackle")
    effects = wear if rng.random() < 0.75 else wear[:3]
    return finish(song, "lofi", tracks, moods, reverb=0.3, effects=effects)


def house(rng: np.random.Generator, seconds: float) -> Piece:
    """Four on the floor, claps, open hats off the beat, stabs and a bouncing bass."""
    song = draw_song(
        rng,
        seconds,
        (118, 128),
        {"minor": ["i VI III VII", "i iv VI VII", "i i VI v", "VI VII i i"], "major": ["I V vi IV", "vi IV I V"]},
    )
    stab = pick(song, ["piano", "percussive organ", "electric piano", "synth brass"])
    rhythm = (
        ((0, 0.6), (0.75, 0.6), (1.5, 0.8), (2.5, 0.6), (3.25, 0.5)),
        ((0.5, 0.4), (1.5, 0.4), (2.5, 0.4), (3.5, 0.4)),
        ((0, 0.7), (1.5, 0.7), (3, 0.7)),
    )[rng.integers(3)]
    bassline = (
        [(0.5, 0.4, 0), (1.5, 0.4, 0), (2.5, 0.4, 0), (3.5, 0.4, 7)],
        [(0, 0.4, 0), (0.75, 0.4, 0), (1.5, 0.4, 7), (2.5, 0.4, 0), (3.25, 0.4, 2)],
    )[rng.integers(2)]
    grid = {
        gm.KICK: "X...X...X...X...",
        gm.CLAP: "....X.......X...",
        gm.OPEN_HAT: "..x...x...x...x.",
        gm.CLOSED_HAT: pick(song, ["x.o.x.o.x.o.x.o.", "xoo.xoo.xoo.xoo.", "................"]),
        gm.SHAKER: pick(song, ["xoxoxoxoxoxoxoxo", "................", "o.o.o.o.o.o.o.oo"]),
    }
    swing = float(rng.uniform(0, 0.2))
    tracks = [
        Track(instrument=stab, notes=humanise(song, chords(song, rhythm, low=57, velocity=90), swing), volume=104),
        Track(instrument="synth bass", notes=humanise(song, bass(song, bassline), swing), volume=108),
        Track(instrument=DRUMS, notes=humanise(song, drums(song, grid), swing, timing=0.002), program=24, volume=112),
    ]
    if rng.random() < 0.6:
        lead = pick(song, ["synth lead", "flute", "vibraphone", "voice", "tenor sax"])
        notes = humanise(song, melody(song, 69, float(rng.uniform(0.3, 0.6))), swing)
        tracks.insert(0 if rng.random() < 0.5 else 1, Track(instrument=lead, notes=notes, volume=88, pan=76))
    if rng.random() < 0.5:
        pad = humanise(song, chords(song, ((0, 3.95),), low=60, velocity=60))
        tracks.insert(-2, Track(instrument="synth strings", notes=pad, volume=70, program=50))
    return finish(song, "house", tracks, ["uplifting", "groovy", "energetic", "sunny", "driving", "soulful", "bright"])


def techno(rng: np.random.Generator, seconds: float) -> Piece:
    """A straight kick, a rumbling bass in sixteenths and one hypnotic line."""
    song = draw_song(rng, seconds, (126, 140), {"minor": ["i", "i VI", "i VII", "i iv"]}, bars_per_chord=2)
    orders = [[0, 2, 1, 3], [0, -1, 0, 1, -1, 2, 0, 3], [0, 0, 3, -1, 1, 4, -1, 2], [0, 1, 2, 3, 4, 3, 2, 1]]
    order = orders[int(rng.integers(len(orders)))]
    line = arpeggio(song, order, step=0.25, length=0.2, low=int(rng.choice([48, 55, 60])), velocity=84)
    rumble = [(step / 4, 0.2, 0) for step in range(16) if step % 4 != 0 and rng.random() < 0.85]
    grid = {
        gm.KICK: "X...X...X...X...",
        gm.OPEN_HAT: "..x...x...x...x.",
        gm.CLOSED_HAT: pick(song, ["oooooooooooooooo", "x.xxx.xxx.xxx.xx", "................"]),
        gm.CLAP: pick(song, ["....X.......X...", "................", "....x.......x..o"]),
        gm.TAMBOURINE: pick(song, ["................", "..o...o...o...o."]),
    }
    lead = pick(song, ["synth lead", "square lead", "fifths lead", "marimba", "buzzing lead"])
    tracks = [
        Track(instrument=lead, notes=humanise(song, line, timing=0.001), volume=92, pan=70),
        Track(instrument="synth bass", notes=humanise(song, bass(song, rumble), timing=0.001), volume=108),
        Track(instrument=DRUMS, notes=humanise(song, drums(song, grid), timing=0.001), volume=102, program=24),
    ]
    if rng.random() < 0.5:
        pad = pick(song, ["sweep pad", "metallic pad", "warm pad"])
        tracks.insert(1, Track(instrument=pad, notes=tuple(chords(song, ((0, 3.95),), 55, 56)), volume=76))
    return finish(song, "techno", tracks, ["dark", "hypnotic", "driving", "relentless", "mechanical", "tense", "cold"])


def drum_and_bass(rng: np.random.Generator, seconds: float) -> Piece:
    """A fast broken beat, long sub bass notes and wide pads."""
    song = draw_song(
        rng, seconds, (168, 178), {"minor": ["i VI III VII", "i VI", "i VII VI v", "i iv"]}, bars_per_chord=2
    )
    breaks = ["X.........X.....", "X.....x...X.....", "X.X.......X....."]
    grid = {
        gm.KICK: [pick(song, breaks), pick(song, breaks)],
        gm.SNARE: [pick(song, ["....X.......X...", "....X..o.o..X..."]), "....X..o.o..X..o"],
        gm.CLOSED_HAT: pick(song, ["x.x.x.x.x.x.x.x.", "x.xox.xox.xox.xo"]),
        gm.RIDE: pick(song, ["................", "x...x...x...x..."]),
    }
    sub = ([(0, 2.4, 0), (2.5, 1.3, 0)], [(0, 3.8, 0)], [(0, 1.4, 0), (1.5, 0.9, 7), (2.5, 1.4, 2)])[rng.integers(3)]
    lead = pick(song, ["electric piano", "vibraphone", "synth lead", "piano", "flute", "voice"])
    if rng.random() < 0.5:
        line = arpeggio(song, [0, 1, 2, 3, 2, 1], step=0.5, length=0.9, low=64)
    else:
        line = melody(song, 69, float(rng.uniform(0.2, 0.4)))
    pad = pick(song, ["warm pad", "synth strings", "bowed pad", "choir pad"])
    tracks = [
        Track(instrument=lead, notes=humanise(song, line), volume=112, pan=74),
        Track(instrument=pad, notes=tuple(chords(song, ((0, 3.95),), 57, 72)), volume=100),
        Track(instrument="synth bass", notes=humanise(song, bass(song, sub, low=26), timing=0.002), volume=108),
        Track(instrument=DRUMS, notes=humanise(song, drums(song, grid), timing=0.003), volume=90, program=16),
    ]
    return finish(
        song, "drum and bass", tracks, ["energetic", "fast", "atmospheric", "dark", "liquid", "urgent"], reverb=0.5
    )


def funk(rng: np.random.Generator, seconds: float) -> Piece:
    """Sixteenth-note guitar or clavinet, a busy slap bass, syncopated drums."""
    song = draw_song(
        rng, seconds, (94, 112), {"minor": ["i IV", "i i iv V", "i VII iv i"], "major": ["I IV", "I vi ii V"]}, 4
    )
    lines = [
        [(0, 0.4, 0), (0.75, 0.2, 0), (1.5, 0.2, 7), (2.25, 0.2, 3), (2.5, 0.4, 0), (3.5, 0.3, 2)],
        [(0, 0.3, 0), (0.5, 0.2, 0), (1.25, 0.2, 7), (1.75, 0.2, 0), (2.5, 0.3, 2), (3.25, 0.2, 3), (3.75, 0.2, 7)],
    ]
    hits = tuple((step / 4, 0.12) for step in range(16) if rng.random() < (0.3 if step % 4 == 0 else 0.5))
    grid = {
        gm.KICK: [pick(song, ["X.....x...x.....", "X..x......x..x.."]), "X.....x...x.x..."],
        gm.SNARE: ["....X..o.o..X...", "....X..o.o..X..o"],
        gm.CLOSED_HAT: pick(song, ["x.x.x.x.x.x.x.x.", "xoxoxoxoxoxoxoxo", "xox.xoxoxox.xoxo"]),
    }
    comp = pick(song, ["muted guitar", "clavinet", "electric guitar"])
    lead = pick(song, ["tenor sax", "organ", "brass section", "trumpet", "electric piano", "alto sax"])
    tune = melody(song, 64, float(rng.uniform(0.4, 0.7)), grid=0.25, legato=0.7)
    swing = float(rng.uniform(0, 0.18))
    tracks = [
        Track(instrument=lead, notes=humanise(song, tune, swing), volume=98, pan=72),
        Track(instrument=comp, notes=humanise(song, chords(song, hits or ((0, 0.2),), 55, 80), swing), pan=40),
        Track(instrument="slap bass", notes=humanise(song, bass(song, lines[rng.integers(2)]), swing), volume=110),
        Track(instrument=DRUMS, notes=humanise(song, drums(song, grid), swing, timing=0.004), volume=98),
    ]
    return finish(song, "funk", tracks, ["groovy", "playful", "tight", "sassy", "upbeat", "cheeky"], reverb=0.2)
