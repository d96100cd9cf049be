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
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from jsonargparse import auto_cli, set_parsing_settings

from scripts.demo_dataset import grooves, patterns, recordings, tunes
from scripts.demo_dataset.pieces import Job, Studio
from scripts.demo_dataset.production import PROGRESS, Order, Workshop, produce, write_texts
from scripts.demo_dataset.synthesis import find_soundfont, load_fluidsynth

SOURCES = ("patterns", "grooves", "tunes", "recordings")
NOT_OF_THE_MUSIC = ("output_dir", "num_workers", "max_minutes", "finish_early")
"""Options that a run may be continued with other values of."""


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """One data set. Every field can be given in a YAML file or on the command line."""

    output_dir: Path
    """Folder to make; must be empty or absent."""
    minutes: float = 60.0
    """Length of all clips together."""
    sources: tuple[Literal["patterns", "grooves", "tunes", "recordings"], ...] = ("patterns",)
    """Where the music comes from; on the command line ``--sources '[patterns, tunes]'``."""
    shares: tuple[float, ...] = ()
    """Shares of the sources in the music, in their order; equal if empty."""
    scores: Path | None = None
    """File of notes for grooves and tunes, from pack_demo_kit.py: MMA and music21 are then not needed."""
    styles: tuple[str, ...] = ()
    """Styles of the source ``patterns``; all if empty."""
    packages: tuple[str, ...] = ()
    """Debian packages of the source ``recordings``; all if empty."""
    clip_seconds: float | tuple[float, ...] = 10.0
    """Length of every clip; or several lengths, taken in turn."""
    channels: Literal[1, 2] = 2
    """1 for mono, 2 for stereo."""
    sample_rate: int = 44_100
    """Hz; recordings at other rates are resampled."""
    format: Literal["flac", "wav", "ogg"] = "flac"
    """16-bit FLAC or WAV, or Ogg Vorbis."""
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
    max_minutes: float | None = None
    """Stop after this time; the same command continues."""
    finish_early: bool = False
    """Complete the data set with the clips that there are after max_minutes. Clips are made in random order."""

    def __post_init__(self) -> None:
        if not 0 <= self.test_fraction < 1:
            raise ValueError(f"test_fraction must be from 0 to below 1, got {self.test_fraction}")
        if not 0 <= self.ogg_quality <= 1:
            raise ValueError(f"ogg_quality must be from 0 to 1, got {self.ogg_quality}")
        lengths = clip_lengths(self)
        if not lengths or not 0 < min(lengths) <= max(lengths) <= self.minutes * 60:
            raise ValueError(
                f"clip_seconds must be above 0 and at most the {self.minutes * 60:g} s of the whole data set, "
                f"got {self.clip_seconds}"
            )
        if self.shares and (len(self.shares) != len(self.sources) or min(self.shares) <= 0):
            raise ValueError(f"shares must be one number above 0 for each of {self.sources}, got {self.shares}")
        if {"grooves", "tunes"} & set(self.sources) and max(lengths) > grooves.ARRANGED_SECONDS:
            raise ValueError(
                f"clips of grooves and tunes last at most {grooves.ARRANGED_SECONDS:g} s, got {self.clip_seconds}"
            )
        if not self.sources:
            raise ValueError(f"sources must name at least one of: {', '.join(SOURCES)}")
        if self.styles and "patterns" not in self.sources:
            raise ValueError(f"styles {list(self.styles)} only apply to the source 'patterns', got {self.sources}")
        if self.num_workers is not None and self.num_workers < 1:
            raise ValueError(f"num_workers must be at least 1, got {self.num_workers}")


def clip_lengths(config: DemoConfig) -> tuple[float, ...]:
    """Seconds of the clips, in turn."""
    return config.clip_seconds if isinstance(config.clip_seconds, tuple) else (config.clip_seconds,)


def plan(config: DemoConfig) -> list[Job]:
    """All clips to be made, source by source."""
    num_clips = round(config.minutes * 60 / float(np.mean(clip_lengths(config))))
    shares = np.array(config.shares or [1.0] * len(config.sources))
    ends = np.floor(num_clips * shares.cumsum() / shares.sum() + 1e-6).astype(int)
    jobs: list[Job] = []
    for source, share in zip(config.sources, np.diff(ends, prepend=0), strict=True):
        planned = _plan_source(config, source, int(share))
        if len(planned) < share:
            print(f"{source}: {share} clips asked for, only {len(planned)} available")
        jobs += planned
    return jobs


def _plan_source(config: DemoConfig, source: str, num_clips: int) -> list[Job]:
    if source == "patterns":
        return patterns.plan(num_clips, config.styles, config.seed)
    if source == "grooves":
        return grooves.plan(num_clips, config.seed, config.scores)
    if source == "tunes":
        return tunes.plan(num_clips, config.seed, config.scores)
    return recordings.plan(num_clips, max(clip_lengths(config)), config.packages, config.seed)


