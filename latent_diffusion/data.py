"""Latent shards: the file format, its writer and its reader side by side, and batches with padding.

A set is a folder of ``latents-00000.safetensors`` files and one ``statistics.json``. A shard holds ``latents``
(channels, frames) in float16, all items one after the other, ``lengths`` (items,) in frames, and in its header what
codec made them and one JSON record per item: file_name, captions, seconds, tempo, key.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from latent_diffusion.conditions import key_index, tempo_value

STATISTICS = "statistics.json"
TextEmbeddings = dict[str, Float[Tensor, "tokens dim"]]


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

    def record(self) -> dict[str, Any]:
        """Everything but the latents."""
        return {name: getattr(self, name) for name in ("file_name", "captions", "seconds", "tempo", "key")}


def write_shard(path: Path, items: Sequence[LatentItem], codec: CodecInfo) -> None:
    """Write a shard, complete or not at all: under a temporary name first."""
    partial = path.with_suffix(".partial")
    tensors = {
        "latents": torch.cat([item.latents for item in items], dim=1).half().contiguous(),
        "lengths": torch.tensor([item.latents.shape[1] for item in items]),
    }
    header = {"codec": json.dumps(asdict(codec)), "items": json.dumps([item.record() for item in items])}
    save_file(tensors, partial, metadata=header)
    partial.chmod(0o644)  # safetensors writes 0600, unreadable to colleagues on a shared cluster
    partial.rename(path)


def read_shard(path: Path) -> tuple[list[LatentItem], CodecInfo]:
    """Items of a shard, with latents in float16, and the codec that made them.

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
    pieces = latents.split(lengths, dim=1)
    return [
        LatentItem(latents=piece, **(record | {"captions": tuple(record["captions"])}))
        for piece, record in zip(pieces, records, strict=True)
    ], codec


@dataclass(frozen=True)
class LatentStatistics:
    """Per-channel mean and standard deviation over all frames of a set."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_frames: int

    @classmethod
    def of(cls, latents: Sequence[Float[Tensor, "channels _"]]) -> "LatentStatistics":
        """Measure latents, in float64."""
        everything = torch.cat([piece.double() for piece in latents], dim=1)
        mean, std = everything.mean(1), everything.std(1).clamp(min=1e-4)
        return cls(tuple(mean.tolist()), tuple(std.tolist()), everything.shape[1])

    def save(self, folder: Path) -> None:
        """Write ``statistics.json``."""
        (folder / STATISTICS).write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, folder: Path) -> "LatentStatistics":
        """Read ``statistics.json``."""
        path = folder / STATISTICS
        if not path.is_file():
            raise ValueError(f"{path} is missing: the encoding was not finished; run scripts/encode_dataset.py again")
        values = json.loads(path.read_text())
        return cls(tuple(values["mean"]), tuple(values["std"]), values["num_frames"])


class LatentClips:
    """A latent set in memory: random stretches of at most ``max_frames``, with one of their captions.

    ``embeddings`` holds the token states of every caption and of the empty prompt, computed once.
    """

    def __init__(self, folder: Path, max_frames: int) -> None:
        paths = sorted(folder.glob("latents-*.safetensors"))
        if not paths:
            raise ValueError(f"found no latents-*.safetensors in {folder}; make them with scripts/encode_dataset.py")
        self.max_frames = max_frames
        self.items, self.codec = read_shard(paths[0])
        for path in paths[1:]:
            items, codec = read_shard(path)
            if codec != self.codec:
                raise ValueError(f"{path} was made by {codec}, but the shards before it by {self.codec}")
            self.items += items
        self.statistics = LatentStatistics.load(folder)
        self.embeddings: TextEmbeddings = {}

    @property
    def captions(self) -> list[str]:
        """Every caption once, and the empty prompt."""
        return sorted({caption for item in self.items for caption in item.captions} | {""})

    def __len__(self) -> int:
        return len(self.items)

    def draw(self, index: int, generator: torch.Generator) -> dict[str, Tensor]:
        """A random stretch and a random caption of one clip; a function of (index, generator)."""
        item = self.items[index]
        num_frames = item.latents.shape[1]
        start = int(torch.randint(max(num_frames - self.max_frames, 0) + 1, (), generator=generator))
        caption = item.captions[int(torch.randint(len(item.captions), (), generator=generator))]
        latents = item.latents[:, start : start + self.max_frames].float()
        if not latents.isfinite().all():
            raise ValueError(f"the latents of {item.file_name} hold NaN or infinity")
        seconds = item.seconds * latents.shape[1] / num_frames
        return {
            "latents": latents,
            "text": self.embeddings[caption],
            "duration": torch.tensor(seconds),
            "tempo": torch.tensor(tempo_value(item.tempo)),
            "key": torch.tensor(key_index(item.key)),
        }

    def collate(self, items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Batch with zero padding: latents (batch, channels, frames), text (batch, tokens, dim), and their masks."""
        latents, mask = _pad([item["latents"].T for item in items])
        text, text_mask = _pad([item["text"].float() for item in items])
        batch = {name: torch.stack([item[name] for item in items]) for name in ("duration", "tempo", "key")}
        return batch | {"latents": latents.mT.contiguous(), "mask": mask, "text": text, "text_mask": text_mask}


def _pad(sequences: list[Float[Tensor, "_ dim"]]) -> tuple[Float[Tensor, "batch length dim"], Tensor]:
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    padded = pad_sequence(sequences, batch_first=True)
    return padded, torch.arange(padded.shape[1]) < lengths[:, None]
