"""Source ``grooves``: accompaniments by MMA (Musical MIDI Accompaniment, Bob van der Poel) in random keys.

MMA plays each groove over a few progressions in C; key and tempo of a clip are drawn afterwards, from its own seed.

MMA's own groove libraries describe themselves; the ones copied from keyboards and rhythm machines (casio, yamaha,
zoom) are left out, because the origin of their patterns is unclear.
"""

import re
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scripts.demo_dataset.instruments import DRUMS, GM_NAMES
from scripts.demo_dataset.midi import DRUM_CHANNEL, MidiChannel, MidiFile, read_midi
from scripts.demo_dataset.pieces import Facts, Job, Performance, Piece, Studio, Track, UnusableClipError
from scripts.demo_dataset.scores import pack_notes, read_scores, unpack_notes
from scripts.demo_dataset.synthesis import render
from scripts.demo_dataset.theory import TONICS, Key, build_chord

GROOVE_ROOT = Path("/usr/share/mma/lib")
LIBRARIES = ("stdlib", "alexis", "pflib", "kara")
INSTALL = "the source 'grooves' needs MMA: on Debian, apt-get install mma"
LICENCE = "output of MMA (GPL-2.0-or-later)"
CREDIT = "MMA by Bob van der Poel, groove {}; notes chosen by music2latent-kit"
NOT_MAIN = re.compile(r"Intro|Ending|End(?![a-z])|Fill|Count(?!ry)|Metronome|^\d+[Bb]eat.*F[ABCD]$")
PROGRESSIONS = {
    "major": ("I vi ii V", "I IV V I", "I V vi IV", "ii V I I", "I iii IV V", "I I IV V"),
    "minor": ("i iv V i", "i VI III VII", "i VII VI V", "i iv VII III", "i i iv V"),
}
TEMPO_RANGES = (
    (("ballad", "slow", "lullaby", "largo", "adagio"), (60, 84)),
    (("swing", "bebop", "boogie", "polka", "samba", "quickstep", "jive"), (130, 190)),
    (("waltz", "bossa", "mambo", "salsa"), (96, 150)),
)
"""Words in the name of a groove and the tempos that suit them; others get ``DEFAULT_TEMPO``."""
DEFAULT_TEMPO = (84, 138)
ARRANGED_SECONDS = 30.0
"""Longest clip."""
NUM_ARRANGEMENTS = 4
"""Progressions of each groove: in major, minor, major, minor."""
MOODS = {"major": ("bright", "cheerful", "friendly", "sunny"), "minor": ("moody", "wistful", "serious", "bluesy")}


VARIANT_MARKS = frozenset({"Sus", "Plus", "Alt", "Walk", "Var"})
INTERNAL = re.compile(
    r"\b(same|above|groove|version|variation|sequence|bars?|like|previous|voice\w*|adds?|section)\b|[$<>{}/]"
)
"""Words of descriptions that speak of MMA's library rather than of the sound."""


class Groove(NamedTuple):
    """One accompaniment style: ``BossaNovaSus``, ``bossa nova``, "Adds sustained choir voices."."""

    name: str
    style: str
    description: str


class Arrangement(NamedTuple):
    """A groove over one progression in C; ``midi`` is what MMA plays, where that is known already."""

    groove: Groove
    number: int
    midi: MidiFile | None = None

    @property
    def mode(self) -> str:
        return ("major", "minor")[self.number % 2]

    def to_record(self) -> dict[str, Any]:
        """Everything, for a file of scores; the notes as long as the longest clip needs them."""
        midi = self.played()
        last = ARRANGED_SECONDS * _tempo_range(self.groove)[1] / 60
        channels = {
            str(number): [channel.program, channel.pan, pack_notes(n for n in channel.notes if n.onset < last)]
            for number, channel in midi.channels.items()
        }
        return {**self.groove._asdict(), "number": self.number, "metre": midi.metre, "channels": channels}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Arrangement":
        """Read ``to_record``."""
        channels = {
            int(number): MidiChannel(program, pan, list(unpack_notes(notes)))
            for number, (program, pan, notes) in record["channels"].items()
        }
        metre = tuple(record["metre"]) if record["metre"] else None
        groove = Groove(record["name"], record["style"], record["description"])
        return cls(groove, record["number"], MidiFile(channels, metre))

    def played(self) -> MidiFile:
        """The notes, by MMA if need be.

        Raises:
            UnusableClipError: MMA refuses this groove.
        """
        return self.midi or _run_mma(_song(self), self.groove)


