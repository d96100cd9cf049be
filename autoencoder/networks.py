"""The three networks of Music2Latent: encoder, latent decoder and denoiser (M2L sec. 3.2).

A level is a resolution: level 0 is the full spectrogram, each further one has fewer bins and frames. ``channels``
holds the width of each level, ``factors`` the (bins, frames) reduction between each level and the next.

Sources
    M2L   Pasini et al. 2024, https://arxiv.org/abs/2408.06500
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from autoencoder.layers import (
    Downsample,
    GroupNorm,
    GuidedBlock,
    ResBlock,
    Upsample,
    add,
    multiply,
    noise_level_features,
    silu,
    zero_init,
)

Spectrogram = Float[Tensor, "batch 2 bins frames"]
Maps = Sequence[Float[Tensor, "batch _ _ _"]]


@dataclass(frozen=True)
class Levels:
    """Shape of the resolution pyramid that all three networks share."""

    num_bins: int
    channels: tuple[int, ...]
    factors: tuple[tuple[int, int], ...]
    num_heads: tuple[int, ...]
    """Attention heads per level; 0 for a level without attention."""

    def __post_init__(self) -> None:
        if not len(self.channels) == len(self.num_heads) == len(self.factors) + 1:
            raise ValueError(
                f"{len(self.channels)} levels of channels need as many entries of attention heads and one fewer "
                f"down-sampling factors, got {len(self.num_heads)} and {len(self.factors)}"
            )
        if self.num_bins % math.prod(factor for factor, _ in self.factors):
            raise ValueError(f"the frequency factors {self.factors} do not divide {self.num_bins} bins")

    @property
    def bottom_bins(self) -> int:
        """Frequency bins of the deepest level."""
        return self.num_bins // math.prod(factor for factor, _ in self.factors)

    @property
    def features_dim(self) -> int:
        """Values per frame of the deepest level."""
        return self.bottom_bins * self.channels[-1]

    @property
    def frames_per_latent(self) -> int:
        """Spectrogram frames that share one latent frame."""
        return math.prod(factor for _, factor in self.factors)


class Encoder(nn.Module):
    """Spectrogram -> latents in [-1, 1]."""

    def __init__(
        self, levels: Levels, latent_channels: int, bottleneck_channels: int, num_bottleneck_blocks: int
    ) -> None:
        super().__init__()
        channels, width = levels.channels, bottleneck_channels
        self.conv_in = nn.Conv2d(2, channels[0], 3, padding=1)
        self.gain = nn.Parameter(torch.ones(1, 1, levels.num_bins, 1))
        self.blocks = nn.ModuleList(
            ResBlock(channels[max(level - 1, 0)], channels[level], levels.num_heads[level])
            for level in range(len(channels))
        )
        self.downsamplers = nn.ModuleList(
            Downsample(channels[level], channels[level], factors, has_norm=True)
            for level, factors in enumerate(levels.factors)
        )
        self.norm_features = GroupNorm(channels[-1])
        self.bottleneck_in = nn.Conv1d(levels.features_dim, width, 1)
        self.bottleneck = nn.Sequential(
            *(ResBlock(width, width, conv=nn.Conv1d) for _ in range(num_bottleneck_blocks))
        )
        self.norm_out = GroupNorm(width)
        self.conv_out = nn.Conv1d(width, latent_channels, 1)

    def features(self, spectrogram: Spectrogram) -> Float[Tensor, "batch features latent_frames"]:
        """Normalised output of the deepest level, channel-major; the input of the bottleneck."""
        h = self.conv_in(spectrogram.contiguous(memory_format=torch.channels_last))
        h = multiply(h, self.gain.to(h.dtype))  # else autocast's bfloat16 would end here
        h = self.blocks[0](h)
        for downsample, block in zip(self.downsamplers, self.blocks[1:], strict=True):
            h = block(downsample(h))
        return self.norm_features(h, is_disposable=True).flatten(1, 2)

    def forward(self, spectrogram: Spectrogram) -> Float[Tensor, "batch latent_channels latent_frames"]:
        h = self.bottleneck(self.bottleneck_in(self.features(spectrogram)))
        return self.conv_out(silu(self.norm_out(h))).tanh()


class LatentDecoder(nn.Module):
    """Latents -> one conditioning map per level, full resolution first."""

    def __init__(
        self, levels: Levels, latent_channels: int, bottleneck_channels: int, num_bottleneck_blocks: int
    ) -> None:
        super().__init__()
        channels, width = levels.channels, bottleneck_channels
        self.bottom_bins = levels.bottom_bins
        self.conv_in = nn.Conv1d(latent_channels, width, 1)
        self.bottleneck = nn.Sequential(
            *(ResBlock(width, width, conv=nn.Conv1d) for _ in range(num_bottleneck_blocks))
        )
        self.bottleneck_out = nn.Conv1d(width, levels.features_dim, 1)
        self.blocks = nn.ModuleList(
            ResBlock(width, width, num_heads) for width, num_heads in zip(channels, levels.num_heads, strict=True)
        )
        self.upsamplers = nn.ModuleList(
            Upsample(channels[level + 1], channels[level], factors) for level, factors in enumerate(levels.factors)
        )

    def forward(self, latents: Float[Tensor, "batch latent_channels latent_frames"]) -> list[Tensor]:
        h = self.bottleneck_out(self.bottleneck(self.conv_in(latents)))
        # bin-major here while the encoder's features are channel-major: the published weights demand it
        h = rearrange(h, "b (f c) t -> b c f t", f=self.bottom_bins)
        h = h.contiguous(memory_format=torch.channels_last)
        maps = [self.blocks[-1](h)]
        for block, upsample in zip(reversed(self.blocks[:-1]), reversed(self.upsamplers), strict=True):
            maps.append(block(upsample(maps[-1])))
        return maps[::-1]


class Denoiser(nn.Module):
    """The raw consistency network: UNet on the noisy spectrogram, guided by the maps of the latent decoder."""

    def __init__(self, levels: Levels, embedding_dim: int, num_blocks: int) -> None:
        super().__init__()
        channels, factors = levels.channels, levels.factors
        self.embedding_dim = embedding_dim
        self.time_embed = nn.Sequential(
            nn.Linear(embedding_dim, embedding_dim), nn.SiLU(), nn.Linear(embedding_dim, embedding_dim), nn.SiLU()
        )
        self.scale_in = scale_mlp(embedding_dim, levels.num_bins)
        self.scale_out = scale_mlp(embedding_dim, levels.num_bins)
        self.conv_in = nn.Conv2d(2, channels[0], 3, padding=1)

        def blocks(level: int) -> nn.ModuleList:
            return nn.ModuleList(
                GuidedBlock(channels[level], embedding_dim, levels.num_heads[level]) for _ in range(num_blocks)
            )

        self.down_blocks = nn.ModuleList(blocks(level) for level in range(len(channels)))
        self.downsamplers = nn.ModuleList(
            Downsample(channels[level], channels[level + 1], factors[level], has_norm=False)
            for level in range(len(factors))
        )
        self.up_blocks = nn.ModuleList(blocks(level) for level in range(len(channels)))
        self.upsamplers = nn.ModuleList(
            Upsample(channels[level + 1], channels[level], factors[level]) for level in range(len(factors))
        )
        self.map_out = nn.Conv2d(channels[0], channels[0], 1)
        self.norm_out = GroupNorm(channels[0])
        self.conv_out = zero_init(nn.Conv2d(channels[0], 2, 3, padding=1))

    def forward(self, x: Spectrogram, sigma: Float[Tensor, " levels"], maps: Maps) -> Spectrogram:
        """Raw output F of the preconditioned denoiser ``c_skip * x + c_out * F``; ``x`` is scaled to unit variance.

        ``sigma`` holds one noise level per item, or one for all.
        """
        features = noise_level_features(sigma, self.embedding_dim).to(x.dtype)
        embedding = self.time_embed(features)
        scale_in, scale_out = (1 + mlp(features)[:, None, :, None] for mlp in (self.scale_in, self.scale_out))

        h = multiply(self.conv_in(x.contiguous(memory_format=torch.channels_last)), scale_in)
        skips = []
        for level, blocks in enumerate(self.down_blocks):
            if level > 0:
                h = self.downsamplers[level - 1](h)
            for block in blocks.children():
                h = block(h, maps[level], embedding)
                skips.append(h)
        for level, blocks in reversed(list(enumerate(self.up_blocks))):
            for block in blocks.children():
                h = block(h, maps[level], embedding, skips.pop())
            if level > 0:
                h = self.upsamplers[level - 1](h)
        h = multiply(add(h, self.map_out(maps[0])), 1 / math.sqrt(2))
        return self.conv_out(multiply(silu(self.norm_out(h, is_disposable=True)), scale_out))


def scale_mlp(embedding_dim: int, num_bins: int) -> nn.Sequential:
    """Noise-level features -> one relative gain per frequency bin, zero at first."""
    return nn.Sequential(
        nn.Linear(embedding_dim, embedding_dim),
        nn.SiLU(),
        nn.Linear(embedding_dim, embedding_dim),
        nn.SiLU(),
        zero_init(nn.Linear(embedding_dim, num_bins)),
    )


class MagnitudeHead(nn.Conv2d):
    """Reads log magnitudes from the full-resolution map, to help a training along; no part of the codec."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 1, 3, padding=1)
        assert self.bias is not None
        nn.init.constant_(self.bias, -2.6)  # their mean on music; else the first steps only learn it
