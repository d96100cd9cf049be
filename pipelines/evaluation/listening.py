"""What a listener would notice first: quality beside the original (ViSQOL), loudness, width, silence, clipping.

Sources
    V20      Chinen et al. 2020, ViSQOL v3, https://arxiv.org/abs/2004.09584
    BS1770   ITU-R BS.1770-4, loudness
"""

from functools import cache
from typing import Any

import numpy as np
import pyloudnorm
import soxr
import torch
from jaxtyping import Float
from torch import Tensor

VISQOL_RATE = 48_000
MIN_LOUDNESS = -70.0  # LUFS; the absolute gate of BS1770, reported for silence
SILENCE_DB = -60.0
SILENCE_FRAME_SECONDS = 0.1
CLIPPED = 0.999  # of full scale
CLIPPED_RUN = 3  # so many full-scale samples in a row count as clipped; one alone may be a peak


def visqol(
    estimate: Float[Tensor, "channels samples"], reference: Float[Tensor, "channels samples"], sample_rate: int
) -> float:
    """MOS-LQO from 1 to about 4.75 in audio mode at 48 kHz, of the mono mix (V20)."""
    pair = [
        soxr.resample(waveform.mean(0).cpu().numpy().astype(np.float64), sample_rate, VISQOL_RATE)
        for waveform in (reference, estimate)
    ]
    return float(_visqol().measure_from_arrays(*pair, VISQOL_RATE).moslqo)


@cache
def _visqol() -> Any:
    from visqol import VisqolApi

    api = VisqolApi()
    api.create(mode="audio")
    return api


def loudness(waveform: Float[Tensor, "channels samples"], sample_rate: int) -> float:
    """Integrated loudness in LUFS, at least -70; NaN where the audio is shorter than a block of 0.4 s."""
    if waveform.shape[-1] < 0.4 * sample_rate:
        return float("nan")
    samples = waveform.cpu().double().numpy().T
    value = pyloudnorm.Meter(sample_rate).integrated_loudness(samples) if np.any(samples) else -np.inf
    return max(float(value), MIN_LOUDNESS)


def side_level(waveform: Float[Tensor, "channels samples"]) -> float:
    """Energy of the difference of left and right against that of their sum, in dB; NaN if not stereo or silent."""
    if len(waveform) != 2:
        return float("nan")
    middle, side = (waveform[0] + waveform[1]).square().sum(), (waveform[0] - waveform[1]).square().sum()
    if middle + side == 0:
        return float("nan")
    return 10 * torch.log10((side / middle.clamp(min=1e-12)).clamp(min=1e-6)).item()


def silence_rate(waveform: Float[Tensor, "channels samples"], sample_rate: int) -> float:
    """Part of the audio, in frames of 0.1 s, whose RMS is below -60 dB of full scale in all channels."""
    size = min(round(SILENCE_FRAME_SECONDS * sample_rate), waveform.shape[-1])
    rms = waveform.unfold(-1, size, size).square().mean(-1).sqrt()
    return (rms < 10 ** (SILENCE_DB / 20)).all(0).float().mean().item()


def clipping_rate(waveform: Float[Tensor, "channels samples"]) -> float:
    """Part of the samples that lie in runs of three and more at full scale."""
    full = (waveform.abs() >= CLIPPED).float()
    if full.shape[-1] < CLIPPED_RUN:
        return 0.0
    runs = full.unfold(-1, CLIPPED_RUN, 1).amin(-1)  # 1 where a run begins
    padded = torch.nn.functional.pad(runs, (CLIPPED_RUN - 1, CLIPPED_RUN - 1))
    return padded.unfold(-1, CLIPPED_RUN, 1).amax(-1).mean().item()
