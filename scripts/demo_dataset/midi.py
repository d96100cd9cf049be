"""A reader of Standard MIDI Files, as far as generated accompaniments need it.

Source: Standard MIDI Files 1.0, https://www.midi.org/specifications. Formats 0 and 1, time in ticks per quarter.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from scripts.demo_dataset.pieces import Note

DRUM_CHANNEL = 9
DATA_BYTES = {0x80: 2, 0x90: 2, 0xA0: 2, 0xB0: 2, 0xC0: 1, 0xD0: 1, 0xE0: 2}
META, END_OF_TRACK, TIME_SIGNATURE, PAN = 0xFF, 0x2F, 0x58, 10


class Message(NamedTuple):
    """A MIDI message; ``kind`` is its status without channel, or ``META`` with the type in ``channel``."""

    quarters: float
    kind: int
    channel: int
    data: bytes


@dataclass
class MidiChannel:
    """The notes of one channel, in quarter notes, with its last pan and program."""

    program: int = 0
    pan: int = 64
    notes: list[Note] = field(default_factory=list)


@dataclass(frozen=True)
class MidiFile:
    """Channels that have notes, by number, and the metre at the start if the file says it."""

    channels: dict[int, MidiChannel]
    metre: tuple[int, int] | None


def read_midi(data: bytes) -> MidiFile:
    """Read the bytes of a file.

    Raises:
        ValueError: this is no MIDI file, or one whose time is in frames rather than ticks.
    """
    if data[:4] != b"MThd":
        raise ValueError(f"expected a MIDI file that starts with b'MThd', got {data[:4]!r}")
    division = int.from_bytes(data[12:14])
    if division & 0x8000:
        raise ValueError("expected a MIDI file with time in ticks per quarter, got one in SMPTE frames")
    messages: list[Message] = []
    position = 8 + int.from_bytes(data[4:8])
    while position < len(data):
        length = int.from_bytes(data[position + 4 : position + 8])
        messages += _track_messages(data[position + 8 : position + 8 + length], division)
        position += 8 + length
    return _collect(sorted(messages, key=lambda message: message.quarters))


def _track_messages(data: bytes, division: int) -> Iterator[Message]:
    position, ticks, status = 0, 0, 0
    while position < len(data):
        delta, position = _variable_length(data, position)
        ticks += delta
        if data[position] & 0x80:
            status = data[position]
            position += 1
        if status == META:
            length, start = _variable_length(data, position + 1)
            yield Message(ticks / division, META, data[position], data[start : start + length])
            position = start + length
        elif status >= 0xF0:
            length, start = _variable_length(data, position)
            position = start + length
        else:
            length = DATA_BYTES[status & 0xF0]
            yield Message(ticks / division, status & 0xF0, status & 0x0F, data[position : position + length])
            position += length


def _variable_length(data: bytes, position: int) -> tuple[int, int]:
    """A number in groups of seven bits, and the position behind it."""
    value = 0
    while True:
        byte = data[position]
        position += 1
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, position


def _collect(messages: list[Message]) -> MidiFile:
    channels: defaultdict[int, MidiChannel] = defaultdict(MidiChannel)
    pressed: dict[tuple[int, int], tuple[float, int]] = {}
    metre = None
    for quarters, kind, channel, data in messages:
        if kind == META:
            if channel == TIME_SIGNATURE and metre is None:
                metre = (data[0], 2 ** data[1])
        elif kind == 0xC0:
            channels[channel].program = data[0]
        elif kind == 0xB0 and data[0] == PAN:
            channels[channel].pan = data[1]
        elif kind in (0x80, 0x90):
            key = (channel, data[0])
            if key in pressed:
                onset, velocity = pressed.pop(key)
                channels[channel].notes.append(Note(onset, max(quarters - onset, 0.05), data[0], velocity))
            if kind == 0x90 and data[1] > 0:
                pressed[key] = (quarters, data[1])
    return MidiFile({number: channel for number, channel in sorted(channels.items()) if channel.notes}, metre)
