"""Codecs and baselines under test: each takes a waveform and gives back what a listener would get.

Bit rates are per audio channel, as the codec codes each channel on its own: latents in 16 bits are 11 kbit/s.
"""

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import soundfile
import soxr
import torch
from jaxtyping import Float
from torch import Tensor

from autoencoder import Music2LatentAutoencoder

OPUS_RATE = 48_000
OPUS_MIN_KBPS, OPUS_MAX_KBPS = 6.0, 256.0  # per channel: libsndfile's range for compression levels 1 to 0
LATENT_BITS = 16
WRITE_BLOCK = 65_536


@dataclass(frozen=True)
class Coded:
    """Decoded audio of the input's shape, with what it cost.

    Attributes:
        waveform: (channels, samples).
        kbps: kbit/s per channel that were really used, container included; None where nothing is transmitted.
        encode_seconds: time of encoding.
        decode_seconds: time of decoding.
    """

    waveform: Float[Tensor, "channels samples"]
    kbps: float | None = None
    encode_seconds: float | None = None
    decode_seconds: float | None = None


@runtime_checkable
class System(Protocol):
    """Something that codes audio."""

    @property
    def name(self) -> str:
        """As shown in tables."""

    def __call__(self, waveform: Float[Tensor, "channels samples"], sample_rate: int, seed: int) -> Coded:
        """Encode and decode."""


@dataclass(frozen=True)
class Codec:
    """The autoencoder, decoding in ``num_inference_steps``."""

    model: Music2LatentAutoencoder
    num_inference_steps: int = 1

    @property
    def name(self) -> str:
        """``codec``, with the steps if there are several."""
        return "codec" if self.num_inference_steps == 1 else f"codec, {self.num_inference_steps} steps"

    def __call__(self, waveform: Float[Tensor, "channels samples"], sample_rate: int, seed: int) -> Coded:
        device, seconds = self.model.device, waveform.shape[-1] / sample_rate
        started = time.perf_counter()
        latents = self.model.encode(waveform[None].to(device))
        encoded = time.perf_counter()
        decoded = self.model.decode(
            latents,
            num_samples=waveform.shape[-1],
            num_inference_steps=self.num_inference_steps,
            generator=torch.Generator().manual_seed(seed),
        )[0].cpu()
        return Coded(
            waveform=decoded,
            kbps=latents.numel() * LATENT_BITS / seconds / len(waveform) / 1000,
            encode_seconds=encoded - started,
            decode_seconds=time.perf_counter() - encoded,
        )


@dataclass(frozen=True)
class Opus:
    """Ogg Opus, written and read by libsndfile with libopus.

    Args:
        target_kbps: kbit/s per channel that the encoder aims at, 6 to 256, without the container.
    """

    target_kbps: float

    def __post_init__(self) -> None:
        if not OPUS_MIN_KBPS <= self.target_kbps <= OPUS_MAX_KBPS:
            raise ValueError(
                f"Opus codes {OPUS_MIN_KBPS:g} to {OPUS_MAX_KBPS:g} kbit/s per channel, got {self.target_kbps:g}"
            )

    @property
    def name(self) -> str:
        """``Opus 12``."""
        return f"Opus {self.target_kbps:g}"

    def __call__(self, waveform: Float[Tensor, "channels samples"], sample_rate: int, seed: int) -> Coded:
        samples = soxr.resample(waveform.numpy().T, sample_rate, OPUS_RATE)
        file, started = io.BytesIO(), time.perf_counter()
        level = (OPUS_MAX_KBPS - self.target_kbps) / (OPUS_MAX_KBPS - OPUS_MIN_KBPS)
        with soundfile.SoundFile(
            file, "w", OPUS_RATE, samples.shape[1], format="OGG", subtype="OPUS", compression_level=level
        ) as writer:
            for start in range(0, len(samples), WRITE_BLOCK):
                writer.write(samples[start : start + WRITE_BLOCK])
        encoded = time.perf_counter()
        kbps = 8 * len(file.getvalue()) / (len(samples) / OPUS_RATE) / samples.shape[1] / 1000
        file.seek(0)
        decoded, _ = soundfile.read(file, dtype="float32", always_2d=True)
        decode_seconds = time.perf_counter() - encoded
        decoded = soxr.resample(decoded, OPUS_RATE, sample_rate)
        return Coded(_fit(decoded.T, waveform), kbps, encoded - started, decode_seconds)


@dataclass(frozen=True)
class RoundTrip:
    """Spectrogram and back without networks: the ceiling of the codec."""

    model: Music2LatentAutoencoder

    @property
    def name(self) -> str:
        """``spectrogram``."""
        return "spectrogram"

    def __call__(self, waveform: Float[Tensor, "channels samples"], sample_rate: int, seed: int) -> Coded:
        spectrogram, num_samples = self.model.spectrogram, waveform.shape[-1]
        overlap = spectrogram.overlap
        padded = torch.nn.functional.pad(waveform, (overlap, overlap + spectrogram.hop_length))
        return Coded(spectrogram.inverse(spectrogram(padded))[:, overlap : overlap + num_samples])


@dataclass(frozen=True)
class Noise:
    """White noise with the RMS of each channel: the floor."""

    @property
    def name(self) -> str:
        """``noise``."""
        return "noise"

    def __call__(self, waveform: Float[Tensor, "channels samples"], sample_rate: int, seed: int) -> Coded:
        noise = torch.randn(waveform.shape, generator=torch.Generator().manual_seed(seed))
        return Coded((noise * waveform.square().mean(-1, keepdim=True).sqrt()).clamp(-1, 1))


def baselines(model: Music2LatentAutoencoder | None, opus_kbps: Sequence[float]) -> list[System]:
    """The systems that make a codec's figures mean something, best first."""
    ceiling: list[System] = [] if model is None else [RoundTrip(model)]
    return [*ceiling, *(Opus(kbps) for kbps in sorted(opus_kbps, reverse=True)), Noise()]


def _fit(samples: np.ndarray, like: Tensor) -> Tensor:
    """Resampling there and back may change the length by a sample."""
    short = max(0, like.shape[-1] - samples.shape[-1])
    return torch.from_numpy(np.pad(samples, ((0, 0), (0, short)))[:, : like.shape[-1]].copy())
