"""Turn any collection of audio into clean FLAC at one sample rate: WebDataset shards, or a folder.

    python scripts/prepare_audio.py --input_dir my_music --output_dir data/train

Reads mixed formats, rates and channel counts, resamples (soxr) and joins the metadata (``metadata.jsonl`` or
``metadata.csv``, Hugging Face's AudioFolder convention). What cannot be used is left out and named, with the reason,
in ``report.json``: unreadable, truncated, too short, NaN, silent, a low rate, many channels, clipped, or the same
samples as another file. Run again, it continues where it was stopped.
"""

import hashlib
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import auto_cli, set_parsing_settings
from tqdm.auto import tqdm
from webdataset import TarWriter

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoencoder.audio import find_audio, read_audio, resample, write_audio
from autoencoder.inspection import Inspection, Requirements, inspect_audio, why_not
from autoencoder.metadata import JSON_LINES, read_metadata
from autoencoder.shard_index import INDEX_SUFFIX, write_index


@dataclass(frozen=True, kw_only=True)
class PrepareConfig(Requirements):
    """One preparation."""

    input_dir: Path
    """Folder searched recursively."""
    output_dir: Path
    """Folder to write; what is there already is not made again."""
    layout: Literal["shards", "folder"] = "shards"
    """Tar shards for training at any size, or the files themselves under their old names."""
    sample_rate: int = 44_100
    """Hz of what is written."""
    min_seconds: float = 1.0
    """Shorter files are left out."""
    min_sample_rate: int = 16_000
    """Files of a lower rate, in Hz, are left out: they hold no treble."""
    max_channels: int = 2
    """Files with more channels are left out."""
    max_clipped: float = 0.01
    """Files with a larger part of their samples on flat tops at full scale are left out."""
    silence: float = 1e-4
    """Files with a lower RMS are left out; 1e-4 is -80 dB of full scale."""
    files_per_shard: int = 100
    """Files in one shard."""
    num_workers: int = os.cpu_count() or 1
    """Processes; 0 works in this one."""


Facts = dict[str, dict[str, Any]]


def each(config: PrepareConfig, function: Callable[..., Any], *arguments: list[Any], label: str) -> Iterator[Any]:
    """Results of a function for each argument, in order, from several processes, with a progress bar."""
    torch.set_num_threads(1)
    bar = tqdm(total=len(arguments[0]), desc=label, unit="file")
    if config.num_workers == 0:
        for one in zip(*arguments, strict=True):
            yield function(*one)
            bar.update()
    else:
        with ProcessPoolExecutor(config.num_workers) as pool:
            for result in pool.map(function, *arguments, chunksize=1):
                yield result
                bar.update()
    bar.close()


