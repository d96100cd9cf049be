"""Measure what dividing long audio into windows changes, for the choice of ``autoencoder.Windows``.

    python scripts/measure_windows.py --autoencoder outputs/codec/autoencoder --data_dir data/test

Each piece is coded in windows and in one pass, decoded with the same noise, and compared: the relative error of the
latents and the log-mel distance of the audio (nepers), near the joints of windows and elsewhere. There is no seam
where the distance near joints is not larger than elsewhere. ``extra`` is the computing that windows cost. The last
column is what the listener of a stream pays: the log-mel distance of the decoded audio to the original, minus that of
one pass.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jsonargparse import auto_cli, set_parsing_settings
from torch import Tensor
from tqdm.auto import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoencoder import Music2LatentAutoencoder, Windows
from autoencoder.audio import find_audio, read_audio
from autoencoder.chunking import Divider
from autoencoder.metrics import log_mel

HOP = 512  # of log_mel
NEAR = 8192  # samples on both sides of a joint: the cross-fade and the reach of a mel frame


@dataclass(frozen=True, kw_only=True)
class MeasureConfig:
    """What is coded and how it is divided."""

    autoencoder: Path
    """Folder of a trained codec."""
    data_dir: Path
    """Folder of pieces, the longer the better; short ones are put together."""
    seconds: float = 60.0
    """Audio that is coded."""
    sizes: tuple[int, ...] = (16, 24, 32, 64, 128)
    """Window sizes in latent frames."""
    contexts: tuple[int, ...] = (0, 2, 4, 8, 16)
    """Contexts in latent frames; those that do not fit a size are left out."""
    fades: tuple[int, ...] = (0, 2)
    """Cross-fades in latent frames."""


def joints(windows: Windows, num_latents: int) -> list[int]:
    """Latent frames at which two windows meet."""
    return [stop - windows.context for _, stop in Divider(windows).rest(num_latents)][:-1]


def near_and_far(values: Tensor, places: Sequence[float], reach: float) -> tuple[float, float]:
    """Mean of the values (frames,) within ``reach`` of a place, and of the others."""
    frames = torch.arange(len(values))
    near = torch.stack([(frames - place).abs() <= reach for place in places]).any(0)
    return values[near].mean().item(), values[~near].mean().item()


def mel_difference(one: Tensor, other: Tensor, sample_rate: int) -> Tensor:
    """Log-mel distance of each frame."""
    return (log_mel(one, sample_rate) - log_mel(other, sample_rate)).abs().mean((0, 1, 2))


def main(config: MeasureConfig) -> None:
    """Print the table."""
    codec = Music2LatentAutoencoder.from_pretrained(config.autoencoder).eval()
    rate, per_latent = codec.config.sample_rate, codec.samples_per_latent
    pieces = [read_audio(path, rate).mean(0) for path in find_audio(config.data_dir)]
    waveform = torch.cat(pieces)[None, None, : round(config.seconds * rate)]
    whole = Windows(size=10**9, context=0, fade=0)
    latents = codec.encode(waveform, windows=whole)

    def decode(windows: Windows, latents: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return codec.decode(latents, num_samples=waveform.shape[-1], generator=generator, windows=windows)

    decoded = decode(whole, latents)
    floor = mel_difference(decoded, waveform, rate).mean().item()
    print(f"{waveform.shape[-1] / rate:.0f} s of audio; one pass is {floor:.3f} nepers from the original")
    header = ("size", "context", "fade", "seconds", "extra", "latents near", "far", "audio near", "far", "to original")
    print("".join(f"{word:>13}" for word in header))
    choices = [
        Windows(size=size, context=context, fade=fade)
        for size in config.sizes
        for context in config.contexts
        for fade in config.fades
        if fade <= 2 * context < size
    ]
    for windows in tqdm(choices, unit="choice"):
        places = joints(windows, latents.shape[-1])
        error = (codec.encode(waveform, windows=windows) - latents)[0].square().mean(0).sqrt() / latents.std()
        audio = decode(windows, latents)
        difference = mel_difference(audio, decoded, rate)
        samples = [(place * per_latent - codec.spectrogram.overlap) / HOP for place in places]
        values = (
            *near_and_far(error, places, reach=1),
            *near_and_far(difference, samples, reach=NEAR / HOP),
            mel_difference(audio, waveform, rate).mean().item() - floor,
        )
        first = (windows.size, windows.context, windows.fade, f"{windows.size / codec.latent_rate:.1f}")
        extra = f"{windows.size / windows.hop - 1:.0%}"
        tqdm.write("".join(f"{word:>13}" for word in (*first, extra, *(f"{value:.4f}" for value in values))))


if __name__ == "__main__":
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    main(auto_cli(MeasureConfig, as_positional=False))
