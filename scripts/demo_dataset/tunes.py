"""Source ``tunes``: fiddle tunes in the public domain from the corpus of music21, on varied instruments.

Only Ryan's Mammoth Collection (1883), O'Neill's Music of Ireland (1903) and Aird's Airs (1782-1801) are used; other
parts of that corpus have reserved or non-commercial rights. Titles stay out of captions: they do not describe sound,
and some of these collections' titles are slurs (``WalkAround...`` of Ryan's is left out for that reason).
"""

import re
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scripts.demo_dataset.pieces import Facts, Job, Note, Performance, Piece, Studio, Track, UnusableClipError
from scripts.demo_dataset.scores import pack_notes, read_scores, unpack_notes
from scripts.demo_dataset.synthesis import render
from scripts.demo_dataset.theory import TONICS, Chord, Key, build_chord, voicing

COLLECTIONS = {"ryansMammoth": "Ryan's Mammoth", "oneills1850": "O'Neill's", "airdsAirs": "Aird's"}
INSTALL = "the source 'tunes' needs music21: pip install music21"
LICENCE = "public domain"
BLOWN_LEADS = ("flute", "whistle", "clarinet", "recorder", "bagpipes", "oboe", "harmonica", "accordion", "organ")
STRUCK_LEADS = ("piano", "harp", "banjo", "vibraphone", "acoustic guitar", "dulcimer", "music box")
LEADS = ("fiddle", "violin", *BLOWN_LEADS, *STRUCK_LEADS)
BACKINGS = ("acoustic guitar", "piano", "strings", "accordion", "harp", "nylon-string guitar")
TEMPOS = {
    "jig": (96, 124),
    "reel": (168, 208),
    "hornpipe": (144, 184),
    "strathspey": (108, 132),
    "waltz": (108, 150),
    "march": (92, 116),
    "air": (60, 92),
}
"""BPM of the beat of the metre; other rhythms get ``DEFAULT_TEMPO``."""
DEFAULT_TEMPO = (92, 126)
MODES = {"": "major", "maj": "major", "m": "minor", "min": "minor", "dor": "dorian", "mix": "mixolydian"}
MODES |= {"lyd": "lydian", "phr": "phrygian", "aeo": "minor", "ion": "major"}
MINOR_MODES = ("minor", "dorian", "phrygian")
MOODS = {
    "major": ("lively", "cheerful", "bouncy", "merry"),
    "minor": ("wistful", "haunting", "dark", "brooding"),
    "air": ("gentle", "tender", "plaintive", "peaceful"),
}


