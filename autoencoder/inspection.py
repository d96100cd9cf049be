"""Looks through audio files before anything is trained on them: can they be read to the end, and what is in them?

Files are read in blocks, so that their length does not matter.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from autoencoder.audio import OTHER_SUFFIXES, read_other_audio

BLOCK = 1 << 20  # samples
FULL_SCALE = 0.999
UNKNOWN_SIZES = {0, 2**31 - 1, 2**32 - 1}  # what programs write that do not know the length yet


@dataclass(frozen=True)
class Inspection:
    """What is in one file."""

    error: str = ""
    """Why it cannot be read, or not to the end."""
    sample_rate: int = 0
    channels: int = 0
    num_samples: int = 0
    is_finite: bool = True
    rms: float = 0.0
    clipped: float = 0.0
    """Part of the samples that lie on a flat top at full scale."""
    digest: str = ""
    """Identifies the samples, whatever the format that holds them."""

    @property
    def seconds(self) -> float:
        """Length."""
        return self.num_samples / self.sample_rate if self.sample_rate else 0.0


@dataclass(frozen=True)
class Requirements:
    """What a file must have to be used."""

    min_seconds: float = 1.0
    min_sample_rate: int = 16_000
    max_channels: int = 2
    max_clipped: float = 0.01
    silence: float = 1e-4
    """RMS; -80 dB of full scale."""


def why_not(required: Requirements, found: Inspection) -> str:
    """Why a file cannot be used; empty if it can."""
    checks = {
        found.error: found.error,
        f"too short: {found.seconds:.3f} s, at least {required.min_seconds} s are wanted (--min_seconds)": (
            found.seconds < required.min_seconds
        ),
        "it holds NaN or infinite samples": not found.is_finite,
        f"silent: its RMS is {found.rms:.1e}": found.rms < required.silence,
        f"a sample rate of {found.sample_rate} Hz, at least {required.min_sample_rate} Hz are wanted "
        "(--min_sample_rate)": found.sample_rate < required.min_sample_rate,
        f"{found.channels} channels, at most {required.max_channels} are wanted (--max_channels)": (
            found.channels > required.max_channels
        ),
        f"clipped: {100 * found.clipped:.1f} % of its samples lie on flat tops at full scale, at most "
        f"{100 * required.max_clipped:g} % are wanted (--max_clipped)": found.clipped > required.max_clipped,
    }
    return next((reason for reason, applies in checks.items() if applies), "")


def inspect_audio(path: Path) -> Inspection:
    """Read a whole file and measure it. Never raises for what is in the file."""
    try:
        if path.suffix.lower() in OTHER_SUFFIXES:
            samples, rate = read_other_audio(path)
            return _measure(iter([samples]), rate, samples.shape[1])
        with soundfile.SoundFile(path) as file:
            promised, log = file.frames, file.extra_info
            found = _measure(_blocks(file), file.samplerate, file.channels)
    except (ValueError, soundfile.LibsndfileError, OSError) as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return Inspection(error=f"unreadable: {text.rpartition(f'{str(path)!r}: ')[2]}")
    if found.num_samples < promised:
        return Inspection(error=f"truncated: its header promises {promised} samples, {found.num_samples} are there")
    if match := re.search(r"(?:data|SSND) : (\d+) \(should be (\d+)\)", log):
        claimed, present = (int(number) for number in match.groups())
        if claimed > present + 1 and claimed not in UNKNOWN_SIZES:
            return Inspection(error=f"truncated: its header promises {claimed} bytes of audio, {present} are there")
    if "ended unexpectedly" in log:
        return Inspection(error="truncated: the file ends in the middle")
    return found


def _blocks(file: soundfile.SoundFile) -> Iterator[np.ndarray]:
    while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
        yield block


def _measure(blocks: Iterator[np.ndarray], sample_rate: int, channels: int) -> Inspection:
    digest, energy, num_samples, num_clipped, is_finite = hashlib.sha256(), 0.0, 0, 0, True
    for block in blocks:
        digest.update(np.ascontiguousarray(block).tobytes())
        num_samples += len(block)
        is_finite = is_finite and bool(np.isfinite(block).all())
        energy += float(np.square(block, dtype=np.float64).sum())
        is_top = np.abs(block) >= FULL_SCALE
        is_flat = is_top[1:] & is_top[:-1] & (np.abs(np.diff(block, axis=0)) < 1e-4) if is_finite else is_top[:0]
        num_clipped += int(is_flat.sum())
    size = max(num_samples * channels, 1)
    return Inspection(
        sample_rate=sample_rate,
        channels=channels,
        num_samples=num_samples,
        is_finite=is_finite,
        rms=(energy / size) ** 0.5 if is_finite else float("inf"),
        clipped=num_clipped / size,
        digest=f"{sample_rate} {channels} {digest.hexdigest()[:32]}",
    )