def assign_splits(jobs: Sequence[Job], test_fraction: float, seed: int) -> list[str]:
    """``train`` or ``test`` for each job; clips of one piece always stay together."""
    pieces = list(dict.fromkeys(job.piece for job in jobs))
    num_test = round(test_fraction * len(pieces))
    order = np.random.default_rng((seed, 4)).permutation(len(pieces))
    test = {pieces[index] for index in order[:num_test]}
    return ["test" if job.piece in test else "train" for job in jobs]


def growing_folder(output_dir: Path) -> Path:
    """Where a data set lies until it is complete."""
    return output_dir.with_name(f".{output_dir.name}.partial")


def open_folder(config: DemoConfig) -> Path:
    """The folder beside ``output_dir`` in which the data set grows: a new one, or one of a run that was stopped.

    Raises:
        FileExistsError: ``output_dir`` is not empty.
        ValueError: a run with other settings was stopped there.
    """
    output_dir = config.output_dir.resolve()
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise FileExistsError(f"output_dir {config.output_dir} is not empty; delete it or name another folder")
    folder = growing_folder(output_dir)
    settings = {name: value for name, value in asdict(config).items() if name not in NOT_OF_THE_MUSIC}
    settings = json.loads(json.dumps(settings, default=str))
    path = folder / "settings.json"
    if path.is_file():
        before = json.loads(path.read_text())
        changed = {name: (before.get(name), settings[name]) for name in settings if before.get(name) != settings[name]}
        if changed:
            text = ", ".join(f"{name} was {old}, is {new}" for name, (old, new) in changed.items())
            raise ValueError(
                f"{folder} holds a data set that was stopped, with other settings: {text}. "
                "Give the old ones to continue it, or delete it"
            )
    else:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        path.write_text(json.dumps(settings, indent=1) + "\n")
    return folder


def main(config: DemoConfig) -> bool:
    """Make the data set in a temporary folder beside ``output_dir``, and rename that when it is complete.

    Returns:
        Whether it is complete, or stopped by ``max_minutes``.
    """
    started = time.monotonic()
    deadline = float("inf") if config.max_minutes is None else started + 60 * config.max_minutes
    folder = open_folder(config)
    soundfont = None
    if set(config.sources) != {"recordings"}:
        load_fluidsynth()
        soundfont = find_soundfont(config.soundfont)
    jobs = plan(config)
    splits = assign_splits(jobs, config.test_fraction, config.seed)
    for split in set(splits):
        (folder / split).mkdir(exist_ok=True)
    lengths = clip_lengths(config)
    studio = Studio(lengths[0], config.channels, config.sample_rate, soundfont)
    orders = [
        Order(index, job, split, replace(studio, seconds=lengths[index % len(lengths)]))
        for index, (job, split) in enumerate(zip(jobs, splits, strict=True))
    ]
    shuffled = [orders[index] for index in np.random.default_rng((config.seed, 6)).permutation(len(orders))]
    workshop = Workshop(folder, config.format, config.ogg_quality, config.seed)
    results, is_complete = produce(shuffled, workshop, config.num_workers or os.cpu_count() or 1, deadline)
    if not is_complete and not config.finish_early:
        print(f"stopped by the time limit after {len(results)} of {len(jobs)} clips; the same command continues")
        return False
    made = [results[index] for index in sorted(results)]
    for reason, count in Counter(result.reason for result in made if result.row is None).items():
        print(f"left out {count} clip(s): {reason}")
    rows: dict[str, list[dict[str, Any]]] = {split: [] for split in sorted(set(splits), reverse=True)}
    for result in made:
        if result.row is not None:
            rows[result.split].append(result.row)
    if not any(rows.values()):
        raise RuntimeError(f"none of the {len(jobs)} clips could be made; the reasons are above")
    complete(folder, config.output_dir.resolve(), rows, soundfont)
    print(", ".join(f"{len(lines)} {split} clips" for split, lines in rows.items()) + f" in {config.output_dir}")
    return True


def complete(folder: Path, output_dir: Path, rows: dict[str, list[dict[str, Any]]], soundfont: Path | None) -> None:
    """Write what stands beside the audio, take away what only a stopped run needs, and rename the folder."""
    write_texts(folder, rows, soundfont)
    for split, lines in rows.items():
        wanted = {"metadata.jsonl", *(str(row["file_name"]) for row in lines)}
        for path in (folder / split).iterdir():
            if path.name not in wanted:  # made in the last moment before the time limit, and not recorded
                path.unlink()
    for name in ("settings.json", PROGRESS):
        (folder / name).unlink(missing_ok=True)
    if output_dir.exists():
        output_dir.rmdir()
    folder.rename(output_dir)


if __name__ == "__main__":
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    main(auto_cli(DemoConfig, as_positional=False))
