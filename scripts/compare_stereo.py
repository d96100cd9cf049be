"""Compare ways to code stereo with a codec of one channel: left/right or mid/side, with shared or separate noise.

    python scripts/compare_stereo.py --autoencoder outputs/codec/autoencoder --data_dir data/test

Reported per way, as means over the files: log-mel distance of the worse channel and of the side signal (nepers), error
of the side's level against the mid's (dB), error of the correlation of the channels.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jsonargparse import auto_cli, set_parsing_settings
from torch import Tensor
from tqdm.auto import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoencoder import Music2LatentAutoencoder
from autoencoder.audio import find_audio, read_audio
from autoencoder.metrics import log_mel_distance

COLUMNS = ("log-mel worse channel", "log-mel side", "side level error dB", "correlation error")


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """What is compared."""

    autoencoder: Path
    """Folder of a trained codec."""
    data_dir: Path
    """Folder of stereo files; mono ones, and those whose channels are alike, are left out."""
    num_files: int = 12
    """At most so many files."""
    seconds: float = 10.0
    """Audio of each, from its middle."""


def mid_side(waveform: Tensor) -> Tensor:
    """Left and right (2, samples) as mid and side, which stay in [-1, 1]."""
    return torch.stack([waveform[0] + waveform[1], waveform[0] - waveform[1]]) / 2


def left_right(waveform: Tensor) -> Tensor:
    """The inverse of ``mid_side``."""
    return torch.stack([waveform[0] + waveform[1], waveform[0] - waveform[1]])


def code(codec: Music2LatentAutoencoder, waveform: Tensor, has_shared_noise: bool) -> Tensor:
    """Encode and decode two channels."""
    if has_shared_noise:
        latents = codec.encode(waveform[None])
        return codec.decode(latents, num_samples=waveform.shape[-1], generator=torch.Generator().manual_seed(0))[0]
    latents = codec.encode(waveform[:, None])
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    return codec.decode(latents, num_samples=waveform.shape[-1], generator=generators)[:, 0]


WAYS: dict[str, Callable[[Music2LatentAutoencoder, Tensor], Tensor]] = {
    "left/right, shared noise": lambda codec, x: code(codec, x, True),
    "left/right, separate noise": lambda codec, x: code(codec, x, False),
    "mid/side, shared noise": lambda codec, x: left_right(code(codec, mid_side(x), True)),
    "mid/side, separate noise": lambda codec, x: left_right(code(codec, mid_side(x), False)),
}


def side_level(waveform: Tensor) -> Tensor:
    """Level of the side against the mid, in dB."""
    mid, side = mid_side(waveform).square().mean(-1).clamp(min=1e-12)
    return 10 * (side / mid).log10()


def distances(coded: Tensor, waveform: Tensor, sample_rate: int) -> list[float]:
    """The figures of one file, in the order of COLUMNS."""
    channels = [log_mel_distance(c[None], w[None], sample_rate) for c, w in zip(coded, waveform, strict=True)]
    correlations = [torch.corrcoef(each)[0, 1] for each in (coded, waveform)]
    return [
        max(channels),
        log_mel_distance(mid_side(coded)[1:], mid_side(waveform)[1:], sample_rate),
        (side_level(coded) - side_level(waveform)).abs().item(),
        (correlations[0] - correlations[1]).abs().item(),
    ]


def main(config: CompareConfig) -> None:
    """Print the table."""
    codec = Music2LatentAutoencoder.from_pretrained(config.autoencoder).eval()
    rate = codec.config.sample_rate
    results: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    num_used = 0
    for path in tqdm(find_audio(config.data_dir), unit="file"):
        waveform = read_audio(path, rate)
        start = max(0, (waveform.shape[-1] - round(config.seconds * rate)) // 2)
        waveform = waveform[:, start : start + round(config.seconds * rate)]
        if num_used == config.num_files or len(waveform) != 2 or side_level(waveform) < -50:
            continue
        num_used += 1
        for way, call in WAYS.items():
            results[way].append(distances(call(codec, waveform), waveform, rate))
    if not num_used:
        raise ValueError(f"found no stereo music below {config.data_dir}; the channels of all files are alike")
    print(f"{num_used} files of {config.seconds:g} s\n{'':28}" + "".join(f"{name:>24}" for name in COLUMNS))
    for way, rows in results.items():
        means = torch.tensor(rows).mean(0).tolist()
        print(f"{way:28}" + "".join(f"{value:>24.3f}" for value in means))


if __name__ == "__main__":
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    main(auto_cli(CompareConfig, as_positional=False))
