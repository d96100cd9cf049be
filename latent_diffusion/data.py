"""Latent shards: the file format, its writer and its reader side by side, and batches with padding.

A set is a folder of ``latents-00000.safetensors`` files and one ``statistics.json``. A shard holds ``latents``
(frames, channels) in float16, all items one after the other, ``lengths`` (items,) in frames, and in its header what
codec made them and one JSON record per item: file_name, captions, seconds, tempo, key, first_beat and more. An item is
one stretch of the file, so a set that does not fit into memory can be read from the disk as it is needed.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from latent_diffusion.conditions import NO_TEMPO, beats_at, key_index, tempo_value

STATISTICS = "statistics.json"
TextEmbeddings = Mapping[str, Float[Tensor, "tokens dim"]]
Place = Literal["memory", "device", "disk"]


@dataclass(frozen=True)
class CodecInfo:
    """What of the codec the latents depend on; shards of different codecs must not be mixed."""

    codec_id: str
    latent_channels: int
    """Channels of the latents: those of the codec times the audio channels."""
    latent_rate: float
    """Latent frames per second."""


@dataclass(frozen=True)
class LatentItem:
    """One clip: latents and what is known of it."""

    latents: Float[Tensor, "channels frames"]
    file_name: str
    captions: tuple[str, ...]
    seconds: float
    tempo: float | None = None
    key: str | None = None
    first_beat: float | None = None
    """Seconds from the start of the clip to a bar line."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Further columns of the metadata; training does not use them."""

    def record(self) -> dict[str, Any]:
        """Everything but the latents."""
        names = ("file_name", "captions", "seconds", "tempo", "key", "first_beat", "facts")
        return {name: getattr(self, name) for name in names}


def write_shard(path: Path, items: Sequence[LatentItem], codec: CodecInfo) -> None:
    """Write a shard, complete or not at all: under a temporary name first."""
    partial = path.with_suffix(".partial")
    tensors = {
        "latents": torch.cat([item.latents.half().T for item in items]).contiguous(),
        "lengths": torch.tensor([item.latents.shape[1] for item in items]),
    }
    header = {"codec": json.dumps(asdict(codec)), "items": json.dumps([item.record() for item in items])}
    save_file(tensors, partial, metadata=header)
    partial.chmod(0o644)  # safetensors writes 0600, unreadable to colleagues on a shared cluster
    with partial.open("rb") as file:
        os.fsync(file.fileno())  # the rename must not reach the disk before the data
    partial.rename(path)


def read_shard(path: Path) -> tuple[list[LatentItem], CodecInfo]:
    """Items of a shard, with latents in float16, and the codec that made them.

    The latents are views of the mapped file: nothing is read before it is used.

    Raises:
        ValueError: the file is not a latent shard.
    """
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            latents, lengths = file.get_tensor("latents"), file.get_tensor("lengths").tolist()
            records, codec = json.loads(header["items"]), CodecInfo(**json.loads(header["codec"]))
    except Exception as error:
        raise ValueError(f"{path} is not a latent shard as encode_dataset.py writes them: {error}") from error
    if len(latents) != sum(lengths):
        raise ValueError(f"{path} was written by an older version; encode the data set again")
    pieces = latents.split(lengths)
    return [
        LatentItem(latents=piece.T, **(record | {"captions": tuple(record["captions"])}))
        for piece, record in zip(pieces, records, strict=True)
    ], codec


