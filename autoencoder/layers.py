"""Blocks that the encoder, the latent decoder and the denoiser are built from.

Two-dimensional blocks work on (batch, channels, bins, frames), one-dimensional ones on (batch, channels, frames). Time
is mixed only by 3-wide convolutions and by GroupNorm, whose statistics run over all frames given: the output depends
on how much audio is processed together.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

Conv = type[nn.Conv1d] | type[nn.Conv2d]


def group_norm(channels: int) -> nn.GroupNorm:
    """Normalisation with four channels to a group, and at most 32 groups."""
    return nn.GroupNorm(max(1, min(channels // 4, 32)), channels)


def zero_init(layer: nn.Module) -> nn.Module:
    """Fill the parameters of a layer with zeros, so that its branch is silent at the start of training."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class FrequencyAttention(nn.Module):
    """Self-attention over the frequency bins of each frame on its own: it never mixes frames."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = group_norm(channels)
        self.to_qkv = nn.Linear(channels, 3 * channels)
        self.to_out = zero_init(nn.Linear(channels, channels))

    def forward(self, x: Float[Tensor, "batch channels bins frames"]) -> Float[Tensor, "batch channels bins frames"]:
        qkv = self.to_qkv(rearrange(self.norm(x), "b c f t -> (b t) f c"))
        query, key, value = rearrange(qkv, "n f (qkv h d) -> qkv n h f d", qkv=3, h=self.num_heads)
        mixed = F.scaled_dot_product_attention(query, key, value)
        mixed = self.to_out(rearrange(mixed, "n h f d -> n f (h d)"))
        return x + rearrange(mixed, "(b t) f c -> b c f t", b=len(x))


class ResBlock(nn.Module):
    """Two normalised convolutions beside a skip connection, then frequency attention if it has heads."""

    def __init__(self, in_channels: int, out_channels: int, num_heads: int = 0, conv: Conv = nn.Conv2d) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels)
        self.conv1 = conv(in_channels, out_channels, 3, padding=1)
        self.norm2 = group_norm(out_channels)
        self.conv2 = zero_init(conv(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Identity() if in_channels == out_channels else conv(in_channels, out_channels, 1)
        self.attn = FrequencyAttention(out_channels, num_heads) if num_heads else nn.Identity()

    def forward(self, x: Float[Tensor, "batch channels *shape"]) -> Float[Tensor, "batch out_channels *shape"]:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return self.attn(self.skip(x) + h)


class GuidedBlock(nn.Module):
    """A residual block of the denoiser: it is told the latents by a map and the noise level by an embedding.

    ``num_inputs`` counts what is summed in front (the running tensor, the map, and the skip where there is one), so
    that the sum keeps its variance.
    """

    def __init__(self, channels: int, embedding_dim: int, num_heads: int, num_inputs: int) -> None:
        super().__init__()
        self.num_inputs = num_inputs
        self.map_proj = nn.Conv2d(channels, channels, 1)
        self.norm1 = group_norm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.embedding_proj = zero_init(nn.Linear(embedding_dim, channels))
        self.norm2 = group_norm(channels)
        self.conv2 = zero_init(nn.Conv2d(channels, channels, 3, padding=1))
        self.attn = FrequencyAttention(channels, num_heads) if num_heads else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "batch channels bins frames"],
        conditioning_map: Float[Tensor, "batch channels bins frames"],
        embedding: Float[Tensor, "batch embedding_dim"],
    ) -> Float[Tensor, "batch channels bins frames"]:
        x = (x + self.map_proj(conditioning_map)) / math.sqrt(self.num_inputs)
        h = self.conv1(F.silu(self.norm1(x))) + self.embedding_proj(embedding)[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return self.attn(x + h)


def resampling_conv(
    in_channels: int, out_channels: int, factors: tuple[int, int], stride: tuple[int, int]
) -> nn.Conv2d:
    """Convolution for a change of resolution by ``factors`` (bins, frames): 5 wide for 4, 3 for 2, 1 for 1."""
    tall, wide = (factor + 1 if factor > 1 else 1 for factor in factors)
    return nn.Conv2d(in_channels, out_channels, (tall, wide), stride, padding=(tall // 2, wide // 2))


class Downsample(nn.Module):
    """Strided convolution to fewer bins and frames."""

    def __init__(self, in_channels: int, out_channels: int, factors: tuple[int, int], has_norm: bool) -> None:
        super().__init__()
        self.norm = group_norm(in_channels) if has_norm else nn.Identity()
        self.conv = resampling_conv(in_channels, out_channels, factors, stride=factors)

    def forward(self, x: Float[Tensor, "batch channels bins frames"]) -> Float[Tensor, "batch out_channels low short"]:
        return self.conv(self.norm(x))


class Upsample(nn.Module):
    """Nearest-neighbour repetition to more bins and frames, then a convolution."""

    def __init__(self, in_channels: int, out_channels: int, factors: tuple[int, int]) -> None:
        super().__init__()
        self.factors = factors
        self.conv = resampling_conv(in_channels, out_channels, factors, stride=(1, 1))

    def forward(self, x: Float[Tensor, "batch channels bins frames"]) -> Float[Tensor, "batch out_channels high long"]:
        x = x.repeat_interleave(self.factors[0], dim=2)
        if self.factors[1] > 1:
            x = x.repeat_interleave(self.factors[1], dim=3)
        return self.conv(x)


def noise_level_features(sigma: Float[Tensor, " batch"], dim: int) -> Float[Tensor, "batch dim"]:
    """Sines, then cosines, of ``log(sigma) / 4`` at ``dim / 2`` frequencies from 1 down to 1/10000."""
    exponents = torch.arange(dim // 2, dtype=torch.float32, device=sigma.device) / (dim // 2 - 1)
    angles = (sigma.float().log() / 4)[:, None] * 10_000.0**-exponents
    return torch.cat([angles.sin(), angles.cos()], dim=1)
