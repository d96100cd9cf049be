"""Deterministic weights, waveforms and noise for checking parity with the published Music2Latent checkpoint format.

The published weights are not stored here. Instead every parameter of the published state dict (names and shapes in
``state_dict_shapes.json``) is filled by a function of (seed, parameter name), and ``vectors_*.npz`` holds what the
published network computed with those weights. A converter and an implementation are right when they reproduce them.

    python reference.py music2latent_seed11.pt --seed 11     # writes {"gen_state_dict": {...}} as the published file does

Contents of vectors_*.npz (all float32 unless said; spectrogram axes are (batch, real/imaginary, 1024 bins, frames)):
    seed, sigma_mid                      what to pass below
    waveform (samples,)                  test_waveform(samples, seed)
    spectrogram_first_frames (2, 1024, 2), spectrogram_abs_mean, spectrogram_sum    of the cropped waveform
    features_shape, features_abs_mean, features_corner (64, 4)                      encoder features, [0, :64, :4]
    latents (1, 64, frames/8)            already divided by 0.06
    pyramid_shapes, pyramid_abs_mean     the five conditioning maps, full resolution first
    decoded_waveform (1, samples)        one step from 80 * unit_noise(seed, frames)[0], clamped
    denoised_at_sigma_max_corner (2, 48, 8), denoised_at_sigma_max_abs_mean         that step's spectrogram, [0, :, :48, :8]
    denoised_at_sigma_mid_corner (2, 48, 8), denoised_at_sigma_mid_abs_mean         D(step + sigma_mid * unit_noise(...)[1], sigma_mid)
Float32 on a CPU reproduces latents to about 1e-4 and the decoded waveform to about 1e-5, absolute.
"""

import argparse
import json
import zlib
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent


def reference_weights(seed: int) -> dict[str, torch.Tensor]:
    """State dict in the published layout. No parameter is zero, so that no path can be left out unnoticed."""
    state = {}
    for name, shape in json.loads((HERE / "state_dict_shapes.json").read_text()).items():
        rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
        values = rng.standard_normal(shape, dtype=np.float32)
        if name.endswith("bias"):
            values *= 0.05
        elif len(shape) == 1 or name.endswith("gain.scale"):
            values = 1 + 0.1 * values
        else:
            values /= np.sqrt(np.prod(shape[1:]))
        state[name] = torch.from_numpy(values.astype(np.float32))
    return state


def test_waveform(samples: int, seed: int) -> np.ndarray:
    """Mono float32 in [-1, 1] at 44.1 kHz: decaying partials, a chirp and a little noise."""
    rng = np.random.Generator(np.random.PCG64(seed + 1000))
    t = np.arange(samples) / 44100
    x = np.zeros(samples)
    for f0 in rng.uniform(80, 900, 4):
        onset = rng.uniform(0, t[-1] * 0.6)
        for k in range(1, 9):
            x += (
                (t > onset)
                * np.exp(-3 * np.clip(t - onset, 0, None))
                * np.sin(2 * np.pi * k * f0 * t + rng.uniform(0, 6))
                / k
            )
    x += 0.3 * np.sin(2 * np.pi * (200 * t + 3000 * t**2)) + 0.05 * rng.standard_normal(samples)
    return (0.7 * x / np.abs(x).max()).astype(np.float32)


def unit_noise(seed: int, frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The two (1, 2, 1024, frames) noises that the vectors were made with: for sigma_max, then for sigma_mid."""
    rng = np.random.Generator(np.random.PCG64(seed + 2000))
    draw = lambda: torch.from_numpy(rng.standard_normal((1, 2, 1024, frames), dtype=np.float32))  # noqa: E731
    return draw(), draw()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--seed", type=int, default=11)
    args = parser.parse_args()
    torch.save({"gen_state_dict": reference_weights(args.seed)}, args.output)
