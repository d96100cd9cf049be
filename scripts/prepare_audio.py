"""Turn a folder of any audio into clean FLAC files at one sample rate.

    python scripts/prepare_audio.py --input_dir my_music --output_dir data/train --sample_rate 44100

Every file that soundfile reads is resampled (soxr) and written as FLAC under the same relative name. Files that cannot
be used are left out and listed, with the reason, in ``skipped.json``. A ``metadata.jsonl`` in ``input_dir`` is carried
over with the new file names.
"""

import json
import os
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import soundfile
import torch
from jsonargparse import auto_cli, set_parsing_settings
from tqdm.auto import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoencoder.audio import find_audio, read_audio, resample, write_audio

METADATA = "metadata.jsonl"
SILENCE = 1e-4  # RMS; -80 dB of full scale


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """One preparation."""

    input_dir: Path
    """Folder searched recursively."""
    output_dir: Path
    """Folder to write; files that are there already are not made again."""
    sample_rate: int = 44_100
    """Hz of what is written."""
    min_seconds: float = 1.0
    """Shorter files are left out."""
    num_workers: int = os.cpu_count() or 1
    """Processes."""


def prepare_file(source: Path, target: Path, config: PrepareConfig) -> str:
    """Convert one file. Returns why it was left out, or an empty string."""
    if target.exists():
        return ""
    torch.set_num_threads(1)
    try:
        rate = soundfile.info(source).samplerate
        waveform = read_audio(source, rate)
    except (ValueError, soundfile.LibsndfileError, OSError) as error:
        return f"unreadable: {error}"
    if waveform.shape[1] < config.min_seconds * rate:
        return f"too short: {waveform.shape[1] / rate:.3f} s"
    if waveform.square().mean().sqrt() < SILENCE:
        return "silent"
    waveform = resample(waveform, rate, config.sample_rate)
    waveform = waveform / waveform.abs().max().clamp(min=1.0)  # resampling overshoots a little; scaled, not clipped
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.stem}.partial.flac")
    write_audio(partial, waveform, config.sample_rate)
    partial.rename(target)
    return ""


def carry_metadata(config: PrepareConfig, targets: dict[str, str]) -> None:
    """Write the records of the files that were kept, under their new names."""
    lines = []
    for line in (config.input_dir / METADATA).read_text(encoding="utf-8").splitlines():
        record = json.loads(line) if line.strip() else {}
        if record.get("file_name") in targets:
            lines.append(json.dumps(record | {"file_name": targets[record["file_name"]]}, ensure_ascii=False))
    (config.output_dir / METADATA).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print(f"{len(lines)} captions carried over")


def main(config: PrepareConfig) -> dict[str, str]:
    """Convert all files. Returns the reasons of those that were left out, by relative name.

    Raises:
        ValueError: no file could be used, or two would get the same name.
    """
    sources = [path.relative_to(config.input_dir) for path in find_audio(config.input_dir)]
    targets = {source: source.with_suffix(".flac") for source in sources}
    double = [str(name) for name, count in Counter(targets.values()).items() if count > 1]
    if double:
        raise ValueError(f"several files would become {double}; rename or remove all but one of each")
    with ProcessPoolExecutor(config.num_workers) as pool:
        jobs = {
            source: pool.submit(prepare_file, config.input_dir / source, config.output_dir / target, config)
            for source, target in targets.items()
        }
        reasons = {str(source): job.result() for source, job in tqdm(jobs.items(), unit="file")}
    skipped = {source: reason for source, reason in reasons.items() if reason}
    for source, reason in skipped.items():
        print(f"left out: {source}: {reason}")
    if len(skipped) == len(sources):
        raise ValueError(f"none of the {len(sources)} files in {config.input_dir} could be used")
    (config.output_dir / "skipped.json").write_text(json.dumps(skipped, indent=1, ensure_ascii=False))
    print(f"{len(sources) - len(skipped)} files in {config.output_dir}, {len(skipped)} left out")
    rates = Counter(soundfile.info(config.input_dir / name).samplerate for name in reasons.keys() - skipped.keys())
    for rate, count in sorted(rates.items()):
        if rate != config.sample_rate:
            print(f"{count} of them resampled from {rate} to {config.sample_rate} Hz")
    if (config.input_dir / METADATA).is_file():
        kept = {str(source): str(target) for source, target in targets.items() if str(source) not in skipped}
        carry_metadata(config, kept)
    return skipped


if __name__ == "__main__":
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    main(auto_cli(PrepareConfig, as_positional=False))
