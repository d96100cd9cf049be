"""Turn captioned audio into latent shards for the training of the transformer.

    accelerate launch scripts/encode_dataset.py --data_dir data/train --autoencoder outputs/codec/autoencoder \
        --output_dir outputs/latents/train

``data_dir`` is WebDataset shards (from ``prepare_audio.py``, or others), or a folder in Hugging Face's AudioFolder
convention: audio files and a ``metadata.jsonl`` or ``metadata.csv`` with ``file_name`` and ``text``, and where known
``captions`` (a list of other wordings), ``tempo`` (beats per minute), ``first_beat`` (seconds to a bar line; only of
music that keeps its tempo exactly), ``key`` ("F# minor") and more. Writes ``latents-*.safetensors`` and
``statistics.json``. Files that cannot be used are named, with the reason, and left out; ``left_out.json`` lists them.
Run again, with any number of processes, it continues at the shard where it was stopped.
"""

import hashlib
import json
import math
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from jsonargparse import auto_cli, set_parsing_settings
from torch import Tensor
from tqdm.auto import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoencoder import Music2LatentAutoencoder
from autoencoder.metadata import JSON_LINES, read_metadata
from autoencoder.processes import process_state
from autoencoder.recordings import AudioFolder, Recordings, is_shards, open_recordings, read_recording
from latent_diffusion.conditions import key_index, tempo_value
from latent_diffusion.data import CodecInfo, LatentItem, LatentStatistics, read_shard, write_shard

PLAN = "plan.json"
AHEAD = 4  # files that are read while another is encoded


@dataclass(frozen=True, kw_only=True)
class EncodingConfig:
    """One encoding of a data set."""

    data_dir: str | Path
    """Folder of audio files with metadata, or WebDataset shards: a folder of .tar files, their path, pattern, URL or
    pipe."""
    autoencoder: Path
    """Folder of a trained codec."""
    output_dir: Path
    """Where the latent shards go."""
    channels: int = 1
    """Audio channels of the latents; files with another number are left out, unless they are mixed down."""
    mix_down: bool = False
    """Average the channels of files that have more than one (only with --channels 1)."""
    items_per_shard: int = 1000
    """Clips in one file."""
    shard_cache: Path | None = None
    """Where audio shards that are not local are kept; output_dir/shards if not given."""

    def __post_init__(self) -> None:
        if self.mix_down and self.channels != 1:
            raise ValueError(f"mix_down makes mono, so it needs channels=1, got channels={self.channels}")


def open_captioned(config: EncodingConfig) -> Recordings:
    """Recordings with captions: all of the shards, or those that the metadata of a folder names.

    Raises:
        ValueError: there is no metadata, or a line of it is wrong; the line is named.
    """
    if is_shards(config.data_dir):
        return open_recordings(config.data_dir, config.shard_cache or config.output_dir / "shards")
    folder = Path(config.data_dir)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; expected one with audio files and {JSON_LINES}")
    records = read_metadata(folder)
    if not records:
        raise ValueError(
            f"found no {JSON_LINES} or metadata.csv with a record in {folder}; it needs one JSON object a line, such "
            'as {"file_name": "a.wav", "text": "slow piano", "tempo": 70, "key": "A minor"}'
        )
    for place, facts in records:
        if not (folder / facts["file_name"]).is_file():
            raise ValueError(f"{place}: file_name must name a file in {folder}, got {facts['file_name']!r}")
        try:
            check_facts(facts)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
    return AudioFolder(folder, [record.facts["file_name"] for record in records])


def as_float(value: Any) -> Any:
    """A whole number as a float; anything else as it is, for the checks that follow."""
    return float(value) if type(value) is int else value


