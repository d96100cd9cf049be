"""Code audio files and decode them again, to hear and see what a codec does to them.

    python scripts/reconstruct.py song.mp3 voice.flac --autoencoder outputs/codec/autoencoder \\
        --output_dir outputs/reconstructed

Any rate and any number of channels: the audio is resampled to the rate of the codec and back, and the script says so.
Files are read, coded and written in blocks, so that memory does not grow with their length. For each file: a FLAC of
the same rate, channels and length, a picture of both spectrograms (the first minute), and a line in the table of
distances.
"""

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from jsonargparse import auto_cli, set_parsing_settings
from torch import Tensor
from tqdm.auto import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoencoder import LOW_LATENCY, Music2LatentAutoencoder, Windows
from autoencoder.audio import SUFFIXES
from autoencoder.figures import spectrogram_figure
from autoencoder.metrics import level_difference, log_mel_distance, multi_resolution_stft_distance, si_sdr
from pipelines import DEMO_MODEL

BLOCK_SECONDS = 5.0
COMPARED_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class ReconstructConfig:
    """What is coded, by what, and where it goes."""

    files: list[Path] = field(default_factory=list)
    """Audio files; they may also stand without the option's name, before or after the options."""
    autoencoder: Path = DEMO_MODEL / "autoencoder"
    """Folder of the codec."""
    output_dir: Path = Path("outputs/reconstructed")
    """Folder for audio and pictures, song.mp3.coded.flac and .png of song.mp3."""
    num_inference_steps: int = 1
    """Decoding steps."""
    seed: int = 0
    """Seed of the decoding noise."""
    low_latency: bool = False
    """Code in short windows, as a live stream would."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where the codec runs."""

    def __post_init__(self) -> None:
        for path in self.files:
            if not path.is_file():
                raise ValueError(f"there is no file {path}")
            if path.suffix.lower() not in SUFFIXES:
                raise ValueError(f"expected audio files ({', '.join(sorted(SUFFIXES))}), but {path} is none")
        if not self.files:
            raise ValueError("give at least one audio file: reconstruct.py song.mp3")
        names = [path.name for path in self.files]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{twice} came more than once; reconstruct them into folders of their own")


class Resampled:
    """Blocks (channels, samples) of one rate as blocks of another, by soxr's streaming resampler."""

    def __init__(self, rate: int, new_rate: int, num_channels: int) -> None:
        self.stream = None if rate == new_rate else soxr.ResampleStream(rate, new_rate, num_channels, dtype="float32")

    def push(self, block: np.ndarray, last: bool) -> np.ndarray:
        if self.stream is None:
            return block
        return self.stream.resample_chunk(np.ascontiguousarray(block.T), last=last).T


def audio_blocks(file: soundfile.SoundFile, sample_rate: int, bar: tqdm) -> Iterator[Tensor]:
    """The file's audio at the rate of the codec, (1, channels, samples) each."""
    resampled, block_size = (
        Resampled(file.samplerate, sample_rate, file.channels),
        int(BLOCK_SECONDS * file.samplerate),
    )
    left = file.frames
    while left > 0:
        block = file.read(min(block_size, left), dtype="float32", always_2d=True).T
        if block.shape[1] == 0:
            raise ValueError(f"{file.name} ends {left} samples before the length that it states; is it truncated?")
        left -= block.shape[1]
        bar.update(block.shape[1] / file.samplerate)
        samples = resampled.push(block, last=left == 0)
        if samples.shape[1]:
            yield torch.from_numpy(np.ascontiguousarray(samples))[None]


