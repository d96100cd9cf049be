"""Audio files: find, read, write and resample. A waveform is float32 (channels, samples) in [-1, 1].

Nothing is converted silently: a file of another sample rate is an error that says how to convert it.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from jaxtyping import Float
from torch import Tensor

SUFFIXES = {f".{name.lower()}" for name in soundfile.available_formats()} | {".opus", ".oga", ".aif"}
WRITE_BLOCK = 1 << 16  # libsndfile overflows its stack when a long Ogg file is written in one piece


def find_audio(folder: Path) -> list[Path]:
    """All audio files below a folder, sorted by path, so that the order is the same on every machine.

    Raises:
        ValueError: the folder does not exist or holds no audio.
    """
    if not folder.is_dir():
        raise ValueError(f"expected a folder of audio files, but {folder} is not a folder")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise ValueError(f"found no audio below {folder}; files that count end in {', '.join(sorted(SUFFIXES))}")
    return paths


def read_audio(
    path: Path, sample_rate: int, start: int = 0, num_samples: int | None = None
) -> Float[Tensor, "channels samples"]:
    """Read a file, or only ``num_samples`` of it from ``start`` on.

    Raises:
        ValueError: the file cannot be decoded, has another sample rate, fewer samples, or holds NaN or infinity.
    """
    try:
        with soundfile.SoundFile(path) as file:
            if file.samplerate != sample_rate:
                raise ValueError(
                    f"{path} is at {file.samplerate} Hz but the model works at {sample_rate} Hz; convert it first: "
                    f"python scripts/prepare_audio.py --sample_rate {sample_rate}"
                )
            file.seek(start)
            samples = file.read(-1 if num_samples is None else num_samples, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise ValueError(f"{path} cannot be read as audio: {error}") from error
    if num_samples is not None and len(samples) < num_samples:
        raise ValueError(f"{path} has no {num_samples} samples from {start} on, only {len(samples)}; is it truncated?")
    if not np.isfinite(samples).all():
        raise ValueError(f"{path} holds NaN or infinite samples; repair or remove it")
    return torch.from_numpy(samples.T.copy())


def write_audio(
    path: Path, waveform: Float[Tensor, "channels samples"], sample_rate: int, tags: Mapping[str, str] | None = None
) -> None:
    """Write a file whose format follows from the suffix: .wav and .flac as 16-bit integers, .ogg as Vorbis.

    ``tags`` are libsndfile's: title, artist, comment, software and others.

    Raises:
        ValueError: a sample lies outside [-1, 1] or is not finite; it would be clipped.
    """
    if not (waveform.isfinite().all() and waveform.abs().max() <= 1):
        raise ValueError(
            f"samples must lie in [-1, 1], but those for {path} reach {waveform.abs().max().item():.3f}; "
            "scale them first"
        )
    samples = waveform.detach().cpu().float().numpy().T
    with soundfile.SoundFile(path, "w", sample_rate, samples.shape[1]) as file:
        for name, value in (tags or {}).items():
            setattr(file, name, value)
        for start in range(0, len(samples), WRITE_BLOCK):
            file.write(samples[start : start + WRITE_BLOCK])


def resample(
    waveform: Float[Tensor, "channels samples"], sample_rate: int, new_sample_rate: int
) -> Float[Tensor, "channels new_samples"]:
    """Band-limited resampling (soxr, high quality)."""
    if sample_rate == new_sample_rate:
        return waveform
    return torch.from_numpy(np.ascontiguousarray(soxr.resample(waveform.numpy().T, sample_rate, new_sample_rate).T))