def stamp(path: Path) -> list[int]:
    """Size and time of a file: as long as they stay, it is not inspected again."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def inspect_all(config: PrepareConfig, names: list[str]) -> dict[str, Inspection]:
    """Inspect every file; what an earlier run has found out is in ``inspections.jsonl``."""
    known: dict[str, Inspection] = {}
    journal = config.output_dir / "inspections.jsonl"
    stamps = {name: stamp(config.input_dir / name) for name in names}
    for line in journal.read_text(encoding="utf-8").splitlines() if journal.exists() else ():
        try:
            entry = json.loads(line)
        except ValueError:  # the last line of a run that was killed
            continue
        if stamps.get(entry["name"]) == entry["stamp"]:
            known[entry["name"]] = Inspection(**entry["found"])
    missing = [name for name in names if name not in known]
    with journal.open("a", encoding="utf-8") as file:
        file.write("\n")
        paths = [config.input_dir / name for name in missing]
        for name, found in zip(missing, each(config, inspect_audio, paths, label="inspect"), strict=True):
            known[name] = found
            entry = {"name": name, "stamp": stamps[name], "found": asdict(found)}
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
            file.flush()
    return known


def left_out(config: PrepareConfig, found: dict[str, Inspection]) -> dict[str, str]:
    """Reasons of the files that are left out; of several with the same samples the first stays."""
    reasons, first = {}, dict[str, str]()
    for name in sorted(found):
        reason = why_not(config, found[name])
        if not reason and first.setdefault(found[name].digest, name) != name:
            reason = f"duplicate: the same samples as {first[found[name].digest]}"
        if reason:
            reasons[name] = reason
    return reasons


def convert(source: Path, target: Path, sample_rate: int, expected: Inspection) -> None:
    """Write one file as FLAC, complete or not at all."""
    if target.exists():
        return
    torch.set_num_threads(1)
    waveform = read_audio(source, expected.sample_rate)
    if waveform.shape[1] != expected.num_samples:
        raise ValueError(f"{source} has changed since it was inspected; start again")
    waveform = resample(waveform, expected.sample_rate, sample_rate)
    waveform = waveform / waveform.abs().max().clamp(min=1.0)  # resampling overshoots a little; scaled, not clipped
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f".{hashlib.sha256(target.name.encode()).hexdigest()[:16]}.partial.flac"
    write_audio(partial, waveform, sample_rate)
    partial.rename(target)


def convert_all(config: PrepareConfig, found: dict[str, Inspection], targets: dict[str, Path]) -> Iterable[None]:
    """Convert files to their targets."""
    sources = [config.input_dir / name for name in targets]
    inspections, rates = [found[name] for name in targets], [config.sample_rate] * len(targets)
    return each(config, convert, sources, list(targets.values()), rates, inspections, label="convert")


def write_folder(config: PrepareConfig, found: dict[str, Inspection], kept: list[str], facts: Facts) -> None:
    """Write the files under their old names, and their metadata.

    Raises:
        ValueError: two files would get the same name.
    """
    names = {name: flac_name(name) for name in kept}
    double = [name for name, count in Counter(names.values()).items() if count > 1]
    if double:
        raise ValueError(f"several files would become {double}; rename or remove all but one of each, or write shards")
    for _ in convert_all(config, found, {name: config.output_dir / new for name, new in names.items()}):
        pass
    records = [facts[name] | {"file_name": names[name]} for name in kept if name in facts]
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    (config.output_dir / JSON_LINES).write_text(text, encoding="utf-8")


def flac_name(name: str) -> str:
    """The relative name with another suffix; one that would be too long for a file system keeps its start."""
    path = Path(name)
    new = path.with_suffix(".flac") if len(path.stem.encode()) < 240 else None
    if new is None:
        start = path.stem.encode()[:200].decode("utf-8", "ignore")
        new = path.with_name(f"{start}-{hashlib.sha256(path.stem.encode()).hexdigest()[:12]}.flac")
    return new.as_posix()


def write_shards(config: PrepareConfig, found: dict[str, Inspection], kept: list[str], facts: Facts) -> None:
    """Write shards of consecutive files with their indices; a shard with an index is complete.

    Raises:
        ValueError: the folder holds the shards of other files or settings.
    """
    settings = {"sample_rate": config.sample_rate, "files_per_shard": config.files_per_shard}
    plan = settings | {"files": {name: found[name].digest for name in kept}, "facts": facts}
    digest = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()
    plan_path = config.output_dir / "plan.json"
    if plan_path.exists() and json.loads(plan_path.read_text())["digest"] != digest:
        raise ValueError(
            f"{config.output_dir} holds shards that were begun with other files, metadata or settings; "
            "give another --output_dir, or remove it"
        )
    plan_path.write_text(json.dumps(settings | {"digest": digest, "num_files": len(kept)}, indent=1))
    for start in range(0, len(kept), config.files_per_shard):
        write_shard(config, found, kept[start : start + config.files_per_shard], start, facts)


def write_shard(
    config: PrepareConfig, found: dict[str, Inspection], names: list[str], start: int, facts: Facts
) -> None:
    """One shard, unless it is there."""
    path = config.output_dir / f"audio-{start // config.files_per_shard:05d}.tar"
    index = path.with_name(path.name + INDEX_SUFFIX)
    if index.exists():
        return
    scratch = path.with_suffix(".files")
    keys = {name: f"{start + offset:09d}" for offset, name in enumerate(names)}
    for _ in convert_all(config, found, {name: scratch / f"{key}.flac" for name, key in keys.items()}):
        pass
    partial = path.with_suffix(".partial")
    with TarWriter(str(partial), mtime=0) as tar:
        for name, key in keys.items():
            record = {"file_name": name, "seconds": found[name].seconds} | facts.get(name, {})
            tar.write({"__key__": key, "flac": (scratch / f"{key}.flac").read_bytes(), "json": record})
    partial.rename(path)
    write_index(path, index)
    shutil.rmtree(scratch)


def main(config: PrepareConfig) -> dict[str, str]:
    """Prepare a collection. Returns the reasons of what was left out, by relative name.

    Raises:
        ValueError: no file could be used, or the folder holds something else already.
    """
    reasons: dict[str, str] = {}
    names = [path.relative_to(config.input_dir).as_posix() for path in find_audio(config.input_dir, reasons)]
    facts = {record.facts["file_name"]: record.facts for record in read_metadata(config.input_dir)}
    reasons |= {name: "named in the metadata, but there is no such file" for name in facts.keys() - set(names)}
    config.output_dir.mkdir(parents=True, exist_ok=True)
    found = inspect_all(config, names)
    reasons |= left_out(config, found)
    kept = [name for name in names if name not in reasons]
    for name, reason in sorted(reasons.items()):
        tqdm.write(f"left out: {name}: {reason}")
    if not kept:
        raise ValueError(f"none of the {len(names)} files in {config.input_dir} can be used; the reasons are above")
    facts = {name: facts[name] for name in kept if name in facts}
    (write_shards if config.layout == "shards" else write_folder)(config, found, kept, facts)
    seconds = sum(found[name].seconds for name in kept)
    rates = Counter(found[name].sample_rate for name in kept)
    report: dict[str, Any] = {"kept": len(kept), "seconds": round(seconds, 3), "with metadata": len(facts)}
    report |= {"resampled from": {str(rate): n for rate, n in rates.items() if rate != config.sample_rate}}
    report |= {"left out": dict(sorted(reasons.items()))}
    (config.output_dir / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
    print(f"{len(kept)} files, {seconds / 3600:.2f} h, in {config.output_dir}; {len(reasons)} left out")
    return reasons


if __name__ == "__main__":
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    main(auto_cli(PrepareConfig, as_positional=False))