def check_facts(facts: dict[str, Any]) -> list[str]:
    """Captions of one recording, its text among them; its tempo, first beat and key are checked.

    Raises:
        ValueError: there is no caption, or something is not what it should be.
    """
    captions, text = facts.get("captions") or [], facts.get("text")
    if not isinstance(captions, list):
        raise ValueError(f"captions must be a list of texts, got {captions!r}")
    if text is not None or not captions:
        captions = [text, *(caption for caption in captions if caption != text)]
    if not all(isinstance(caption, str) and caption.strip() for caption in captions):
        raise ValueError(f"text (or captions) must be non-empty text, got {captions!r}")
    tempo_value(as_float(facts.get("tempo")))
    first_beat = as_float(facts.get("first_beat"))
    if first_beat is not None and not (isinstance(first_beat, float) and math.isfinite(first_beat)):
        raise ValueError(f"first_beat must be seconds from the start of the clip, got {first_beat!r}")
    key_index(facts.get("key"))
    return captions


def read_captioned(
    recordings: Recordings, index: int, config: EncodingConfig, sample_rate: int
) -> tuple[Float[Tensor, "channels samples"], dict[str, Any]] | str:
    """Samples of one file and what is known of it, or why it cannot be used."""
    try:
        facts = recordings.facts(index)
        facts = facts | {"captions": check_facts(facts)}
        waveform = read_recording(recordings, index, sample_rate)
    except ValueError as error:
        text = str(error)
        return text if recordings.name(index) in text else f"{recordings.name(index)}: {text}"
    if waveform.shape[1] == 0:
        return f"{recordings.name(index)} is empty"
    if waveform.shape[0] != config.channels and config.mix_down:
        waveform = waveform.mean(0, keepdim=True)
    if waveform.shape[0] != config.channels:
        return (
            f"{facts['file_name']} has {waveform.shape[0]} channels where {config.channels} are wanted; "
            "give --mix_down true for mono, or --channels for the number that the files have"
        )
    return waveform, facts


def encode_shard(
    model: Music2LatentAutoencoder, recordings: Recordings, indices: range, config: EncodingConfig
) -> tuple[list[LatentItem], list[str]]:
    """Latents of some recordings, and the reasons of those that were left out."""
    items, reasons = [], []
    with ThreadPoolExecutor(1) as pool:
        for found in tqdm(_read_ahead(pool, recordings, indices, config, model), total=len(indices), leave=False):
            if isinstance(found, str):
                reasons.append(found)
                tqdm.write(f"left out: {found}")
                continue
            waveform, facts = found
            named = {"file_name", "captions", "text", "tempo", "key", "first_beat", "seconds"}
            item = LatentItem(
                latents=model.encode(waveform[None].to(model.device))[0].half().cpu(),
                file_name=facts["file_name"],
                captions=tuple(facts["captions"]),
                seconds=waveform.shape[1] / model.config.sample_rate,
                tempo=as_float(facts.get("tempo")),
                key=facts.get("key"),
                first_beat=as_float(facts.get("first_beat")),
                facts={name: value for name, value in facts.items() if name not in named},
            )
            if item.latents.isfinite().all():
                items.append(item)
            else:
                reasons.append(f"the latents of {item.file_name} do not fit into float16")
    return items, reasons


def _read_ahead(
    pool: ThreadPoolExecutor, recordings: Recordings, indices: range, config: EncodingConfig, model: Any
) -> Iterator[Any]:
    """Files in order; the next ones are read while one is used."""
    rate = model.config.sample_rate
    jobs = [pool.submit(read_captioned, recordings, index, config, rate) for index in indices[:AHEAD]]
    for place in range(len(indices)):
        yield jobs.pop(0).result()
        if place + AHEAD < len(indices):
            jobs.append(pool.submit(read_captioned, recordings, indices[place + AHEAD], config, rate))


