"""WebDataset shards of audio, local or behind any URL or pipe: read by number, and written.

A shard is an uncompressed tar file with a few files for each recording that share their name up to the first dot:
the audio, and ``.json`` with its record (``file_name``, ``text``, ...) or ``.txt`` with its caption. Beside the shards
that we write lies ``NAME.tar.index.json``, which says where in the shard each recording is; for others the index is
made once, and kept in ``cache_dir``. A shard that is not local is copied there as a whole when it is first needed, so
any crop can be read at random, and what a training reads is a function of its seed, not of when what arrives.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor
from webdataset.gopen import gopen
from webdataset.shardlists import expand_urls

from autoencoder.audio import SUFFIXES, AudioInfo, audio_info

INDEX_SUFFIX = ".index.json"
NUM_CACHED = 64  # shards that are not local are kept until there are more than so many
SHARDS_AT_ONCE = 16  # a training draws from so many of them at a time


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
    """Look through a shard.

    Raises:
        ValueError: it is not an uncompressed tar file.
    """
    audio: dict[str, tarfile.TarInfo] = {}
    records: dict[str, tarfile.TarInfo] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                folder, _, base = member.name.rpartition("/")
                key, _, extension = base.partition(".")
                key = f"{folder}/{key}" if folder else key
                if member.isfile() and f".{extension.lower()}" in SUFFIXES:
                    audio[key] = member
                elif member.isfile() and extension in ("json", "txt") and not (extension == "txt" and key in records):
                    records[key] = member
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"{path} is not an uncompressed tar file: {error}") from error
    return [_entry(path, key, member, records.get(key)) for key, member in audio.items()]


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
    """Make the index of a shard and write it to ``target``, complete or not at all."""
    entries = make_index(path)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps({"size": path.stat().st_size, "entries": entries}))
    partial.rename(target)
    return entries


def read_index(content: str | bytes, size: int | None) -> list[Entry] | None:
    """Entries of an index; None if it is of a shard of another size."""
    index = json.loads(content)
    if size is not None and index["size"] != size:
        return None
    rows = (Entry(*row) for row in index["entries"])
    return [row if isinstance(row.info, str) else row._replace(info=AudioInfo(*row.info)) for row in rows]


class AudioShards:
    """Recordings of many shards, by number.

    Args:
        source: folder of .tar files, or their path, pattern, URL or pipe, as WebDataset writes them.
        cache_dir: for shards that are not local, and for indices that do not exist.

    Raises:
        ValueError: no shard can be used.
    """

    def __init__(self, source: str | Path, cache_dir: Path) -> None:
        is_folder = Path(source).is_dir()
        urls = sorted(str(path) for path in Path(source).glob("*.tar")) if is_folder else expand_urls(str(source))
        self.urls, self.cache_dir = list(urls), cache_dir
        self.faults: dict[str, str] = {}
        self._failed: dict[str, str] = {}
        self.places: list[tuple[int, Entry]] = []
        for number, url in enumerate(self.urls):
            try:
                self.places += [(number, entry) for entry in self._index(url)]
            except ValueError as error:
                self.faults[url] = str(error)
        if not self.places:
            first = next(iter(self.faults.values()), "there are none")
            raise ValueError(f"none of the {len(self.urls)} shards of {source} can be used; the first: {first}")
        self._shard_of = torch.tensor([number for number, _ in self.places])

    def __len__(self) -> int:
        return len(self.places)

    def name(self, index: int) -> str:
        number, entry = self.places[index]
        return f"{self.urls[number]}/{entry.name}"

    def infos(self) -> list[AudioInfo | str]:
        return [entry.info for _, entry in self.places]

    def open(self, index: int) -> Window:
        number, entry = self.places[index]
        try:
            return Window(self.path(self.urls[number]), entry.start, entry.size)
        except OSError as error:
            raise ValueError(f"the shard {self.urls[number]} cannot be read: {error.strerror}") from error

    def facts(self, index: int) -> dict[str, Any]:
        number, entry = self.places[index]
        if not entry.record_size:
            return {"file_name": entry.name}
        with Window(self.path(self.urls[number]), entry.record_start, entry.record_size) as window:
            content = window.read().decode("utf-8")
        try:
            record = {"text": content.strip()} if entry.is_text else json.loads(content)
        except ValueError as error:
            raise ValueError(f"the record of {self.name(index)} is not JSON: {error}") from error
        return {"file_name": entry.name} | record

    def order(self, indices: Int[Tensor, " items"], generator: torch.Generator) -> Int[Tensor, " items"]:
        """Shards in random order, items mixed within groups of them, so that only one group is read at a time."""
        shards = torch.randperm(len(self.urls), generator=generator)
        num_groups = -(-len(self.urls) // SHARDS_AT_ONCE)
        if all(is_local(url) for url in self.urls):
            num_groups = 1
        mixed = indices[torch.randperm(len(indices), generator=generator)]
        group_of = torch.empty_like(shards)
        group_of[shards] = torch.arange(len(shards)) * num_groups // len(shards)
        return mixed[torch.argsort(group_of[self._shard_of[mixed]], stable=True)]

    def path(self, url: str) -> Path:
        """Local file of a shard, copied if need be.

        Raises:
            ValueError: the shard has gone.
        """
        if is_local(url):
            path = Path(url.removeprefix("file:"))
            if not path.is_file():
                raise ValueError(f"the shard {url} is missing")
            return path
        if url in self._failed:  # what failed once is not tried again for each of its recordings
            raise ValueError(self._failed[url])
        try:
            path = _copy(url, self.cache_dir)
        except ValueError as error:
            self._failed[url] = str(error)
            raise
        with contextlib.suppress(OSError):
            os.utime(path)  # the one used last is deleted last
        return path

    def _index(self, url: str) -> list[Entry]:
        """Index of a shard: the one beside it, the one in the cache, or a new one."""
        if is_local(url):
            path, size = self.path(url), self.path(url).stat().st_size
            beside = path.with_name(path.name + INDEX_SUFFIX)
            cached = self.cache_dir / f"{_digest(f'{path.resolve()} {size} {path.stat().st_mtime_ns}')}{INDEX_SUFFIX}"
        else:
            size, beside, cached = None, None, self.cache_dir / f"{_digest(url)}{INDEX_SUFFIX}"
        for candidate in (beside, cached):
            if candidate is not None and candidate.is_file():
                entries = read_index(candidate.read_text(), size)
                if entries is not None:
                    return entries
        self.cache_dir.mkdir(parents=True, exist_ok=True)
        if not is_local(url) and not url.startswith("pipe:"):
            with contextlib.suppress(ValueError):
                cached.write_bytes(_read_remote(url + INDEX_SUFFIX))
                return read_index(cached.read_text(), None) or []
        return write_index(self.path(url), cached)


def is_local(url: str) -> bool:
    """Whether a shard is a file here."""
    return not url.startswith("pipe:") and ("://" not in url or url.startswith("file:"))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read_remote(url: str) -> bytes:
    try:
        with gopen(url, "rb") as stream:
            return bytes(stream.read())
    except Exception as error:  # webdataset raises many things, depending on the kind of URL
        raise ValueError(f"{url} cannot be read: {error}") from error


def _copy(url: str, cache_dir: Path) -> Path:
    """Copy a shard into the cache, unless it is there; one process copies, the others wait for it.

    Raises:
        ValueError: it cannot be read.
    """
    target = cache_dir / f"{_digest(url)}.tar"
    if target.is_file():
        return target
    cache_dir.mkdir(parents=True, exist_ok=True)
    with _locked(target.with_suffix(".lock")):
        if not target.is_file():
            partial = target.with_suffix(".partial")
            try:
                with gopen(url, "rb") as stream, partial.open("wb") as file:
                    shutil.copyfileobj(stream, file, 1 << 20)
            except Exception as error:  # webdataset raises many things, depending on the kind of URL
                partial.unlink(missing_ok=True)
                raise ValueError(f"the shard {url} cannot be read: {error}") from error
            partial.rename(target)
            _forget_oldest(cache_dir)
    return target


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _forget_oldest(cache_dir: Path) -> None:
    """Delete shards beyond ``NUM_CACHED``; who has one open can still read it."""
    paths = sorted(cache_dir.glob("*.tar"), key=lambda path: path.stat().st_mtime)
    for path in paths[:-NUM_CACHED]:
        path.unlink(missing_ok=True)
