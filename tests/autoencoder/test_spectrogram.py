"""The representation and its inverse."""

import pytest
import torch

from autoencoder.spectrogram import ComplexSpectrogram
from tests.conftest import tone


def test_a_round_trip_is_exact_between_the_faded_ends() -> None:
    spectrogram = ComplexSpectrogram()
    time = torch.arange(spectrogram.num_samples(80)) / 44_100
    waveform = 0.3 * torch.sin(2 * torch.pi * torch.tensor([[440.0], [5000.0]]) * time)
    back = spectrogram.inverse(spectrogram(waveform))
    assert back.shape == waveform.shape
    error = (back - waveform)[:, spectrogram.overlap : -spectrogram.overlap]
    ratio = error.square().mean() / waveform.square().mean()
    assert 10 * ratio.log10() < -100


def test_a_frame_covers_its_own_samples_without_padding() -> None:
    spectrogram, waveform = ComplexSpectrogram(), torch.zeros(1, 2048 + 3 * 512)
    waveform[0, 2048 + 2 * 512 :] = 1.0  # only the last frame reaches here
    magnitude = spectrogram(waveform).square().sum((0, 1, 2))
    assert magnitude.shape == (4,)
    torch.testing.assert_close(magnitude[:3], torch.zeros(3), rtol=0, atol=1e-12)
    assert magnitude[3] > 0


def test_a_sine_lands_in_its_bin() -> None:
    magnitude = ComplexSpectrogram()(tone(44_100 / 2048 * 100, 0.5)).square().sum(1)[0]
    assert (magnitude.argmax(0) == 100).all()


def test_amplitudes_are_compressed() -> None:
    spectrogram, waveform = ComplexSpectrogram(), tone(1000.0, 0.5)
    ratio = spectrogram(waveform * 0.01)[0, :, 46] / spectrogram(waveform)[0, :, 46]
    torch.testing.assert_close(ratio, torch.full_like(ratio, 0.01**0.65), rtol=1e-3, atol=0)


def test_silence_is_zero_both_ways_with_finite_gradients() -> None:
    spectrogram = ComplexSpectrogram()
    waveform = torch.zeros(1, spectrogram.num_samples(4), requires_grad=True)
    representation = spectrogram(waveform)
    back = spectrogram.inverse(representation)
    torch.testing.assert_close(representation, torch.zeros_like(representation))
    torch.testing.assert_close(back, torch.zeros_like(back))
    (representation.sum() + back.sum()).backward()
    assert waveform.grad.isfinite().all()


def test_half_precision_input_is_computed_in_float32() -> None:
    assert ComplexSpectrogram()(tone(440.0, 0.2).bfloat16()).dtype == torch.float32


def test_too_few_samples_for_a_frame_are_refused() -> None:
    with pytest.raises(ValueError, match="n_fft = 2048 samples, got 100"):
        ComplexSpectrogram()(torch.zeros(1, 100))
