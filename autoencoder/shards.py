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
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from webdataset.gopen import gopen
from webdataset.shardlists import expand_urls

from autoencoder.audio import AudioInfo
from autoencoder.shard_index import INDEX_SUFFIX, Entry, Window, read_index, write_index, write_whole

NUM_CACHED = 64  # shards that are not local are kept until there are more than so many
SHARDS_AT_ONCE = 16  # a training draws from so many of them at a time


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
                entries = self._index(url)
                self.places += [(number, entry) for entry in entries if entry.size]
                self.faults |= {f"{url}/{entry.name}": str(entry.info) for entry in entries if not entry.size}
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
                content = _read_remote(url + INDEX_SUFFIX)
                entries = read_index(content, None)
                if entries is not None:
                    write_whole(cached, content)
                    return entries
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
