"""Make a captioned music data set without any download: synthesised pieces and freely licensed recordings.

    python scripts/make_demo_dataset.py --output_dir data/demo --minutes 60

needs only ``pip install pyfluidsynth`` and a soundfont (Debian: ``apt-get install libfluidsynth3
musescore-general-soundfont-small``) for the default source, our own compositions in eleven styles. More sources:

    python scripts/make_demo_dataset.py --output_dir data/mixed --minutes 600 \
        --sources '[patterns, grooves, tunes, recordings]'

``grooves`` needs the Debian package mma, ``tunes`` needs music21 from PyPI, ``recordings`` the music packages of
some Debian games; each says what to install. The output follows the AudioFolder convention of Hugging Face datasets:
``train/`` and ``test/`` with audio and a ``metadata.jsonl``, next to ``CREDITS.md`` and ``LICENSE``.
"""

import json
import multiprocessing
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import soundfile
from jsonargparse import auto_cli, set_parsing_settings
from tqdm import tqdm

from scripts.demo_dataset import grooves, patterns, recordings, tunes
from scripts.demo_dataset.captions import captions
from scripts.demo_dataset.licensing import credits_text, licence_text
from scripts.demo_dataset.pieces import Job, Performance, Studio, UnusableClipError
from scripts.demo_dataset.synthesis import find_soundfont, load_fluidsynth

SOURCES = ("patterns", "grooves", "tunes", "recordings")
BLOCK = 65_536
"""Samples written at once: libsndfile crashes on very long blocks of Vorbis."""
Result = tuple[str, dict[str, Any] | str]
"""Split of a clip, and its metadata or why it could not be made."""


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """One data set. Every field can be given in a YAML file or on the command line."""

    output_dir: Path
    """Folder to make; must be empty or absent."""
    minutes: float = 60.0
    """Length of all clips together; each source gets an equal share."""
    sources: tuple[Literal["patterns", "grooves", "tunes", "recordings"], ...] = ("patterns",)
    """Where the music comes from; on the command line ``--sources '[patterns, tunes]'``."""
    styles: tuple[str, ...] = ()
    """Styles of the source ``patterns``; all if empty."""
    packages: tuple[str, ...] = ()
    """Debian packages of the source ``recordings``; all if empty."""
    clip_seconds: float = 10.0
    """Length of every clip."""
    channels: Literal[1, 2] = 2
    """1 for mono, 2 for stereo."""
    sample_rate: int = 44_100
    """Hz; recordings at other rates are resampled."""
    format: Literal["flac", "ogg"] = "flac"
    """16-bit FLAC, or Ogg Vorbis."""
    ogg_quality: float = 0.5
    """Vorbis quality from 0 (smallest) to 1."""
    soundfont: Path | None = None
    """SoundFont 2 or 3 file; the first one found of Debian's if not given."""
    seed: int = 0
    """The same seed gives the same data set, whatever the number of workers."""
    test_fraction: float = 0.1
    """Part of the pieces that goes to the test split with all their clips."""
    num_workers: int | None = None
    """Processes; one per CPU core if not given."""

    def __post_init__(self) -> None:
        if not 0 <= self.test_fraction < 1:
            raise ValueError(f"test_fraction must be from 0 to below 1, got {self.test_fraction}")
        if not 0 <= self.ogg_quality <= 1:
            raise ValueError(f"ogg_quality must be from 0 to 1, got {self.ogg_quality}")
        if not 0 < self.clip_seconds <= self.minutes * 60:
            raise ValueError(
                f"clip_seconds must be above 0 and at most the {self.minutes * 60:g} s of the whole data set, "
                f"got {self.clip_seconds}"
            )
        if not self.sources:
            raise ValueError(f"sources must name at least one of: {', '.join(SOURCES)}")
        if self.styles and "patterns" not in self.sources:
            raise ValueError(f"styles {list(self.styles)} only apply to the source 'patterns', got {self.sources}")
        if self.num_workers is not None and self.num_workers < 1:
            raise ValueError(f"num_workers must be at least 1, got {self.num_workers}")


def plan(config: DemoConfig) -> list[Job]:
    """All clips to be made, source by source."""
    num_clips = round(config.minutes * 60 / config.clip_seconds)
    jobs: list[Job] = []
    for index, source in enumerate(config.sources):
        share = num_clips * (index + 1) // len(config.sources) - num_clips * index // len(config.sources)
        planned = _plan_source(config, source, share)
        if len(planned) < share:
            print(f"{source}: {share} clips asked for, only {len(planned)} available")
        jobs += planned
    return jobs


def _plan_source(config: DemoConfig, source: str, num_clips: int) -> list[Job]:
    if source == "patterns":
        return patterns.plan(num_clips, config.styles, config.seed)
    if source == "grooves":
        return grooves.plan(num_clips, config.seed)
    if source == "tunes":
        return tunes.plan(num_clips, config.seed)
    return recordings.plan(num_clips, config.clip_seconds, config.packages, config.seed)


