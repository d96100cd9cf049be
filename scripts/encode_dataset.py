"""Turn captioned audio into latent shards for the training of the transformer.

    accelerate launch scripts/encode_dataset.py --data_dir my_music/train --autoencoder outputs/codec/autoencoder \
        --output_dir outputs/latents/train

``data_dir`` follows Hugging Face's AudioFolder convention: audio files and a ``metadata.jsonl`` with one JSON object a
line: ``file_name`` and ``text``, and where known ``captions`` (a list of other wordings), ``tempo`` (beats per minute)
and ``key`` ("F# minor"). Writes ``latents-*.safetensors`` and ``statistics.json``. Files that cannot be used are
named, with the reason, and left out.
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from jsonargparse import auto_cli, set_parsing_settings
from tqdm.auto import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoencoder import Music2LatentAutoencoder
from autoencoder.audio import read_audio
from latent_diffusion.conditions import key_index, tempo_value
from latent_diffusion.data import (
    CodecInfo,
    LatentItem,
    LatentStatistics,
    read_shard,
    write_shard,
)

METADATA = "metadata.jsonl"


@dataclass(frozen=True, kw_only=True)
class EncodingConfig:
    """One encoding of a data set."""

    data_dir: Path
    """Audio files and metadata.jsonl."""
    autoencoder: Path
    """Folder of a trained codec."""
    output_dir: Path
    """Where the shards go; it must not hold any yet."""
    channels: int = 1
    """Audio channels of the latents; files with another number are left out, unless they are mixed down."""
    mix_down: bool = False
    """Average the channels of files that have more than one (only with --channels 1)."""
    items_per_shard: int = 1000
    """Clips in one file."""

    def __post_init__(self) -> None:
        if self.mix_down and self.channels != 1:
            raise ValueError(f"mix_down makes mono, so it needs channels=1, got channels={self.channels}")


def read_metadata(data_dir: Path) -> list[dict[str, Any]]:
    """Records of ``metadata.jsonl``, checked: an existing file and a caption each, valid tempo and key.

    Raises:
        ValueError: the file is missing, empty, or a line of it is wrong; the line is named.
    """
    if not data_dir.is_dir():
        raise ValueError(f"there is no folder {data_dir}; expected one with audio files and {METADATA}")
    path = data_dir / METADATA
    if not path.is_file():
        raise ValueError(
            f"{path} is missing; it needs one JSON object a line, such as "
            '{"file_name": "a.wav", "text": "slow piano", "tempo": 70, "key": "A minor"}'
        )
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            try:
                records.append(check_record(json.loads(line), data_dir))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
    if not records:
        raise ValueError(f"{path} is empty; it needs one JSON object a line with file_name and text")
    return records


def check_record(record: dict[str, Any], data_dir: Path) -> dict[str, Any]:
    """One line of the metadata with ``captions`` filled in."""
    if not isinstance(record, dict):
        raise ValueError(f"it must be a JSON object with file_name and text, got {record!r}")
    if not record.get("file_name") or not (data_dir / record["file_name"]).is_file():
        raise ValueError(f"file_name must name a file in {data_dir}, got {record.get('file_name')!r}")
    captions = record.get("captions") or [record.get("text")]
    if not isinstance(captions, list):
        raise ValueError(f"captions must be a list of texts, got {captions!r}")
    if not all(isinstance(caption, str) and caption.strip() for caption in captions):
        raise ValueError(f"text (or captions) must be non-empty text, got {captions!r}")
    tempo_value(record.get("tempo"))
    key_index(record.get("key"))
    return record | {"captions": captions}


def encode_record(
    model: Music2LatentAutoencoder, record: dict[str, Any], config: EncodingConfig, device: torch.device
) -> LatentItem:
    """Latents of one file.

    Raises:
        ValueError: the file cannot be used; the message names it.
    """
    waveform = read_audio(config.data_dir / record["file_name"], model.config.sample_rate)
    if waveform.shape[0] != config.channels and config.mix_down:
        waveform = waveform.mean(0, keepdim=True)
    if waveform.shape[0] != config.channels:
        raise ValueError(
            f"{record['file_name']} has {waveform.shape[0]} channels where {config.channels} are wanted; "
            "give --mix_down true for mono, or --channels for the number that the files have"
        )
    return LatentItem(
        latents=model.encode(waveform[None].to(device))[0].half().cpu(),
        file_name=record["file_name"],
        captions=tuple(record["captions"]),
        seconds=waveform.shape[1] / model.config.sample_rate,
        tempo=record.get("tempo"),
        key=record.get("key"),
    )


def main(config: EncodingConfig) -> None:
    """Encode; each process takes every n-th shard."""
    records = read_metadata(config.data_dir)
    if config.output_dir.is_dir() and any(config.output_dir.glob("latents-*.safetensors")):
        raise ValueError(f"{config.output_dir} already holds latent shards; remove them or give another --output_dir")
    state = PartialState()
    model = Music2LatentAutoencoder.from_pretrained(config.autoencoder).eval().to(state.device)
    codec = CodecInfo(
        codec_id=model.config.codec_id or model.fingerprint(),
        latent_channels=model.config.latent_channels * config.channels,
        latent_rate=model.latent_rate,
    )
    config.output_dir.mkdir(parents=True, exist_ok=True)
    shards = [records[i : i + config.items_per_shard] for i in range(0, len(records), config.items_per_shard)]
    started, seconds, num_skipped = time.perf_counter(), 0.0, 0
    for number in tqdm(range(state.process_index, len(shards), state.num_processes), unit="shard"):
        items = []
        for record in tqdm(shards[number], unit="file", leave=False):
            try:
                items.append(encode_record(model, record, config, state.device))
            except ValueError as error:
                num_skipped += 1
                tqdm.write(f"left out: {error}")
        seconds += sum(item.seconds for item in items)
        if items:
            write_shard(config.output_dir / f"latents-{number:05d}.safetensors", items, codec)
    rate = seconds / (time.perf_counter() - started)
    print(f"encoded {seconds:.0f} s of audio, {rate:.1f}x real time, {num_skipped} files left out")
    state.wait_for_everyone()
    if state.is_main_process:
        write_statistics(config.output_dir)


def write_statistics(folder: Path) -> None:
    """Measure all shards and write ``statistics.json``, the sign that the set is complete.

    Raises:
        ValueError: no file could be encoded.
    """
    paths = sorted(folder.glob("latents-*.safetensors"))
    if not paths:
        raise ValueError("none of the files could be encoded; the messages above say why")
    LatentStatistics.of([item.latents for path in paths for item in read_shard(path)[0]]).save(folder)
    print(f"wrote {len(paths)} shards to {folder}")


if __name__ == "__main__":
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    main(auto_cli(EncodingConfig, as_positional=False))
