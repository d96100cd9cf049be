"""Rectified flow: path, velocity, times and loss, as pure functions of tensors.

Symbols
    t         time in [0, 1]: 0 is data, 1 is noise (diffusers' sigma)
    x0        clean latents, normalised
    noise     unit Gaussian
    x         ``(1 - t) * x0 + t * noise``
    velocity  dx/dt = ``noise - x0``, what the network predicts

Sources
    RF    Liu et al. 2022, https://arxiv.org/abs/2209.03003
    SD3   Esser et al. 2024, https://arxiv.org/abs/2403.03206 (logit-normal times)
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def interpolate(
    x0: Float[Tensor, "batch channels frames"],
    noise: Float[Tensor, "batch channels frames"],
    t: Float[Tensor, " batch"],
) -> Float[Tensor, "batch channels frames"]:
    """Point of the straight path from data to noise at time ``t`` of each item (RF eq. 1)."""
    t = t[:, None, None]
    return (1 - t) * x0 + t * noise


def velocity(
    x0: Float[Tensor, "batch channels frames"], noise: Float[Tensor, "batch channels frames"]
) -> Float[Tensor, "batch channels frames"]:
    """Constant speed of the straight path."""
    return noise - x0


def logit_normal(normal: Float[Tensor, " batch"], mean: float, std: float) -> Float[Tensor, " batch"]:
    """Turn unit Gaussian numbers into times, most in the middle where prediction is hardest (SD3 sec. 3.1)."""
    return torch.sigmoid(mean + std * normal)


def flow_loss(
    predicted: Float[Tensor, "batch channels frames"],
    target: Float[Tensor, "batch channels frames"],
    mask: Bool[Tensor, "batch frames"],
) -> Float[Tensor, " batch"]:
    """Mean squared error of the velocity over each item's real frames; padding counts for nothing."""
    per_frame = (predicted.float() - target.float()).square().mean(1)
    return (per_frame * mask).sum(1) / mask.sum(1)
