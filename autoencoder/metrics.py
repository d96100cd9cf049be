"""Distances between two waveforms, as functions of tensors: what validation and evaluation report.

Waveforms are (channels, samples) of equal shape at the same rate. All spectra are of magnitudes: a codec that draws
its phases at random is not punished for it here, only by ``si_sdr``.
"""

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

MEL_BANDS = 80
MEL_FLOOR = 1e-5  # amplitude, -100 dB: below it two spectra count as equally silent
RESOLUTIONS = (512, 1024, 2048)


def log_mel(waveform: Float[Tensor, "*batch samples"], sample_rate: int) -> Float[Tensor, "*batch bands frames"]:
    """Natural logarithm of an 80-band mel amplitude spectrogram (n_fft 2048, hop 512, unit full scale)."""
    magnitude = _magnitude(waveform, 2048)
    bank = _mel_bank(sample_rate, 1025).to(magnitude)
    return torch.einsum("fm,...ft->...mt", bank, magnitude).clamp(min=MEL_FLOOR).log()


def log_mel_distance(
    estimate: Float[Tensor, "channels samples"], reference: Float[Tensor, "channels samples"], sample_rate: int
) -> float:
    """Mean absolute difference of the log-mel spectrograms, in nepers (1 neper is 8.7 dB)."""
    return (log_mel(estimate, sample_rate) - log_mel(reference, sample_rate)).abs().mean().item()


def log_mel_correlation(
    estimate: Float[Tensor, "channels samples"], reference: Float[Tensor, "channels samples"], sample_rate: int
) -> float:
    """Pearson correlation of the log-mel spectrograms: blind to the level (see ``level_difference``)."""
    pair = torch.stack([log_mel(estimate, sample_rate).flatten(), log_mel(reference, sample_rate).flatten()])
    return torch.corrcoef(pair)[0, 1].item()


def level_difference(
    estimate: Float[Tensor, "channels samples"], reference: Float[Tensor, "channels samples"]
) -> float:
    """Level of the estimate minus that of the reference, in dB of the RMS."""
    rms = [waveform.square().mean().sqrt().clamp(min=1e-8) for waveform in (estimate, reference)]
    return 20 * (rms[0] / rms[1]).log10().item()


def multi_resolution_stft_distance(
    estimate: Float[Tensor, "channels samples"], reference: Float[Tensor, "channels samples"]
) -> float:
    """Spectral convergence plus mean absolute log-magnitude difference, averaged over three resolutions.

    Source: Yamamoto et al. 2020 (Parallel WaveGAN), https://arxiv.org/abs/1910.11480, eq. 4-6.
    """
    return multi_resolution_stft_distances(estimate[None], reference[None]).item()


def multi_resolution_stft_distances(
    estimate: Float[Tensor, "batch *channels samples"], reference: Float[Tensor, "batch *channels samples"]
) -> Float[Tensor, " batch"]:
    """The same for each item of a batch; gradients flow."""
    distances = []
    for n_fft in RESOLUTIONS:
        ours, theirs = _magnitude(estimate, n_fft).flatten(1), _magnitude(reference, n_fft).flatten(1)
        silence = MEL_FLOOR * ours.shape[1] ** 0.5
        convergence = (ours - theirs).norm(dim=1) / theirs.norm(dim=1).clamp(min=silence)
        log_distance = (ours.clamp(min=MEL_FLOOR).log() - theirs.clamp(min=MEL_FLOOR).log()).abs().mean(1)
        distances.append(convergence + log_distance)
    return torch.stack(distances).mean(0)


def si_sdr(estimate: Float[Tensor, "channels samples"], reference: Float[Tensor, "channels samples"]) -> float:
    """Scale-invariant signal-to-distortion ratio in dB, mean over channels (Le Roux et al. 2018, arXiv 1811.02508)."""
    scale = (estimate * reference).sum(-1, keepdim=True) / reference.square().sum(-1, keepdim=True).clamp(min=1e-12)
    target = scale * reference
    ratio = target.square().sum(-1) / (estimate - target).square().sum(-1).clamp(min=1e-12)
    return 10 * ratio.clamp(min=1e-12).log10().mean().item()


def reconstruction_metrics(
    estimate: Float[Tensor, "channels samples"], reference: Float[Tensor, "channels samples"], sample_rate: int
) -> dict[str, float]:
    """All of the above by name: what validations during a training and evaluations afterwards both report."""
    return {
        "SI-SDR (dB)": si_sdr(estimate, reference),
        "STFT distance": multi_resolution_stft_distance(estimate, reference),
        "log-mel distance": log_mel_distance(estimate, reference, sample_rate),
        "log-mel correlation": log_mel_correlation(estimate, reference, sample_rate),
        "level difference (dB)": level_difference(estimate, reference),
    }


def _magnitude(waveform: Float[Tensor, "*batch samples"], n_fft: int) -> Float[Tensor, "*batch bins frames"]:
    """STFT amplitudes, scaled so that a full-scale sine has amplitude one half."""
    window = torch.hann_window(n_fft, device=waveform.device)
    flat = waveform.reshape(-1, waveform.shape[-1]).float()
    stft = torch.stft(flat, n_fft, n_fft // 4, window=window, return_complex=True, pad_mode="constant")
    return (stft.abs() / window.sum()).reshape(*waveform.shape[:-1], *stft.shape[1:])


@cache
def _mel_bank(sample_rate: int, num_bins: int) -> Tensor:
    bank = mel_filter_bank(num_bins, MEL_BANDS, 0.0, sample_rate / 2, sample_rate, norm=None, mel_scale="htk")
    return torch.from_numpy(bank).float()