def assign_splits(jobs: Sequence[Job], test_fraction: float, seed: int) -> list[str]:
    """``train`` or ``test`` for each job; clips of one piece always stay together."""
    pieces = list(dict.fromkeys(job.piece for job in jobs))
    num_test = round(test_fraction * len(pieces))
    order = np.random.default_rng((seed, 4)).permutation(len(pieces))
    test = {pieces[index] for index in order[:num_test]}
    return ["test" if job.piece in test else "train" for job in jobs]


def write_audio(path: Path, waveform: np.ndarray, sample_rate: int, ogg_quality: float) -> None:
    """Write (samples, channels) as FLAC or Ogg Vorbis, by the suffix of ``path``."""
    is_ogg = path.suffix == ".ogg"
    with soundfile.SoundFile(
        path,
        "w",
        samplerate=sample_rate,
        channels=waveform.shape[1],
        subtype="VORBIS" if is_ogg else "PCM_16",
        compression_level=1 - ogg_quality if is_ogg else None,
    ) as file:
        for start in range(0, len(waveform), BLOCK):
            file.write(waveform[start : start + BLOCK])


def metadata_row(job: Job, performance: Performance, file_name: str, config: DemoConfig, index: int) -> dict[str, Any]:
    """One line of ``metadata.jsonl``."""
    facts = performance.facts
    texts = captions(facts, np.random.default_rng((config.seed, 5, index)))
    return {
        "file_name": file_name,
        "text": texts[0],
        "captions": texts,
        "style": facts.style,
        "instruments": list(facts.instruments),
        "tempo": facts.tempo,
        "key": facts.key,
        "mode": facts.mode,
        "metre": facts.metre,
        "moods": list(facts.moods),
        "effects": list(facts.effects),
        "source": job.source,
        "piece": job.piece,
        "licence": job.licence,
        "credit": job.credit,
        "seconds": config.clip_seconds,
    }


def make_clip(numbered: tuple[int, Job, str], config: DemoConfig, studio: Studio, folder: Path) -> Result:
    """Make one clip and write its audio."""
    index, job, split = numbered
    try:
        performance = job.perform(studio)
    except UnusableClipError as error:
        return split, str(error)
    file_name = f"{job.name}.{config.format}"
    write_audio(folder / split / file_name, performance.waveform, studio.sample_rate, config.ogg_quality)
    return split, metadata_row(job, performance, file_name, config, index)


def run_jobs(
    jobs: Sequence[tuple[int, Job, str]], make: Callable[[tuple[int, Job, str]], Result], num_workers: int
) -> Iterator[Result]:
    """Results in the order of the jobs, with a progress bar."""
    progress = partial(tqdm, total=len(jobs), unit="clip")
    if num_workers == 1:
        yield from progress(map(make, jobs))
        return
    # Spawned, not forked: a copy of a process with threads (BLAS) can hang.
    with ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn")) as executor:
        yield from progress(executor.map(make, jobs, chunksize=4))


def write_texts(folder: Path, rows: dict[str, list[dict[str, Any]]], soundfont: Path | None) -> None:
    """Metadata of each split, credits and licence."""
    for split, lines in rows.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in lines)
        (folder / split / "metadata.jsonl").write_text(text, encoding="utf-8")
    everything = [row for lines in rows.values() for row in lines]
    (folder / "CREDITS.md").write_text(credits_text(everything, soundfont), encoding="utf-8")
    (folder / "LICENSE").write_text(licence_text(row["source"] for row in everything), encoding="utf-8")


def main(config: DemoConfig) -> None:
    """Make the data set in a temporary folder beside ``output_dir``, and rename that when it is complete."""
    if config.output_dir.exists() and (not config.output_dir.is_dir() or any(config.output_dir.iterdir())):
        raise FileExistsError(f"output_dir {config.output_dir} is not empty; delete it or name another folder")
    soundfont = None
    if set(config.sources) != {"recordings"}:
        load_fluidsynth()
        soundfont = find_soundfont(config.soundfont)
    studio = Studio(config.clip_seconds, config.channels, config.sample_rate, soundfont)
    jobs = plan(config)
    splits = assign_splits(jobs, config.test_fraction, config.seed)

    output_dir = config.output_dir.resolve()
    folder = output_dir.with_name(f".{output_dir.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)  # left over from a run that was stopped
    rows: dict[str, list[dict[str, Any]]] = {split: [] for split in sorted(set(splits), reverse=True)}
    for split in rows:
        (folder / split).mkdir(parents=True)

    failures: Counter[str] = Counter()
    make = partial(make_clip, config=config, studio=studio, folder=folder)
    numbered = list(zip(range(len(jobs)), jobs, splits, strict=True))
    for split, result in run_jobs(numbered, make, config.num_workers or os.cpu_count() or 1):
        if isinstance(result, str):
            failures[result] += 1
        else:
            rows[split].append(result)
    for reason, count in failures.items():
        print(f"left out {count} clip(s): {reason}")
    if not any(rows.values()):
        raise RuntimeError(f"none of the {len(jobs)} clips could be made; the reasons are above")

    write_texts(folder, rows, soundfont)
    if output_dir.exists():
        output_dir.rmdir()
    folder.rename(output_dir)
    print(", ".join(f"{len(lines)} {split} clips" for split, lines in rows.items()) + f" in {output_dir}")


if __name__ == "__main__":
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    main(auto_cli(DemoConfig, as_positional=False))