@dataclass(frozen=True)
class LatentStatistics:
    """Per-channel mean and standard deviation over all frames of a set."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_frames: int

    @classmethod
    def of(cls, latents: Iterable[Float[Tensor, "channels _"]]) -> "LatentStatistics":
        """Measure latents one after the other, in float64 (Chan et al. 1979: means and deviations of two sets)."""
        num_frames, mean, squares = 0, torch.zeros(()), torch.zeros(())
        for piece in latents:
            values = piece.double()
            added, added_mean = values.shape[1], values.mean(1)
            total, difference = num_frames + added, added_mean - mean
            squares = squares + (values - added_mean[:, None]).square().sum(1)
            squares = squares + difference.square() * num_frames * added / total
            mean, num_frames = mean + difference * added / total, total
        std = (squares / max(num_frames - 1, 1)).sqrt().clamp(min=1e-4)
        return cls(tuple(mean.tolist()), tuple(std.tolist()), num_frames)

    def save(self, folder: Path) -> None:
        """Write ``statistics.json``, complete or not at all."""
        partial = folder / f"{STATISTICS}.partial"
        partial.write_text(json.dumps(asdict(self)))
        partial.rename(folder / STATISTICS)

    @classmethod
    def load(cls, folder: Path) -> "LatentStatistics":
        """Read ``statistics.json``."""
        path = folder / STATISTICS
        if not path.is_file():
            raise ValueError(f"{path} is missing: the encoding was not finished; run scripts/encode_dataset.py again")
        values = json.loads(path.read_text())
        return cls(tuple(values["mean"]), tuple(values["std"]), values["num_frames"])


class LatentClips:
    """A latent set: random stretches of at most ``max_frames``, with one of their captions.

    Args:
        folder: of shards of one codec, complete with their statistics.
        max_frames: longest stretch.
        latents_in: "memory" reads everything now, "disk" as it is needed, through the system's cache, which several
            processes share; "device" keeps everything on ``device``.
        device: for "device".

    Raises:
        ValueError: there are no shards, or they are of different codecs or not complete.
    """

    def __init__(
        self, folder: Path, max_frames: int, latents_in: Place = "memory", device: torch.device | None = None
    ) -> None:
        paths = sorted(folder.glob("latents-*.safetensors"))
        if not paths:
            raise ValueError(f"found no latents-*.safetensors in {folder}; make them with scripts/encode_dataset.py")
        self.max_frames = max_frames
        self.items: list[LatentItem] = []
        self.skipped: list[str] = []
        self.embeddings: TextEmbeddings = {}  # token states of every caption and of the empty prompt
        for path in paths:
            items, codec = read_shard(path)
            if path == paths[0]:
                self.codec = codec
            if codec != self.codec:
                raise ValueError(f"{path} was made by {codec}, but the shards before it by {self.codec}")
            if latents_in == "device":  # looked at now: a look at each draw would wait for the device
                self.skipped += [item.file_name for item in items if not item.latents.isfinite().all()]
                items = [item for item in items if item.file_name not in self.skipped]
            if latents_in != "disk":
                place = device if latents_in == "device" else torch.device("cpu")
                items = [replace(item, latents=item.latents.T.to(place, copy=True).T) for item in items]
            self.items += items
        self.statistics = LatentStatistics.load(folder)

    @property
    def captions(self) -> list[str]:
        """Every caption once, and the empty prompt."""
        return sorted({caption for item in self.items for caption in item.captions} | {""})

    def __len__(self) -> int:
        return len(self.items)

    def order(self, generator: torch.Generator) -> Tensor:
        """All clips in the order of one epoch."""
        return torch.randperm(len(self), generator=generator)

    def draw(self, index: int, generator: torch.Generator) -> dict[str, Tensor]:
        """A random stretch and a random caption of one clip; a function of (index, generator)."""
        item = self.items[index]
        num_frames = item.latents.shape[1]
        start = int(torch.randint(max(num_frames - self.max_frames, 0) + 1, (), generator=generator))
        caption = item.captions[int(torch.randint(len(item.captions), (), generator=generator))]
        latents = item.latents[:, start : start + self.max_frames].float()
        if latents.device.type == "cpu" and not latents.isfinite().all():
            raise ValueError(f"the latents of {item.file_name} hold NaN or infinity")
        seconds = item.seconds * latents.shape[1] / num_frames
        tempo = tempo_value(item.tempo)
        since_bar = (start + torch.arange(latents.shape[1])) / self.codec.latent_rate - (item.first_beat or 0.0)
        beat_tempo = NO_TEMPO if item.first_beat is None else tempo
        return {
            "latents": latents,
            "text": self.embeddings[caption].to(latents.device),
            "duration": torch.tensor(seconds),
            "tempo": torch.tensor(tempo),
            "beats": beats_at(since_bar, torch.tensor([beat_tempo])).to(latents.device),
            "key": torch.tensor(key_index(item.key)),
        }

    def collate(self, items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Batch with zero padding: latents (batch, channels, frames), text (batch, tokens, dim), and their masks."""
        latents, mask = _pad([item["latents"].T for item in items])
        text, text_mask = _pad([item["text"].float() for item in items])
        beats, _ = _pad([item["beats"][:, None] for item in items])
        batch = {name: torch.stack([item[name] for item in items]) for name in ("duration", "tempo", "key")}
        batch |= {"latents": latents.mT.contiguous(), "mask": mask, "beats": beats[..., 0]}
        return batch | {"text": text, "text_mask": text_mask}


def _pad(sequences: list[Float[Tensor, "_ dim"]]) -> tuple[Float[Tensor, "batch length dim"], Tensor]:
    padded = pad_sequence(sequences, batch_first=True)
    lengths = torch.tensor([len(sequence) for sequence in sequences], device=padded.device)
    return padded, torch.arange(padded.shape[1], device=padded.device) < lengths[:, None]
