"""Waveform <-> amplitude-compressed complex spectrogram, the representation that the codec denoises (M2L sec. 3.1).

Frame i covers samples [hop_length * i, hop_length * i + n_fft): no centring and no padding. The Nyquist bin is dropped
and every complex value c becomes ``beta * |c|^alpha * exp(i arg c)``, stored as two real channels. Audio has a
few loud and many faint bins; the compression brings them to a common scale of about 0.15 in the mean.

Sources
    M2L   Pasini et al. 2024, https://arxiv.org/abs/2408.06500
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

# |c| = 0 has no phase and an infinite slope; below this squared magnitude the power law goes on linearly
TINY_POWER = 1e-20
MAGNITUDE_FLOOR = 0.02  # of compressed magnitudes; about -98 dB of full scale


@dataclass(frozen=True)
class ComplexSpectrogram:
    """Short-time Fourier transform with compressed amplitudes, and its inverse.

    Not a module and without buffers on purpose: diffusers loads models under the requested dtype and a bfloat16 window
    would cost 50 dB of accuracy. Everything here runs in float32 whatever comes in.
    """

    n_fft: int = 2048
    hop_length: int = 512
    alpha: float = 0.65
    beta: float = 0.34

    @property
    def num_bins(self) -> int:
        """Frequency bins without Nyquist."""
        return self.n_fft // 2

    @property
    def overlap(self) -> int:
        """Samples that a frame shares with the next ones, ``n_fft - hop_length``; the outer ones fade out."""
        return self.n_fft - self.hop_length

    def num_samples(self, num_frames: int) -> int:
        """Samples that ``num_frames`` frames cover."""
        return self.hop_length * num_frames + self.overlap

    def __call__(self, waveform: Float[Tensor, "*batch samples"]) -> Float[Tensor, "*batch 2 bins frames"]:
        """Transform; ``(samples - n_fft) // hop_length + 1`` frames, samples after the last whole frame are unused."""
        if waveform.shape[-1] < self.n_fft:
            raise ValueError(
                f"one frame needs n_fft = {self.n_fft} samples, got {waveform.shape[-1]}; pad the waveform first"
            )
        with torch.autocast(waveform.device.type, enabled=False):
            stft = torch.stft(
                waveform.reshape(-1, waveform.shape[-1]).float(),
                self.n_fft,
                self.hop_length,
                window=self._window(waveform.device),
                center=False,
                return_complex=True,
            )[:, : self.num_bins]
            spectrogram = torch.stack([stft.real, stft.imag], dim=1)
            scale = self.beta * _power(spectrogram) ** ((self.alpha - 1) / 2)
            return (spectrogram * scale).reshape(*waveform.shape[:-1], *spectrogram.shape[1:])

    def inverse(self, spectrogram: Float[Tensor, "*batch 2 bins frames"]) -> Float[Tensor, "*batch samples"]:
        """Overlap-add to ``num_samples(frames)`` samples in [-1, 1]; the outer ``overlap`` samples are faded."""
        batch_shape, num_frames = spectrogram.shape[:-3], spectrogram.shape[-1]
        with torch.autocast(spectrogram.device.type, enabled=False):
            spectrogram = spectrogram.reshape(-1, *spectrogram.shape[-3:]).float() / self.beta
            spectrogram = spectrogram * _power(spectrogram) ** ((1 / self.alpha - 1) / 2)
            stft = F.pad(torch.complex(spectrogram[:, 0], spectrogram[:, 1]), (0, 0, 0, 1))
            window = self._window(spectrogram.device)
            total = window.square().view(-1, self.hop_length).sum(0).repeat(self.n_fft // self.hop_length)
            frames = torch.fft.irfft(stft, dim=1) * (window / total)[:, None]
            waveform = F.fold(
                frames, (1, self.num_samples(num_frames)), kernel_size=(1, self.n_fft), stride=(1, self.hop_length)
            )
            return waveform.clamp(-1, 1).view(*batch_shape, -1)

    def _window(self, device: torch.device) -> Float[Tensor, " n_fft"]:
        return torch.hann_window(self.n_fft, dtype=torch.float32, device=device)


class OverlapAdd:
    """The inverse transform of frames that come in pieces; what it gives, joined, is the inverse of all of them.

    The first ``overlap`` samples, which lie under fewer frames than the others, are left out; so are the last.
    """

    def __init__(self, spectrogram: ComplexSpectrogram) -> None:
        self.spectrogram = spectrogram
        self.num_before = spectrogram.overlap // spectrogram.hop_length  # earlier frames that reach into a new hop
        self.before: Tensor | None = None

    def push(self, frames: Float[Tensor, "*batch 2 bins frames"]) -> Float[Tensor, "*batch samples"]:
        """``hop_length`` samples per frame, fewer for the first frames of all."""
        if self.before is not None:
            frames = torch.cat([self.before, frames], dim=-1)
        self.before = frames[..., max(0, frames.shape[-1] - self.num_before) :].clone()
        overlap = self.spectrogram.overlap
        if frames.shape[-1] <= self.num_before:
            return frames.new_zeros(*frames.shape[:-3], 0)
        return self.spectrogram.inverse(frames)[..., overlap:-overlap]


def log_magnitudes(spectrogram: Float[Tensor, "batch 2 bins frames"]) -> Float[Tensor, "batch 1 bins frames"]:
    """Natural logarithm of the compressed magnitudes, with a floor."""
    return (_power(spectrogram).sqrt() + MAGNITUDE_FLOOR).log()


def _power(spectrogram: Float[Tensor, "batch 2 bins frames"]) -> Float[Tensor, "batch 1 bins frames"]:
    return spectrogram.square().sum(dim=1, keepdim=True).clamp(min=TINY_POWER)
