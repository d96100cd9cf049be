"""Consistency training: noise levels, preconditioning and the loss.

Pure functions of tensors. Nothing here knows the networks or the audio representation, so every line can be tested
with a one-line toy denoiser.

Symbols
    sigma     standard deviation of the added noise, in units of the compressed spectrogram
    t         position on the noise ramp: 0 is ``sigma_min`` (almost clean), 1 is ``sigma_max`` (almost pure noise)
    gap       distance in ``t`` between the two noise levels that are made to agree
    progress  part of the training that is done, from 0 to 1
    x0        clean item; the noisy item is ``x = x0 + sigma * noise``

Sources
    EDM   Karras et al. 2022, https://arxiv.org/abs/2206.00364
    CM    Song et al. 2023, https://arxiv.org/abs/2303.01469
    iCT   Song and Dhariwal 2023, https://arxiv.org/abs/2310.14189
    M2L   Pasini et al. 2024, https://arxiv.org/abs/2408.06500
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class NoiseRamp:
    """Power-law map between ramp position ``t`` in [0, 1] and noise level ``sigma`` (EDM eq. 5, ``t`` reversed)."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(
                f"need 0 < sigma_min < sigma_max, got sigma_min={self.sigma_min} and sigma_max={self.sigma_max}"
            )

    def sigma(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Noise level at ramp position ``t``."""
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return (low + t * (high - low)) ** self.rho

    def t(self, sigma: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Ramp position of noise level ``sigma``."""
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return (sigma ** (1 / self.rho) - low) / (high - low)


class Preconditioning(NamedTuple):
    """Scales that turn a raw network into a denoiser: ``c_skip * x + c_out * network(c_in * x, sigma)``."""

    c_skip: Float[Tensor, "*shape"]
    c_out: Float[Tensor, "*shape"]
    c_in: Float[Tensor, "*shape"]


def precondition(sigma: Float[Tensor, "*shape"], sigma_min: float, sigma_data: float) -> Preconditioning:
    """EDM preconditioning, shifted so that the denoiser is exactly the identity at ``sigma_min`` (CM, appendix C).

    ``sigma_data`` is the standard deviation of the clean data that the network is trained on.
    """
    excess = sigma - sigma_min
    total = sigma**2 + sigma_data**2
    return Preconditioning(
        c_skip=sigma_data**2 / (excess**2 + sigma_data**2),
        c_out=sigma_data * excess / total.sqrt(),
        c_in=total.rsqrt(),
    )


@dataclass(frozen=True)
class NoiseDensity:
    """Distribution of the noisier level of each pair over the ramp (M2L; density over ``t``, not over ``log sigma``).

    The weight of a position ``t`` is the normal density of ``log sigma(t)`` with ``log_mean`` and ``log_std``. Because
    it is taken over ``t`` without a Jacobian this is not a log-normal distribution of sigma: the median of sigma is
    0.58 where a log-normal with the same parameters has 0.33.
    """

    ramp: NoiseRamp
    log_mean: float = -1.1
    log_std: float = 2.0
    grid_size: int = 4096

    def t(self, uniform: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Turn uniform numbers in [0, 1) into ramp positions by the inverse of the cumulative weight."""
        grid = torch.linspace(0, 1, self.grid_size + 1, dtype=torch.float32, device=uniform.device)
        centres = (grid[1:] + grid[:-1]) / 2
        weight = torch.exp(-((self.ramp.sigma(centres).log() - self.log_mean) ** 2) / (2 * self.log_std**2))
        cumulative = torch.nn.functional.pad(weight.cumsum(0) / weight.sum(), (1, 0))
        upper = torch.searchsorted(cumulative, uniform.contiguous()).clamp(1, self.grid_size)
        low, high = cumulative[upper - 1], cumulative[upper]
        return grid[upper - 1] + (uniform - low) / (high - low).clamp(min=1e-12) / self.grid_size


@dataclass(frozen=True)
class GapSchedule:
    """Gap between the two noise levels of a pair; it narrows exponentially while training goes on (M2L).

    The published one is ``0.1 ** (1 + 2 * progress)``, from 0.1 to 0.001. The schedule has to finish: a run stopped at
    a tenth of it is not a tenth as good, it is unusable. A first gap of 1 starts as a plain denoiser, whose target is
    the clean item (ECT, https://arxiv.org/abs/2406.14548).
    """

    first: float = 0.1
    last: float = 0.001

    def __post_init__(self) -> None:
        if not 0 < self.last <= self.first <= 1:
            raise ValueError(f"need 0 < last <= first <= 1, got first={self.first} and last={self.last}")

    def __call__(self, progress: float) -> float:
        if not 0 <= progress <= 1:
            raise ValueError(f"progress is the part of the training that is done, from 0 to 1; got {progress}")
        return self.first * (self.last / self.first) ** progress


def pseudo_huber(difference: Float[Tensor, "batch *shape"], huber_c: float) -> Float[Tensor, " batch"]:
    """``sqrt(sum(d^2) + c^2) - c`` of each item: quadratic near zero, the plain norm far from it (iCT eq. 7)."""
    return (difference.flatten(1).square().sum(1) + huber_c**2).sqrt() - huber_c


def huber_constant(values_per_item: int) -> float:
    """Knee of the pseudo-Huber distance for items of this many values (iCT sec. 3.3)."""
    return 0.00054 * math.sqrt(values_per_item)


def per_item(values: Float[Tensor, " batch"], like: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch *ones"]:
    """Append axes of length one, so that one number per item broadcasts against ``like``."""
    return values.view(-1, *[1] * (like.ndim - 1))


def consistency_loss(
    denoise: Callable[[Tensor, Tensor], Tensor],
    x0: Float[Tensor, "batch *shape"],
    noise: Float[Tensor, "batch *shape"],
    sigma_low: Float[Tensor, " batch"],
    sigma_high: Float[Tensor, " batch"],
) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch *shape"]]:
    """Make ``denoise`` agree with itself at two neighbouring noise levels of the same trajectory.

    The less noisy side is the target and gets no gradient. The weight ``1 / (sigma_high - sigma_low)`` keeps the loss
    comparable while the two levels are brought together during training (iCT sec. 3.4).

    Args:
        denoise: ``denoise(x, sigma)``, an estimate of ``x0``; already preconditioned.
        x0: clean items.
        noise: unit Gaussian noise, shared by both levels.
        sigma_low: target noise level of each item.
        sigma_high: student noise level of each item, above ``sigma_low``.

    Returns:
        One loss per item, a sum over its values, so that the caller can log it against ``sigma_high``; and the
        student's estimate of ``x0``.
    """
    with torch.no_grad():
        target = denoise(x0 + per_item(sigma_low, x0) * noise, sigma_low)
    student = denoise(x0 + per_item(sigma_high, x0) * noise, sigma_high)
    distance = pseudo_huber(student.float() - target.float(), huber_constant(x0[0].numel()))
    return distance / (sigma_high - sigma_low), student