@contextmanager
def audio_file(path: Path, like: soundfile.SoundFile) -> Iterator[soundfile.SoundFile]:
    """A file to write, of another one's rate and channels. It stays only if all of it was written."""
    try:
        with soundfile.SoundFile(path, "w", like.samplerate, like.channels) as file:
            yield file
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def reconstruct(path: Path, codec: Music2LatentAutoencoder, config: ReconstructConfig) -> Path:
    """Write the reconstruction of one file, with exactly its number of samples."""
    windows = LOW_LATENCY if config.low_latency else Windows()
    output = config.output_dir / f"{path.name}.coded.flac"
    rate = codec.config.sample_rate
    with (
        soundfile.SoundFile(path) as file,
        audio_file(output, file) as written,
        tqdm(total=math.ceil(file.frames / file.samplerate), unit="s", desc=path.name, leave=False) as bar,
    ):
        blocks = (block.to(codec.device) for block in audio_blocks(file, rate, bar))
        latents = codec.stream_encode(blocks, windows=windows)
        decoded = codec.stream_decode(
            latents,
            num_inference_steps=config.num_inference_steps,
            generator=torch.Generator().manual_seed(config.seed),
            windows=windows,
        )
        resampled, left = Resampled(rate, file.samplerate, file.channels), file.frames
        for piece in decoded:
            samples = resampled.push(piece[0].cpu().numpy(), last=False)[:, :left]
            written.write(samples.T.clip(-1, 1))  # only resampling overshoots; what is decoded lies in [-1, 1]
            left -= samples.shape[1]
        # latents cover more than the piece, so that nothing is missing; soxr may hold back its last samples
        written.write(resampled.push(np.zeros((file.channels, 0), np.float32), last=True)[:, :left].T.clip(-1, 1))
    return output


def compare(path: Path, output: Path) -> tuple[dict[str, float], dict[str, Tensor], int]:
    """Distances over the first minute, and both waveforms."""
    rate = soundfile.info(path).samplerate
    original, coded = (
        torch.from_numpy(soundfile.read(name, int(COMPARED_SECONDS * rate), dtype="float32", always_2d=True)[0].T)
        for name in (path, output)
    )
    distances = {
        "log-mel distance": log_mel_distance(coded, original, rate),
        "multi-resolution STFT": multi_resolution_stft_distance(coded, original),
        "SI-SDR (dB)": si_sdr(coded, original),
        "level (dB)": level_difference(coded, original),
    }
    return distances, {path.name: original, "reconstruction": coded}, rate


def main(config: ReconstructConfig) -> list[str]:
    """Reconstruct every file that can be read and print the table. Returns what went wrong, by file."""
    codec = Music2LatentAutoencoder.from_pretrained(config.autoencoder).to(config.device).eval()
    config.output_dir.mkdir(parents=True, exist_ok=True)
    rows: dict[str, dict[str, float]] = {}
    failures = []
    for path in tqdm(config.files, unit="file", disable=len(config.files) == 1):
        try:
            rate = soundfile.info(path).samplerate
            if rate != codec.config.sample_rate:
                tqdm.write(
                    f"{path.name}: resampled from {rate} to {codec.config.sample_rate} Hz and back", file=sys.stderr
                )
            output = reconstruct(path, codec, config)
        except (soundfile.LibsndfileError, ValueError) as error:  # one broken file must not cost the others
            failures.append(f"{path}: {error}")
            continue
        rows[path.name], waveforms, rate = compare(path, output)
        spectrogram_figure(waveforms, rate).savefig(output.with_suffix(".png"))
    if rows:
        width = max(len(name) for name in rows)
        print(f"{'':{width}}  " + "  ".join(next(iter(rows.values()))))
        for name, distances in rows.items():
            print(f"{name:{width}}  " + "  ".join(f"{value:>{len(label)}.3f}" for label, value in distances.items()))
        print(f"audio and pictures are in {config.output_dir}")
    return failures


def files_named(arguments: list[str]) -> list[str]:
    """The same arguments with all plain words, which are files, gathered behind ``--files``."""
    files: list[str] = []
    options: list[str] = []
    for before, word in zip(["", *arguments], arguments, strict=False):
        is_value = before.startswith("--") and "=" not in before  # every option takes one value
        (options if word.startswith("-") or is_value else files).append(word)
    return [*options, f"--files={json.dumps(files)}"] if files else options


if __name__ == "__main__":
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    arguments = files_named(sys.argv[1:])
    if failed := main(auto_cli(ReconstructConfig, as_positional=False, args=arguments)):
        sys.exit("\n".join([f"{len(failed)} left out:", *failed]))
