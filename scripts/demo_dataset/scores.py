"""A file of notes, so that grooves and tunes can be rendered where MMA and music21 are not installed.

``scripts/pack_demo_kit.py`` writes it: JSON in an xz file, lists of records by source, with the notes of a part in
columns that compress well (gaps between onsets, durations, gaps between pitches, velocities; times in ticks).
"""

import json
import lzma
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from scripts.demo_dataset.pieces import Note

TICKS = 192
"""Per beat; MMA's own resolution, and fine enough for triplets of thirty-seconds."""


def pack_notes(notes: Iterable[Note]) -> list[list[int]]:
    """Columns of notes in time order, rounded to ticks."""
    rows = sorted((round(n.onset * TICKS), round(n.duration * TICKS), n.pitch, n.velocity) for n in notes)
    if not rows:
        return [[], [], [], []]
    onsets, durations, pitches, velocities = (list(column) for column in zip(*rows, strict=True))
    return [_gaps(onsets), durations, _gaps(pitches), velocities]


def unpack_notes(columns: Sequence[Sequence[int]]) -> tuple[Note, ...]:
    """Notes of ``pack_notes``."""
    onsets, durations, pitches, velocities = columns
    rows = zip(accumulate(onsets), durations, accumulate(pitches), velocities, strict=True)
    return tuple(Note(on / TICKS, max(length, 1) / TICKS, pitch, velocity) for on, length, pitch, velocity in rows)


def _gaps(values: Sequence[int]) -> list[int]:
    return [b - a for a, b in zip([0, *values[:-1]], values, strict=True)]


def write_scores(path: Path, records: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Write the records of each source."""
    text = json.dumps(records, separators=(",", ":"))
    path.write_bytes(lzma.compress(text.encode(), preset=9))


def read_scores(path: Path, source: str) -> list[dict[str, Any]]:
    """Records of one source.

    Raises:
        ValueError: the file is not one of ``write_scores``, or has nothing of this source.
    """
    try:
        records = json.loads(lzma.decompress(path.read_bytes()))
    except (OSError, lzma.LZMAError, ValueError) as error:
        raise ValueError(f"{path} is not a file of scores as scripts/pack_demo_kit.py writes it: {error}") from error
    if not records.get(source):
        raise ValueError(f"{path} holds no {source}, only {', '.join(records) or 'nothing'}")
    return list(records[source])