def find_grooves(root: Path = GROOVE_ROOT) -> list[Groove]:
    """All grooves that are no intro, ending or fill, sorted by file.

    Raises:
        FileNotFoundError: MMA is not installed.
    """
    if shutil.which("mma") is None or not root.is_dir():
        raise FileNotFoundError(f"{INSTALL} (looked for the program mma and the folder {root})")
    files = [path for library in LIBRARIES for path in sorted((root / library).rglob("*.mma"))]
    grooves = {groove.name.lower(): groove for path in files for groove in _grooves_in(path)}
    return list(grooves.values())


def _grooves_in(path: Path) -> Iterator[Groove]:
    text = path.read_text(errors="replace").replace("\\\n", " ")
    for match in re.finditer(r"^\s*DefGroove\s+(\S+)[ \t]*(.*)$", text, re.MULTILINE | re.IGNORECASE):
        name, description = match.groups()
        if not NOT_MAIN.search(f"{name} {description}"):
            yield Groove(name, style_words(name), " ".join(description.split()))


def style_words(name: str) -> str:
    """``"BossaNova1Sus"`` in words: ``"bossa nova"``, without MMA's numbers and marks of variants."""
    words = re.findall(r"\d+s(?=[A-Z_]|$)|\d+(?=[Bb]eat)|[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name.replace("beatp", "beat"))
    words = [word for word in words if word not in VARIANT_MARKS and (len(word) > 2 or word.isdigit())]
    return " ".join(words).lower() or name.lower()


def compose(arrangement: Arrangement, seed: tuple[int, ...], seconds: float) -> Piece:
    """Draw key and tempo of what MMA plays.

    Raises:
        UnusableClipError: MMA refuses this groove, or it is silent.
    """
    rng = np.random.default_rng(seed)
    key = Key(int(rng.integers(12)), arrangement.mode)
    tempo = int(rng.integers(*_tempo_range(arrangement.groove)))
    return _piece(arrangement.played(), arrangement.groove, key, tempo, rng).audible(seconds)


def _song(arrangement: Arrangement) -> str:
    """What MMA is asked to play; the same for every data set."""
    groove, number = arrangement.groove, arrangement.number
    rng = np.random.default_rng((zlib.crc32(groove.name.encode()), number))
    key = Key(0, arrangement.mode)
    numerals = str(rng.choice(PROGRESSIONS[key.mode])).split()
    names = [_chord_name(key, numeral, bool(rng.random() < 0.5)) for numeral in numerals]
    num_bars = int(np.ceil(ARRANGED_SECONDS * _tempo_range(groove)[1] / 60 / 2)) + 2  # enough for two beats in a bar
    bars = [f"{bar + 1} {names[bar % len(names)]}" for bar in range(num_bars)]
    return "\n".join([f"RndSeed {rng.integers(2**31)}", "Tempo 120", f"Groove {groove.name}", *bars, ""])


def _tempo_range(groove: Groove) -> tuple[int, int]:
    name = f"{groove.name} {groove.style}".lower()
    return next((tempos for words, tempos in TEMPO_RANGES if any(word in name for word in words)), DEFAULT_TEMPO)


def _chord_name(key: Key, numeral: str, seventh: bool) -> str:
    """``F#m7`` and the like, in MMA's spelling."""
    chord = build_chord(key, numeral, 4)
    third, top = chord.notes[1] - chord.notes[0], chord.notes[3] - chord.notes[0]
    diminished = chord.notes[2] - chord.notes[0] == 6
    quality = "m" if third == 3 else ""
    if diminished:
        return f"{TONICS[chord.root]}m7b5"
    extension = ("M7" if top == 11 else "7") if seventh else ""
    return f"{TONICS[chord.root]}{quality}{extension}"


def _run_mma(song: str, groove: Groove) -> MidiFile:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "song.mma", Path(folder) / "song.mid"
        source.write_text(song)
        command = ["mma", "-w", "-f", str(target), str(source)]
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=folder)
        except subprocess.TimeoutExpired as error:
            raise UnusableClipError(f"MMA does not come to an end with groove {groove.name}") from error
        if result.returncode != 0 or not target.is_file():
            raise UnusableClipError(f"MMA cannot play groove {groove.name}: {result.stdout.strip()[-200:]}")
        return read_midi(target.read_bytes())