class Tune(NamedTuple):
    """One tune as ABC text with its headers."""

    title: str
    collection: str
    abc: str
    notes: tuple[Note, ...] | None = None
    """What is played, in beats of the metre, where it is known already; the ABC text may then be headers only."""

    @property
    def piece(self) -> str:
        """Tunes of one title count as one piece: collections share tunes."""
        return "tune_" + re.sub(r"[^a-z0-9]+", "_", self.title.lower()).strip("_")[:40]

    def header(self, letter: str) -> str:
        match = re.search(rf"^{letter}: *(.*?)(%.*)?$", self.abc, re.MULTILINE)
        return match.group(1).strip() if match else ""

    @property
    def metre(self) -> tuple[int, int]:
        metre = _metre(self.header("M"))
        assert metre is not None  # find_tunes left the others out
        return metre

    @property
    def quarters_per_beat(self) -> float:
        """1.5 in 6/8, 9/8 and 12/8, whose beat is a dotted quarter."""
        return 1.5 if self.metre[1] == 8 and self.metre[0] % 3 == 0 else 1.0

    def played(self) -> tuple[Note, ...]:
        """The notes, read by music21 if need be.

        Raises:
            UnusableClipError: music21 cannot read the tune, or it holds no notes.
        """
        return self.notes or tuple(_parse(self, self.quarters_per_beat))

    def to_record(self) -> dict[str, Any]:
        """Everything that is needed, for a file of scores."""
        headers = "\n".join(f"{letter}: {self.header(letter)}" for letter in "TRGMK" if self.header(letter))
        return {
            "title": self.title,
            "collection": self.collection,
            "abc": headers,
            "notes": pack_notes(self.played()),
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Tune":
        """Read ``to_record``."""
        return cls(record["title"], record["collection"], record["abc"], unpack_notes(record["notes"]))


def corpus_folder() -> Path:
    """Where music21 keeps its corpus.

    Raises:
        ImportError: music21 is not installed.
    """
    try:
        from music21 import common
    except ImportError as error:
        raise ImportError(f"{INSTALL} ({error})") from error
    return Path(common.getCorpusFilePath())


def find_tunes() -> list[Tune]:
    """All tunes whose key, metre and title can be read, sorted by collection and file."""
    folder = corpus_folder()
    tunes = [
        tune
        for name, collection in COLLECTIONS.items()
        for path in sorted((folder / name).glob("*.abc"))
        if not path.stem.startswith("WalkAround")
        for tune in _split(path.read_text(errors="replace"), collection)
    ]
    return [tune for tune in tunes if tune.title and read_key(tune.header("K")) and _metre(tune.header("M"))]


def _split(text: str, collection: str) -> Iterator[Tune]:
    for body in re.split(r"(?m)^(?=X:)", text)[1:]:
        title = re.search(r"^T: *(.+)$", body, re.MULTILINE)
        yield Tune(re.sub(r" *--.*| *\(.*", "", title.group(1)).strip(" .") if title else "", collection, body)


def read_key(text: str) -> tuple[str, str] | None:
    """Key (one of 24) and mode of an ABC key such as ``Ador`` or ``F# Minor``; ``None`` where it is another thing."""
    match = re.fullmatch(r"([A-G])([#b]?) ?([A-Za-z]*)", text)
    if match is None:
        return None
    letter, accidental, mode_text = match.groups()
    mode = MODES.get("m" if mode_text == "m" else mode_text.lower()[:3])
    if mode is None:
        return None
    tonic = Key.parse(f"{letter}{accidental} major").tonic
    return f"{TONICS[tonic]} {'minor' if mode in MINOR_MODES else 'major'}", mode


def _metre(text: str) -> tuple[int, int] | None:
    text = {"C": "4/4", "C|": "4/4"}.get(text, text)
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    return (int(match.group(1)), int(match.group(2))) if match else None


def compose(tune: Tune, seed: tuple[int, ...], seconds: float, window: int = 0) -> Piece:
    """The tune on a drawn instrument, looped, with accompaniment in half of the cases.

    Args:
        tune: what to play.
        seed: draws instrument, tempo and accompaniment.
        seconds: length of the clip.
        window: which clip of the tune, from its start.

    Raises:
        UnusableClipError: music21 cannot read the tune, or it holds no notes.
    """
    rng = np.random.default_rng(seed)
    style = _style(tune)
    metre = tune.metre
    key_and_mode = read_key(tune.header("K"))
    assert key_and_mode is not None  # find_tunes left the others out
    key, mode = key_and_mode
    bar = metre[0] * 4 / metre[1] / tune.quarters_per_beat
    tempo = int(rng.integers(*TEMPOS.get(style, DEFAULT_TEMPO)))
    if style in ("reel", "hornpipe") and metre == (2, 4):
        tempo //= 2  # written in sixteenths, two beats to the bar
    lead = str(rng.choice(LEADS))
    backing = str(rng.choice([name for name in BACKINGS if name != lead])) if rng.random() < 0.5 else None
    moods = MOODS["air" if style == "air" else "minor" if mode in MINOR_MODES else "major"]
    chosen_moods = tuple(str(mood) for mood in rng.choice(moods, 2, replace=False))
    start = window * int(seconds * tempo / 60 / bar) * bar
    notes = _looped(tune.played(), start + seconds * tempo / 60 + bar, bar)
    played = tuple(n._replace(velocity=int(np.clip(n.velocity + rng.normal(0, 6), 1, 127))) for n in notes)
    tracks = [Track(instrument=lead, notes=played, volume=110, pan=70)]
    if backing is not None:
        tracks += _accompaniment(notes, Key.parse(key), bar, backing)
    facts = Facts(
        style=style,
        instruments=tuple(track.instrument for track in tracks),
        tempo=float(tempo),
        key=key,
        mode=mode,
        metre=f"{metre[0]}/{metre[1]}",
        moods=chosen_moods,
    )
    return Piece(facts=facts, tracks=tuple(tracks), start=start, reverb=float(rng.uniform(0.2, 0.6)))


def _style(tune: Tune) -> str:
    words = f"{tune.header('R')} {tune.header('G')} {tune.title}".lower().replace("slipjig", "slip jig")
    return next((style for style in TEMPOS if style in words), "traditional folk tune")


def _parse(tune: Tune, quarters_per_beat: float) -> list[Note]:
    from music21 import converter
    from music21.exceptions21 import Music21Exception

    try:
        score: Any = converter.parse(tune.abc, format="abc")
        elements = list(score.flatten().notes)
    except (Music21Exception, ValueError, IndexError, AttributeError, KeyError, TypeError) as error:
        raise UnusableClipError(f"music21 cannot read {tune.title!r} of {tune.collection}: {error}") from error
    notes = [
        Note(float(element.offset) / quarters_per_beat, float(element.quarterLength) / quarters_per_beat, p.midi, 88)
        for element in elements
        if float(element.quarterLength) > 0
        for p in element.pitches
    ]
    if len(notes) < 8:
        raise UnusableClipError(f"{tune.title!r} of {tune.collection} has only {len(notes)} notes")
    return notes


def _looped(notes: Sequence[Note], beats: float, bar: float) -> list[Note]:
    """Repeat the tune, in whole bars, until it lasts for ``beats``."""
    length = max(bar, np.ceil((max(n.onset + n.duration for n in notes) - 0.01) / bar) * bar)
    repeats = int(np.ceil(beats / length))
    return [n._replace(onset=n.onset + k * length, duration=n.duration * 0.93) for k in range(repeats) for n in notes]


def _accompaniment(notes: list[Note], key: Key, bar: float, backing: str) -> list[Track]:
    """A bass note on the bar line and chords after it, from the triad that holds most of each bar's melody."""
    options = ["I", "IV", "V", "ii", "vi"] if key.mode == "major" else ["i", "VII", "iv", "v", "VI"]
    triads = [build_chord(key, numeral, 3) for numeral in options]
    bass, chords = [], []
    pitches: tuple[int, ...] = ()
    for index in range(int(max(n.onset for n in notes) / bar) + 1):
        start = index * bar
        inside = [n for n in notes if start <= n.onset < start + bar]
        best = max(triads, key=lambda triad: (_fit(inside, triad), -triads.index(triad)))
        pitches = voicing(best, pitches, 52)
        bass.append(Note(start, bar * 0.9, 36 + best.root, 80))
        offbeats = [start + step for step in np.arange(1, max(bar, 2), 1) if step < bar] or [start + bar / 2]
        chords += [Note(float(onset), 0.6, pitch, 60) for onset in offbeats for pitch in pitches]
    return [
        Track(instrument=backing, notes=tuple(chords), volume=84, pan=50),
        Track(instrument="double bass", notes=tuple(bass), volume=96),
    ]


def _fit(notes: list[Note], triad: Chord) -> float:
    """Time that melody notes belong to the triad, in beats."""
    return sum(n.duration for n in notes if n.pitch % 12 in triad.pitch_classes)


def perform(tune: Tune, seed: tuple[int, ...], window: int, studio: Studio) -> Performance:
    """Compose and render one clip."""
    piece = compose(tune, seed, studio.seconds, window).audible(studio.seconds)
    try:
        return Performance(render(piece, studio), piece.facts)
    except ValueError as error:
        raise UnusableClipError(f"{tune.title!r} of {tune.collection}: {error}") from error


def plan(num_clips: int, seed: int, scores: Path | None = None, clips_per_tune: int = 2) -> list[Job]:
    """Jobs for tunes in random order, ``clips_per_tune`` from each, and again on other instruments if need be.

    ``scores`` is a file of notes; without it music21 reads the tunes.
    """
    tunes = find_tunes() if scores is None else [Tune.from_record(record) for record in read_scores(scores, "tunes")]
    order = np.random.default_rng((seed, 2)).permutation(len(tunes))
    jobs = []
    for index in range(num_clips):
        visit, window = divmod(index, clips_per_tune)
        tune = tunes[order[visit % len(tunes)]]
        jobs.append(
            Job(
                name=f"tune_{index:06d}",
                piece=tune.piece,
                source="tunes",
                licence=LICENCE,
                credit=f"traditional, {tune.title!r} in {tune.collection}; arranged by music2latent-kit",
                perform=partial(perform, tune, (seed, visit, zlib.crc32(tune.title.encode())), window),
            )
        )
    return jobs