def check_plan(config: EncodingConfig, recordings: Recordings, codec: CodecInfo) -> None:
    """Write what is encoded and how, or compare it with what an earlier run has written.

    Raises:
        ValueError: that was something else; the differences are listed.
    """
    names = hashlib.sha256("\n".join(recordings.name(index) for index in range(len(recordings))).encode())
    plan = asdict(codec) | {"channels": config.channels, "mix_down": config.mix_down, "files": len(recordings)}
    plan |= {"items_per_shard": config.items_per_shard, "names": names.hexdigest()[:16]}
    path = config.output_dir / PLAN
    if not path.exists():
        if any(config.output_dir.glob("latents-*.safetensors")):
            raise ValueError(f"{config.output_dir} holds latent shards of unknown origin; give another --output_dir")
        path.write_text(json.dumps(plan, indent=1))
        return
    before = json.loads(path.read_text())
    different = [f"{name} was {before.get(name)}, is {plan[name]}" for name in plan if before.get(name) != plan[name]]
    if different:
        raise ValueError(
            f"{config.output_dir} holds latent shards of something else: {'; '.join(different)}; remove them or give "
            "another --output_dir"
        )


def main(config: EncodingConfig) -> None:
    """Encode; each process takes every n-th shard that is not there yet."""
    state = process_state()
    with state.main_process_first():  # looking through shards writes their indices
        recordings = open_captioned(config)
    for name, reason in recordings.faults.items():
        print(f"left out: {name}: {reason}")
    model = Music2LatentAutoencoder.from_pretrained(config.autoencoder).eval().to(state.device)
    codec = CodecInfo(
        codec_id=model.config.codec_id or model.fingerprint(),
        latent_channels=model.config.latent_channels * config.channels,
        latent_rate=model.latent_rate,
    )
    config.output_dir.mkdir(parents=True, exist_ok=True)
    with state.main_process_first():
        check_plan(config, recordings, codec)
    num_shards = -(-len(recordings) // config.items_per_shard)
    missing = [number for number in range(num_shards) if not reasons_path(config.output_dir, number).exists()]
    if len(missing) < num_shards:
        state.print(f"{num_shards - len(missing)} of {num_shards} shards are there already")
    state.wait_for_everyone()  # all have seen the same shards before the first new one appears
    started, seconds = time.perf_counter(), 0.0
    for number in tqdm(missing[state.process_index :: state.num_processes], unit="shard"):
        start = number * config.items_per_shard
        indices = range(start, min(start + config.items_per_shard, len(recordings)))
        items, reasons = encode_shard(model, recordings, indices, config)
        seconds += sum(item.seconds for item in items)
        if items:
            write_shard(config.output_dir / f"latents-{number:05d}.safetensors", items, codec)
        reasons_path(config.output_dir, number).write_text(json.dumps(reasons, ensure_ascii=False))
    print(f"encoded {seconds:.0f} s of audio, {seconds / (time.perf_counter() - started):.1f}x real time")
    state.wait_for_everyone()
    if state.is_main_process:
        finish(config.output_dir, recordings, num_shards)
    state.wait_for_everyone()


def reasons_path(folder: Path, number: int) -> Path:
    """File that says what was left out of a shard; it is written last, so it marks a shard as complete."""
    return folder / f"left_out-{number:05d}.json"


def finish(folder: Path, recordings: Recordings, num_shards: int) -> None:
    """Report what was left out, measure all shards and write ``statistics.json``, the sign that the set is complete.

    Raises:
        ValueError: no file could be encoded.
    """
    reasons = [f"{name}: {reason}" for name, reason in recordings.faults.items()]
    for number in range(num_shards):
        reasons += json.loads(reasons_path(folder, number).read_text())
    (folder / "left_out.json").write_text(json.dumps(reasons, indent=1, ensure_ascii=False))
    paths = sorted(folder.glob("latents-*.safetensors"))
    if not paths:
        raise ValueError("none of the files could be encoded; the messages above say why")
    LatentStatistics.of(item.latents for path in paths for item in read_shard(path)[0]).save(folder)
    print(f"wrote {len(paths)} shards to {folder}; {len(reasons)} files left out")


if __name__ == "__main__":
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    main(auto_cli(EncodingConfig, as_positional=False))