def _piece(midi: MidiFile, groove: Groove, key: Key, tempo: int, rng: np.random.Generator) -> Piece:
    """MMA counts its tempo in quarter notes; in 6/8 and the like the beat that is heard is a dotted quarter."""
    beats, unit = midi.metre or (4, 4)
    quarters_per_beat = 1.5 if unit == 8 and beats % 3 == 0 else 1.0
    shift = key.tonic if key.tonic <= 6 else key.tonic - 12
    tracks = []
    for number, channel in midi.channels.items():
        is_drums = number == DRUM_CHANNEL
        notes = tuple(
            note._replace(
                onset=note.onset / quarters_per_beat,
                duration=note.duration / quarters_per_beat,
                pitch=note.pitch if is_drums else int(np.clip(note.pitch + shift, 0, 127)),
            )
            for note in channel.notes
        )
        name = DRUMS if is_drums else GM_NAMES[channel.program]
        tracks.append(Track(instrument=name, notes=notes, pan=channel.pan, program=channel.program))
    if not tracks:
        raise UnusableClipError(f"groove {groove.name} plays no note")
    tracks.sort(key=lambda track: (track.is_drums, "bass" in track.instrument, -len(track.notes)))
    facts = Facts(
        style=groove.style,
        instruments=tuple(dict.fromkeys(track.instrument for track in tracks)),
        tempo=round(tempo / quarters_per_beat, 1),
        first_beat=0.0,
        key=str(key),
        mode=key.mode,
        metre=f"{beats}/{unit}" if midi.metre else None,
        moods=tuple(str(mood) for mood in rng.choice(MOODS[key.mode], 2, replace=False)),
        description=_sentence(groove.description),
    )
    return Piece(facts=facts, tracks=tuple(tracks), reverb=float(rng.uniform(0.1, 0.5)))


def _sentence(description: str) -> str | None:
    """The description of a groove, where it can stand in a caption."""
    if not 12 <= len(description) <= 90 or INTERNAL.search(description.lower()):
        return None
    return f"{description[0].upper()}{description[1:].rstrip('.')}."


def perform(arrangement: Arrangement, seed: tuple[int, ...], studio: Studio) -> Performance:
    """Compose and render one clip."""
    piece = compose(arrangement, seed, studio.seconds)
    try:
        return Performance(render(piece, studio), piece.facts)
    except ValueError as error:
        raise UnusableClipError(f"groove {arrangement.groove.name}: {error}") from error


def arrangements(scores: Path | None = None) -> list[Arrangement]:
    """Every groove over its first progression, then every groove over the second one, and so on.

    Args:
        scores: file of notes; without it MMA plays each one when it is needed.

    Raises:
        FileNotFoundError: there are no scores, and MMA is not installed.
    """
    if scores is not None:
        found = [Arrangement.from_record(record) for record in read_scores(scores, "grooves")]
        return sorted(found, key=lambda arrangement: arrangement.number)
    return [Arrangement(groove, number) for number in range(NUM_ARRANGEMENTS) for groove in find_grooves()]


def plan(num_clips: int, seed: int, scores: Path | None = None) -> list[Job]:
    """One job per clip: every groove once in random order, then all again in other keys and tempos.

    Variants of one groove (with strings, without...) share their ``piece``, so that no test groove is trained on.
    """
    choices = arrangements(scores)
    by_number: dict[int, list[Arrangement]] = {}
    for arrangement in choices:
        by_number.setdefault(arrangement.number, []).append(arrangement)
    rng = np.random.default_rng((seed, 1))
    order = [group[place] for group in by_number.values() for place in rng.permutation(len(group))]
    jobs = []
    for index in range(num_clips):
        arrangement = order[index % len(order)]
        groove = arrangement.groove
        jobs.append(
            Job(
                name=f"groove_{groove.name.lower()}_{index:05d}",
                piece=f"groove_{groove.style}",
                source="grooves",
                licence=LICENCE,
                credit=CREDIT.format(groove.name),
                perform=partial(perform, arrangement, (seed, index)),
            )
        )
    return jobs
