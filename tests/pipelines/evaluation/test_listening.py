"""Loudness, width, silence, clipping and ViSQOL against values known from elsewhere."""

import math

import pytest
import torch

from pipelines.evaluation.listening import clipping_rate, loudness, side_level, silence_rate, visqol
from pipelines.evaluation.novelty import loop_seam_rank, seam_rank
from tests.conftest import SAMPLE_RATE, tone


def test_loudness_of_the_reference_tone() -> None:
    # EBU Tech 3341, case 1: a stereo sine of 1 kHz at -23 dBFS is -23 LUFS
    time = torch.arange(5 * 48_000) / 48_000
    sine = 10 ** (-23 / 20) * torch.sin(2 * torch.pi * 1000 * time)
    assert loudness(sine.expand(2, -1), 48_000) == pytest.approx(-23, abs=0.1)
    assert loudness(torch.zeros(1, 48_000), 48_000) == -70
    assert math.isnan(loudness(sine[None, :1000], 48_000))


def test_side_level_of_known_mixtures() -> None:
    left, right = torch.randn(2, 20_000, generator=torch.Generator().manual_seed(0))
    assert side_level(torch.stack([left, right])) == pytest.approx(0, abs=0.2)
    assert side_level(torch.stack([left, left])) == pytest.approx(-60)
    assert side_level(torch.stack([left, 0.5 * left])) == pytest.approx(20 * math.log10(0.5 / 1.5), abs=1e-3)
    assert math.isnan(side_level(left[None]))


def test_silent_and_clipped_parts_are_counted() -> None:
    waveform = tone(440, 2.0)
    waveform[:, :SAMPLE_RATE] = 0
    assert silence_rate(waveform, SAMPLE_RATE) == pytest.approx(0.5, abs=0.06)
    flat = torch.zeros(1, 1000)
    flat[0, 100:110] = 1.0
    flat[0, 500] = -1.0  # a single peak does not count
    assert clipping_rate(flat) == pytest.approx(10 / 1000)


def test_visqol_is_at_its_top_for_equal_audio_and_falls_with_noise() -> None:
    waveform = tone(440, 2.0, channels=2) + 0.1 * tone(1000, 2.0, channels=2)
    noisy = waveform + 0.1 * torch.randn(waveform.shape)
    assert visqol(waveform, waveform, SAMPLE_RATE) == pytest.approx(4.73, abs=0.02)
    assert visqol(noisy, waveform, SAMPLE_RATE) < 3


def test_a_cut_shows_as_a_seam_and_a_smooth_place_does_not() -> None:
    noise = torch.Generator().manual_seed(0)
    smooth = 0.1 * torch.randn(1, 3 * SAMPLE_RATE, generator=noise)
    cut = smooth.clone()
    cut[:, SAMPLE_RATE:] *= 20
    assert seam_rank(cut, SAMPLE_RATE, 1.0) > 0.99
    assert seam_rank(smooth, SAMPLE_RATE, 1.5) < 0.95
    assert loop_seam_rank(cut, SAMPLE_RATE) > 0.95  # the loop jumps back from loud to soft
    with pytest.raises(ValueError, match=r"inside of the piece of 3\.00 s, got 3\.0 s"):
        seam_rank(cut, SAMPLE_RATE, 3.0)
