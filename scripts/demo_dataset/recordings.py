"""Source ``recordings``: freely licensed music from Debian's game packages, cut into clips.

``recordings.json`` is the manifest: every track with author and licence as its package states them (CC0, CC-BY,
CC-BY-SA or public domain; of a choice of licences the Creative Commons one was taken), and words for the style of
each package. Left out were tracks that are only under the GPL, sped-up variants, and tracks below 44.1 kHz.
"""

import io
import json
import re
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import soundfile
import soxr

from scripts.demo_dataset.effects import normalise
from scripts.demo_dataset.measuring import is_available, measure
from scripts.demo_dataset.pieces import Facts, Job, Performance, Studio, UnusableClipError

MANIFEST = Path(__file__).with_name("recordings.json")
PACKED = {"ufoai-music": "usr/share/games/ufoai"}
"""Packages whose tracks lie inside .pk3 files (zip) somewhere below this folder."""


class Recording(NamedTuple):
    """One track of the manifest; ``path`` is relative to the root of the system or of the .pk3 file."""

    package: str
    path: str
    title: str
    author: str
    licence: str
    seconds: float
    tag: str | None


@lru_cache(maxsize=1)
def _manifest() -> dict[str, Any]:
    return dict(json.loads(MANIFEST.read_text()))


def packages() -> list[str]:
    """Debian packages of the manifest."""
    return list(_manifest()["packages"])


def find_recordings(wanted: Sequence[str], root: Path = Path("/")) -> list[Recording]:
    """The tracks of the wanted packages; all packages if none is named.

    Raises:
        ValueError: a package is not in the manifest.
        FileNotFoundError: packages are not installed; the message has the command that installs them.
    """
    unknown = sorted(set(wanted) - set(packages()))
    if unknown:
        raise ValueError(f"unknown packages {unknown}; expected some of: {', '.join(packages())}")
    chosen = [name for name in packages() if not wanted or name in wanted]
    tracks = [Recording(**track) for track in _manifest()["tracks"] if track["package"] in chosen]
    absent = {track.package for track in tracks if _locate(track, root) is None}
    missing = [name for name in chosen if name in absent]
    if missing:
        raise FileNotFoundError(
            f"music packages are not installed: apt-get install {' '.join(missing)} "
            "(or name the ones you have with --packages)"
        )
    return tracks


def _locate(track: Recording, root: Path) -> Path | None:
    """The audio file, or the .pk3 file that holds it."""
    if track.package in PACKED:
        return next((path for path in _archives(root / PACKED[track.package]) if track.path in _names(path)), None)
    path = root / track.path
    return path if path.is_file() else None


@lru_cache
def _archives(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(folder.rglob("*.pk3")))


@lru_cache
def _names(archive: Path) -> frozenset[str]:
    with zipfile.ZipFile(archive) as file:
        return frozenset(file.namelist())


def read_clip(track: Recording, start: float, studio: Studio, root: Path = Path("/")) -> np.ndarray:
    """Samples from ``start`` (seconds) on, resampled and mixed to the studio's format: (samples, channels).

    Raises:
        UnusableClipError: the file does not decode, or ends before the clip does.
    """
    location = _locate(track, root)
    if location is None:
        raise UnusableClipError(f"{track.path} of {track.package} has disappeared")
    source: Path | io.BytesIO = location
    if track.package in PACKED:
        with zipfile.ZipFile(location) as archive:
            source = io.BytesIO(archive.read(track.path))
    try:
        with soundfile.SoundFile(source) as file:
            sample_rate = file.samplerate
            if file.frames < (start + studio.seconds) * sample_rate:
                raise UnusableClipError(
                    f"{track.path} of {track.package} has {file.frames / sample_rate:.1f} s, "
                    f"but the clip ends at {start + studio.seconds:.1f} s"
                )
            file.seek(round(start * sample_rate))
            waveform = file.read(int(np.ceil(studio.seconds * sample_rate)) + 1, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise UnusableClipError(f"{track.path} of {track.package} does not decode: {error}") from error
    if studio.channels == 1:
        waveform = waveform.mean(axis=1, keepdims=True)
    elif waveform.shape[1] == 1:
        waveform = np.repeat(waveform, 2, axis=1)
    if sample_rate != studio.sample_rate:
        waveform = soxr.resample(waveform, sample_rate, studio.sample_rate)
    short = max(0, studio.num_samples - len(waveform))  # at most a sample or two, from rounding
    return np.pad(waveform, ((0, short), (0, 0)))[: studio.num_samples]


def describe(track: Recording, seed: tuple[int, ...]) -> Facts:
    """Style and moods of the package, the tag of the file, and the title where it is made of words."""
    words = _manifest()["packages"][track.package]
    moods = np.random.default_rng(seed).choice(words["moods"], 2, replace=False)
    is_title = re.fullmatch(r"[A-Z][a-z']+( [A-Za-z][a-z']*)*", track.title) and len(track.title) < 40
    tag = track.tag.lower() if track.tag and track.tag.lower() not in words["style"] else ""
    return Facts(
        style=f"{tag} {words['style']}".strip(),
        moods=tuple(str(mood) for mood in moods),
        title=track.title if is_title else None,
    )


def perform(track: Recording, start: float, seed: tuple[int, ...], studio: Studio) -> Performance:
    """Read and level one clip; measure its tempo and key where librosa is installed."""
    try:
        waveform = normalise(read_clip(track, start, studio))
    except ValueError as error:
        raise UnusableClipError(f"{track.path} at {start:.0f} s: {error}") from error
    facts = describe(track, seed)
    if is_available():
        measured = measure(waveform, studio.sample_rate)
        mode = measured.key.split()[1] if measured.key else None
        facts = replace(facts, tempo=measured.tempo, key=measured.key, mode=mode)
    return Performance(waveform, facts)


def plan(num_clips: int, seconds: float, wanted: Sequence[str], seed: int) -> list[Job]:
    """Jobs for clips that do not overlap, in random order; fewer than asked for where the recordings end."""
    if not is_available():
        print("recordings: librosa is not installed (extra dataset), so captions get no measured tempo and key")
    places = [
        (track, window * seconds)
        for track in find_recordings(wanted)
        for window in range(int((track.seconds - 1) / seconds))
    ]
    order = np.random.default_rng((seed, 3)).permutation(len(places))
    jobs = []
    for index, place in enumerate(order[:num_clips]):
        track, start = places[place]
        stem = re.sub(r"[^a-z0-9]+", "_", PurePosixPath(track.path).stem.lower()).strip("_")
        jobs.append(
            Job(
                name=f"{track.package.split('-')[0]}_{stem}_{round(start):04d}",
                piece=f"{track.package}/{track.path}",
                source="recordings",
                licence=track.licence,
                credit=f"{track.title!r} by {track.author or 'unknown'} (Debian package {track.package})",
                perform=partial(perform, track, start, (seed, index)),
            )
        )
    return jobs
