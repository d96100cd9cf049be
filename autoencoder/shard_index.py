"""Where in a shard (an uncompressed tar file) each recording is, and files that are a part of another file."""

import io
import json
import os
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from autoencoder.audio import OTHER_SUFFIXES, SUFFIXES, AudioInfo, audio_info

INDEX_SUFFIX = ".index.json"


class Entry(NamedTuple):
    """One recording of a shard: where its files are, in bytes, and what its header says."""

    key: str
    name: str
    start: int
    size: int
    record_start: int
    record_size: int
    is_text: bool
    """The record is a caption, not JSON."""
    info: AudioInfo | str
    """Or why the recording cannot be used."""


class Window(io.RawIOBase):
    """A part of a file, as a file."""

    def __init__(self, path: Path, start: int, size: int) -> None:
        self._descriptor, self._start, self._size, self._place = os.open(path, os.O_RDONLY), start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        wanted = max(min(len(buffer), self._size - self._place), 0)
        data = os.pread(self._descriptor, wanted, self._start + self._place)
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def make_index(path: Path) -> list[Entry]:
    """Look through a shard. A file that is no recording, though its suffix is one of audio, is an entry of size 0.

    Raises:
        ValueError: it is not an uncompressed tar file.
    """
    audio: dict[str, tarfile.TarInfo] = {}
    records: dict[str, tarfile.TarInfo] = {}
    unused: dict[str, str] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in filter(tarfile.TarInfo.isfile, tar):
                folder, _, base = member.name.rpartition("/")
                key, _, extension = base.partition(".")
                key = f"{folder}/{key}" if folder else key
                suffix = PurePosixPath(base).suffix.lower()
                if f".{extension.lower()}" in SUFFIXES:
                    if key in audio:
                        unused[audio[key].name] = f"{member.name} has the same key {key!r}"
                    audio[key] = member
                elif suffix in SUFFIXES:
                    unused[member.name] = f"WebDataset takes {extension!r} for its suffix: no other dots"
                elif suffix in OTHER_SUFFIXES:
                    unused[member.name] = "not a format that is read from shards; prepare_audio.py writes such"
                elif extension in ("json", "txt") and not (extension == "txt" and key in records):
                    records[key] = member
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"{path} is not an uncompressed tar file: {error}") from error
    faults = [Entry(name, name, 0, 0, 0, 0, False, reason) for name, reason in unused.items()]
    return [_entry(path, key, member, records.get(key)) for key, member in audio.items()] + faults


def _entry(path: Path, key: str, member: tarfile.TarInfo, record: tarfile.TarInfo | None) -> Entry:
    info: AudioInfo | str
    try:
        with Window(path, member.offset_data, member.size) as window:
            info = audio_info(window, member.name)
    except ValueError as error:
        info = f"unreadable ({str(error).removeprefix(f'{member.name} cannot be read as audio: ')})"
    return Entry(
        key=key,
        name=member.name,
        start=member.offset_data,
        size=member.size,
        record_start=record.offset_data if record else 0,
        record_size=record.size if record else 0,
        is_text=bool(record and record.name.endswith(".txt")),
        info=info,
    )


def write_index(path: Path, target: Path) -> list[Entry]:
    """Make the index of a shard and write it to ``target``."""
    entries = make_index(path)
    write_whole(target, json.dumps({"size": path.stat().st_size, "entries": entries}).encode())
    return entries


def write_whole(target: Path, content: bytes) -> None:
    """Write a file, complete or not at all."""
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    partial.rename(target)


def read_index(content: str | bytes, size: int | None) -> list[Entry] | None:
    """Entries of an index; None if it is of a shard of another size, or broken."""
    try:
        index = json.loads(content)
        if size is not None and index["size"] != size:
            return None
        rows = [Entry(*row) for row in index["entries"]]
    except (ValueError, TypeError, KeyError):
        return None
    return [row if isinstance(row.info, str) else row._replace(info=AudioInfo(*row.info)) for row in rows]
