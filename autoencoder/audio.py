"""Audio files: find, read, write and resample. A waveform is float32 (channels, samples) in [-1, 1].

Nothing is converted silently: a file of another sample rate is an error that says how to convert it.
"""

import importlib.util
import os
from collections.abc import Iterator, Mapping
from io import IOBase
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr
import torch
from jaxtyping import Float
from torch import Tensor

SUFFIXES = {f".{name.lower()}" for name in soundfile.available_formats()} | {".opus", ".oga", ".aif"}
# what soundfile cannot read; extra ``formats``
OTHER_SUFFIXES = {".m4a", ".mp4", ".m4b", ".aac", ".webm", ".mka", ".wma", ".ape", ".wv", ".mpc", ".tta", ".ac3"}
WRITE_BLOCK = 1 << 16  # libsndfile overflows its stack when a long Ogg file is written in one piece


class AudioInfo(NamedTuple):
    """What the header of an audio file says."""

    sample_rate: int
    channels: int
    num_samples: int


def find_audio(folder: Path, faults: dict[str, str] | None = None) -> list[Path]:
    """All audio files below a folder, sorted by path, so that the order is the same on every machine.

    Args:
        folder: searched recursively; links to folders are followed.
        faults: gets the names below ``folder`` that look like audio but are no files, and folders that cannot be
            opened, each with the reason.

    Raises:
        ValueError: the folder does not exist or holds no audio.
    """
    if not folder.is_dir():
        raise ValueError(f"expected a folder of audio files, but {folder} is not a folder")
    suffixes, paths = SUFFIXES | OTHER_SUFFIXES, []
    faults = {} if faults is None else faults
    for path in _walk(folder, faults):
        if path.suffix.lower() not in suffixes:
            continue
        if path.is_file():
            paths.append(path)
        elif path.is_dir():
            faults[path.relative_to(folder).as_posix()] = "a folder, not a file"
        else:
            faults[path.relative_to(folder).as_posix()] = "a link to nothing" if path.is_symlink() else "not a file"
    if not paths:
        raise ValueError(f"found no audio below {folder}; files that count end in {', '.join(sorted(suffixes))}")
    return sorted(paths)


def _walk(folder: Path, faults: dict[str, str]) -> Iterator[Path]:
    """Everything below a folder, links to folders followed once."""
    seen = set()

    def note(error: OSError) -> None:
        faults[Path(error.filename).relative_to(folder).as_posix()] = f"cannot be opened: {error.strerror}"

    for place, folders, files in os.walk(folder, onerror=note, followlinks=True):
        yield from (Path(place, name) for name in (*folders, *files))
        seen.add(os.path.realpath(place))
        folders[:] = [name for name in folders if os.path.realpath(Path(place, name)) not in seen]


def audio_info(file: Path | IOBase, name: str | None = None) -> AudioInfo:
    """Header of a file that soundfile reads.

    Raises:
        ValueError: it cannot be read as audio.
    """
    try:
        info = soundfile.info(file)
    except (soundfile.LibsndfileError, OSError) as error:
        raise ValueError(f"{name or file} cannot be read as audio: {_reason(error, name or str(file))}") from error
    return AudioInfo(info.samplerate, info.channels, info.frames)


def read_audio(
    path: Path | IOBase,
    sample_rate: int,
    start: int = 0,
    num_samples: int | None = None,
    name: str | None = None,
) -> Float[Tensor, "channels samples"]:
    """Read a file, or only ``num_samples`` of it from ``start`` on.

    Args:
        path: a file, or an open one that can be searched.
        sample_rate: what the file must have, in Hz.
        start: first sample.
        num_samples: all to the end if not given.
        name: what an open file is called in messages.

    Raises:
        ValueError: the file cannot be decoded, has another sample rate, fewer samples, or holds NaN or infinity.
    """
    name = name or str(path)
    if isinstance(path, Path) and path.suffix.lower() in OTHER_SUFFIXES:
        samples, rate = read_other_audio(path)
        samples = samples[start:] if num_samples is None else samples[start : start + num_samples]
    else:
        samples, rate = _read_with_soundfile(path, start, num_samples, name)
    if rate != sample_rate:
        raise ValueError(
            f"{name} is at {rate} Hz but the model works at {sample_rate} Hz; convert it first: "
            f"python scripts/prepare_audio.py --sample_rate {sample_rate}"
        )
    if num_samples is not None and len(samples) < num_samples:
        raise ValueError(f"{name} has no {num_samples} samples from {start} on, only {len(samples)}; is it truncated?")
    if not np.isfinite(samples).all():
        raise ValueError(f"{name} holds NaN or infinite samples; repair or remove it")
    return torch.from_numpy(samples.T.copy())


def _read_with_soundfile(
    path: Path | IOBase, start: int, num_samples: int | None, name: str
) -> tuple[np.ndarray, int]:
    try:
        with soundfile.SoundFile(path) as file:
            file.seek(min(start, file.frames))
            return file.read(-1 if num_samples is None else num_samples, "float32", always_2d=True), file.samplerate
    except (soundfile.LibsndfileError, OSError) as error:
        raise ValueError(f"{name} cannot be read as audio: {_reason(error, name)}") from error


def _reason(error: Exception, name: str) -> str:
    """What libsndfile or the system says, without the name that our message holds already."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.removeprefix(f"Error opening {name!r}: ") or repr(error)


def read_other_audio(path: Path) -> tuple[np.ndarray, int]:
    """First audio stream of a file that ffmpeg's libraries read: float32 (samples, channels) and its sample rate."""
    if importlib.util.find_spec("av") is None:
        raise ValueError(f"{path} needs PyAV to be read: pip install 'music2latent-kit[formats]'")
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.audio[0]
            resampler = av.AudioResampler(format="fltp")  # the same rate and channels, as floats
            frames = [one for frame in container.decode(stream) for one in resampler.resample(frame)]
            frames += resampler.resample(None)
            return np.concatenate([frame.to_ndarray() for frame in frames], axis=1).T, frames[0].sample_rate
    except (av.FFmpegError, OSError, IndexError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as audio: {error}") from error


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
