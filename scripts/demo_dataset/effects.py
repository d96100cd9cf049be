"""The sound of an old tape and record player, for lofi, and the loudness of every clip.

All functions take and return float32 waveforms (samples, channels). They are zero-phase or shorter than a few
milliseconds, so beats stay where they are.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

TARGET_RMS = 10 ** (-18 / 20)
"""-18 dBFS: leaves headroom for drums, and is near the level of the recorded sources."""
MAX_PEAK = 0.9
"""Leaves room for lossy formats: Vorbis at quality 0.2 came back up to 7 % louder at its peaks."""
MIN_RMS = 10 ** (-50 / 20)
"""Quieter clips are called silent: normalising them would only bring up noise."""


def rms(waveform: np.ndarray) -> float:
    """Root mean square over all samples and channels."""
    return float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))


def normalise(waveform: np.ndarray) -> np.ndarray:
    """Scale to ``TARGET_RMS``, or less where the peak would pass ``MAX_PEAK``; never clips.

    Raises:
        ValueError: the waveform is silent.
    """
    level = rms(waveform)
    if level < MIN_RMS:
        raise ValueError(f"expected a waveform above {MIN_RMS:.4f} RMS, got {level:.2g}: it is silent")
    gain = min(TARGET_RMS / level, MAX_PEAK / float(np.abs(waveform).max()))
    return (waveform * gain).astype(np.float32)


def tape_wow(waveform: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Slow (wow) and fast (flutter) changes of speed, about 0.3 % and 0.05 %."""
    seconds = np.arange(len(waveform)) / sample_rate
    delay = np.zeros(len(waveform))
    for rate, speed in ((rng.uniform(0.4, 0.9), 0.003), (rng.uniform(5, 8), 0.0005)):
        delay += speed / (2 * np.pi * rate) * np.sin(2 * np.pi * (rate * seconds + rng.random()))
    places = np.clip(seconds - delay, 0, seconds[-1]) * sample_rate
    grid = np.arange(len(waveform))
    return np.stack([np.interp(places, grid, channel) for channel in waveform.T], axis=1).astype(np.float32)


def tape_saturation(waveform: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Soft limiting by a tanh, driven by 3 to 8 dB over the loudest sample's level."""
    drive = 10 ** (rng.uniform(3, 8) / 20)
    return np.tanh(waveform * (drive / max(float(np.abs(waveform).max()), 1e-9))).astype(np.float32)


def low_pass(waveform: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Second-order Butterworth magnitude without phase, corner 3 to 8 kHz."""
    corner = rng.uniform(3000, 8000)
    padded = len(waveform) + sample_rate // 10
    spectrum = np.fft.rfft(waveform, padded, axis=0)
    frequency = np.fft.rfftfreq(padded, 1 / sample_rate)[:, None]
    filtered = np.fft.irfft(spectrum / np.sqrt(1 + (frequency / corner) ** 4), padded, axis=0)
    return filtered[: len(waveform)].astype(np.float32)


def vinyl_crackle(waveform: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Pops at random times and a little hiss, relative to the level of the music."""
    level = max(rms(waveform), 1e-9)
    num_pops = rng.poisson(rng.uniform(8, 25) * len(waveform) / sample_rate)
    pops = np.zeros(len(waveform))
    pops[rng.integers(len(waveform), size=num_pops)] = rng.normal(0, 1, num_pops) * rng.exponential(1, num_pops)
    decay = np.exp(-np.arange(sample_rate // 500) / (sample_rate * 0.0004))
    noise = 0.7 * level * np.convolve(pops, decay)[: len(waveform)] + 0.012 * level * rng.normal(size=len(waveform))
    return (waveform + noise[:, None]).astype(np.float32)


EFFECTS: Mapping[str, Callable[[np.ndarray, int, np.random.Generator], np.ndarray]] = {
    "tape wow": tape_wow,
    "tape saturation": tape_saturation,
    "low-pass filter": low_pass,
    "vinyl crackle": vinyl_crackle,
}
"""Names as they stand in the metadata."""


def apply(waveform: np.ndarray, names: Sequence[str], sample_rate: int, seed: int) -> np.ndarray:
    """Apply effects in the order given."""
    rng = np.random.default_rng(seed)
    for name in names:
        waveform = EFFECTS[name](waveform, sample_rate, rng)
    return waveform
