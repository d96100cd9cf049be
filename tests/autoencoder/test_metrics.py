"""Distances against values known from elsewhere."""

import math

import pytest
import torch

from autoencoder.metrics import (
    level_difference,
    log_mel,
    log_mel_correlation,
    log_mel_distance,
    multi_resolution_stft_distance,
    multi_resolution_stft_distances,
    si_sdr,
)
from tests.conftest import SAMPLE_RATE, tone


def test_equal_waveforms_have_no_distance() -> None:
    waveform = tone(440.0, 0.5)
    assert log_mel_distance(waveform, waveform, SAMPLE_RATE) == 0
    assert multi_resolution_stft_distance(waveform, waveform) == 0
    assert log_mel_correlation(waveform, waveform, SAMPLE_RATE) == pytest.approx(1)


def test_a_gain_shifts_level_and_log_mel_and_keeps_the_correlation() -> None:
    waveform = 0.3 * torch.randn(1, 20_000)
    assert level_difference(0.5 * waveform, waveform) == pytest.approx(20 * math.log10(0.5), abs=1e-3)
    assert log_mel_distance(0.5 * waveform, waveform, SAMPLE_RATE) == pytest.approx(math.log(2), rel=1e-2)
    assert log_mel_correlation(0.5 * waveform, waveform, SAMPLE_RATE) == pytest.approx(1, abs=1e-3)


def test_distances_of_a_batch_are_those_of_its_items_and_have_gradients() -> None:
    reference = torch.stack([tone(440.0, 0.5), tone(660.0, 0.5), torch.zeros(1, 22_050)])
    estimate = (reference + 0.01 * torch.randn(reference.shape)).requires_grad_()
    distances = multi_resolution_stft_distances(estimate, reference)
    alone = [multi_resolution_stft_distance(*pair) for pair in zip(estimate.detach(), reference, strict=True)]
    assert distances.tolist() == pytest.approx(alone, rel=1e-5)
    distances.sum().backward()
    assert estimate.grad.isfinite().all()
    assert (estimate.grad.flatten(1).abs().sum(1) > 0).all()


def test_si_sdr_of_a_known_mixture() -> None:
    time = torch.arange(44_100) / 44_100
    signal, error = torch.sin(2 * torch.pi * 100 * time)[None], torch.sin(2 * torch.pi * 333 * time)[None]
    assert si_sdr(signal + 0.1 * error, signal) == pytest.approx(20, abs=0.01)
    assert si_sdr(5 * (signal + 0.1 * error), signal) == pytest.approx(20, abs=0.01)


def test_a_higher_tone_lies_in_a_higher_band() -> None:
    bands = [log_mel(tone(frequency, 0.3), SAMPLE_RATE)[0].mean(-1).argmax().item() for frequency in (200, 1000, 8000)]
    assert bands == sorted(set(bands))
