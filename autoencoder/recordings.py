"""Where training and encoding get audio from: a folder of files, or WebDataset shards, behind one interface."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import IOBase
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autoencoder.audio import OTHER_SUFFIXES, AudioInfo, audio_info, find_audio, read_audio
from autoencoder.metadata import read_metadata

NUM_THREADS = 16  # for looking at headers, which mostly waits for the disk


@runtime_checkable
class Recordings(Protocol):
    """A numbered collection of recordings."""

    faults: dict[str, str]
    """What was left out when the collection was opened, with the reason."""

    def __len__(self) -> int: ...
    def name(self, index: int) -> str:
        """For messages."""
        ...

    def infos(self) -> list[AudioInfo | str]:
        """Header of every recording, or why it cannot be used."""
        ...

    def open(self, index: int) -> Path | IOBase:
        """The file. Raises ValueError if it has gone."""
        ...

    def facts(self, index: int) -> dict[str, Any]:
        """Captions and numbers: ``file_name``, and what the metadata holds."""
        ...

    def order(self, indices: Int[Tensor, " items"], generator: torch.Generator) -> Int[Tensor, " items"]:
        """A permutation of ``indices`` for one epoch."""
        ...


def read_recording(
    recordings: Recordings, index: int, sample_rate: int, start: int = 0, num_samples: int | None = None
) -> Float[Tensor, "channels samples"]:
    """Samples of one recording.

    Raises:
        ValueError: as for ``read_audio``, or the recording has gone.
    """
    return read_audio(recordings.open(index), sample_rate, start, num_samples, recordings.name(index))


class AudioFolder:
    """Files of a folder, with the records of its metadata where there is any.

    Args:
        folder: searched recursively.
        names: only these files, relative to ``folder``; all that are found if not given.

    Raises:
        ValueError: there is no audio, or the metadata cannot be read.
    """

    def __init__(self, folder: Path, names: Sequence[str] | None = None) -> None:
        self.folder = folder
        self.faults: dict[str, str] = {}
        if names is None:
            names = [path.relative_to(folder).as_posix() for path in find_audio(folder, self.faults)]
            self.faults = {str(folder / name): reason for name, reason in self.faults.items()}
        self.names = list(names)
        self._facts = {record.facts["file_name"]: record.facts for record in read_metadata(folder)}

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return str(self.folder / self.names[index])

    def infos(self) -> list[AudioInfo | str]:
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            return list(pool.map(self._info, range(len(self))))

    def open(self, index: int) -> Path:
        return self.folder / self.names[index]

    def facts(self, index: int) -> dict[str, Any]:
        return self._facts.get(self.names[index], {"file_name": self.names[index]})

    def order(self, indices: Int[Tensor, " items"], generator: torch.Generator) -> Int[Tensor, " items"]:
        return indices[torch.randperm(len(indices), generator=generator)]

    def _info(self, index: int) -> AudioInfo | str:
        path = self.open(index)
        if path.suffix.lower() in OTHER_SUFFIXES:
            return "a format that must be converted first: scripts/prepare_audio.py"
        try:
            return audio_info(path)
        except ValueError as error:
            return f"unreadable ({str(error).removeprefix(f'{path} cannot be read as audio: ')})"


def is_shards(source: str | Path) -> bool:
    """Whether a data set is WebDataset shards: a URL or pipe, a pattern or file of .tar, or a folder with such."""
    text = str(source)
    if text.startswith("pipe:") or "://" in text or text.endswith(".tar"):
        return True
    return Path(text).is_dir() and any(Path(text).glob("*.tar"))


def open_recordings(source: str | Path, cache_dir: Path) -> Recordings:
    """Open a folder of audio, or shards: a folder of .tar, their path, pattern, URL or pipe.

    Args:
        source: for patterns see WebDataset: ``https://host/audio-{00000..00127}.tar``, ``pipe:aws s3 cp ... -``.
        cache_dir: where shards that are not local are kept while they are used.

    Raises:
        ValueError: there is nothing to be used.
    """
    if not is_shards(source):
        return AudioFolder(Path(source))
    from autoencoder.shards import AudioShards

    return AudioShards(source, cache_dir)
