"""Embeddings of time, of the musical conditions that are single numbers, and of the place in the sequence.

Sources
    RoPE    Su et al. 2021, https://arxiv.org/abs/2104.09864
"""

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import Timesteps, get_1d_rotary_pos_embed
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from latent_diffusion.conditions import NO_KEY

PerItem = Float[Tensor, "batch"]
RotaryTable = tuple[Float[Tensor, "frames head_dim"], Float[Tensor, "frames head_dim"]]
"""Cosines and sines of each position."""
RotaryTables = tuple[RotaryTable, tuple[Float[Tensor, "keys head_dim"], Float[Tensor, "keys head_dim"]]]
"""The table of the queries and that of the keys: the same, but for a loop."""


class Float32Linear(nn.Linear):
    """A linear layer that computes in float32 whatever its weights are stored in (autocast still applies)."""

    def forward(self, x: Float[Tensor, "*shape in_features"]) -> Float[Tensor, "*shape out_features"]:
        return F.linear(x.float(), self.weight.float(), None if self.bias is None else self.bias.float())


class SinusoidalEmbedding(nn.Sequential):
    """Sines and cosines of ``scale * value`` times frequencies from 1 to 1e-4, then an MLP."""

    def __init__(self, width: int, scale: float, num_features: int = 256) -> None:
        super().__init__(
            Timesteps(num_features, flip_sin_to_cos=True, downscale_freq_shift=0, scale=scale),
            Float32Linear(num_features, width),
            nn.SiLU(),
            Float32Linear(width, width),
        )


class PositiveEmbedding(nn.Module):
    """Embedding of a positive quantity in octaves above ``unit``, with a learned vector for 0, not given."""

    def __init__(self, width: int, unit: float) -> None:
        super().__init__()
        self.unit = unit
        self.octaves = SinusoidalEmbedding(width, scale=100.0)  # the fastest sine turns by 1 radian for 0.7 %
        self.not_given = nn.Parameter(torch.randn(width) * 0.02)

    def forward(self, value: PerItem) -> Float[Tensor, "batch width"]:
        given = value > 0
        octaves = torch.log2(torch.where(given, value.float(), self.unit) / self.unit)
        # Both branches are always evaluated: under DDP no parameter may go unused.
        return torch.where(given[:, None], self.octaves(octaves), self.not_given.float())


class ConditionEmbedding(nn.Module):
    """Embeddings of time and of the musical conditions that are single numbers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.time = SinusoidalEmbedding(width, scale=1000.0)
        self.duration = PositiveEmbedding(width, unit=1.0)  # seconds
        self.tempo = PositiveEmbedding(width, unit=120.0)  # beats per minute
        self.key = nn.Embedding(NO_KEY + 1, width)

    def forward(
        self, timestep: PerItem, duration: PerItem | None, tempo: PerItem | None, key: Int[Tensor, "batch"] | None
    ) -> tuple[Float[Tensor, "batch width"], Float[Tensor, "batch 3 width"]]:
        """Return the sum of all embeddings, and one token each for duration, tempo and key, given or not."""
        not_given = torch.zeros_like(timestep)
        no_key = torch.full_like(timestep, NO_KEY, dtype=torch.int64)
        duration_token = self.duration(not_given if duration is None else duration)
        tempo_token = self.tempo(not_given if tempo is None else tempo)
        key_token = self.key(no_key if key is None else key).float()
        tokens = torch.stack([duration_token, tempo_token, key_token], dim=1)
        return self.time(timestep) + tokens.sum(dim=1), tokens


class PositionEmbedding(nn.Module):
    """Where each frame stands in the piece: seconds since its start and seconds to its end, zero where not given.

    Rotary attention sees distances only. Without this a piece could neither begin nor end, and from pure noise no
    frame could know its place. Frames without a position (a loop has none) are treated alike.
    """

    def __init__(self, width: int, num_features: int = 128) -> None:
        super().__init__()
        # the fastest sine turns by 1.5 radian from frame to frame, the slowest once in an hour
        self.features = Timesteps(num_features, flip_sin_to_cos=True, downscale_freq_shift=0, scale=16.0)
        self.proj = Float32Linear(2 * num_features, width, bias=False)

    def forward(
        self, positions: Float[Tensor, "batch frames"], duration: PerItem
    ) -> Float[Tensor, "batch frames width"]:
        given = positions >= 0
        remaining = torch.where(duration[:, None] > 0, duration[:, None] - positions, 0.0)
        pair = torch.stack([positions, remaining], dim=-1)
        features = self.features(pair.float().flatten()).unflatten(0, pair.shape).flatten(2)
        return self.proj(features * given[..., None])


class BeatEmbedding(nn.Module):
    """Where each frame stands in the beat and in the bar, zero where not given.

    The tempo alone would leave it to the network to count: a sine of the tempo's own period says where the beats are.
    """

    PERIODS = (16, 8, 4, 3, 2, 1, 1 / 2, 1 / 3, 1 / 4)  # beats; each a whole part of BEAT_CYCLE

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = Float32Linear(2 * len(self.PERIODS), width, bias=False)

    def forward(self, beats: Float[Tensor, "batch frames"]) -> Float[Tensor, "batch frames width"]:
        turns = 2 * torch.pi * beats.float()
        angles = torch.stack([turns / period for period in self.PERIODS], dim=-1)  # no tensor to bring to the device
        features = torch.cat([angles.sin(), angles.cos()], dim=-1)
        return self.proj(features * (beats >= 0)[..., None])


class RotaryEmbedding(nn.Module):
    """Cosines and sines of RoPE for each frame, always in float32 and made anew, so no cast can spoil them.

    It is a module so that context parallelism can split its output.
    """

    def __init__(self, head_dim: int, theta: float) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.theta = theta

    def forward(self, hidden_states: Float[Tensor, "batch frames width"]) -> RotaryTable:
        return self.table(torch.arange(hidden_states.shape[1], dtype=torch.float32, device=hidden_states.device))

    def table(self, positions: Float[Tensor, "frames"]) -> RotaryTable:
        """Cosines and sines of any positions, in frames."""
        return get_1d_rotary_pos_embed(
            self.head_dim, positions, theta=self.theta, use_real=True, repeat_interleave_real=False
        )

    def tables(
        self, hidden_states: Tensor, attention_mask: Bool[Tensor, "batch frames"] | None, loop_frames: float | None
    ) -> tuple[RotaryTables, Bool[Tensor, "#batch 1 #frames keys"] | None]:
        """Tables of queries and keys, and the mask of self-attention, for a sequence or for a loop.

        Raises:
            ValueError: ``loop_frames`` does not fit the sequence.
        """
        table = self(hidden_states)
        if loop_frames is None:
            return (table, table), None if attention_mask is None else attention_mask[:, None, None]
        num_frames = hidden_states.shape[1]
        if attention_mask is not None or not num_frames - 1 < loop_frames <= num_frames:
            raise ValueError(
                f"a loop of {num_frames} frames needs loop_frames above {num_frames - 1} and at most {num_frames}, "
                f"and no attention_mask; got loop_frames={loop_frames}"
            )
        positions, is_seen = loop_keys(num_frames, loop_frames, hidden_states.device)
        return (table, self.table(positions)), is_seen


def loop_keys(
    num_frames: int, period: float, device: torch.device
) -> tuple[Float[Tensor, "keys"], Bool[Tensor, "1 1 frames keys"]]:
    """Positions of the keys of a loop, and which of them each frame attends to.

    On a circle every frame is as far ahead of another as it is behind it. So each key stands at three places, one
    period apart, and a frame sees the nearest of them: each frame once, between half a period back and half a period
    ahead. A loop of a whole number of frames can then be rotated without any other change.

    Args:
        num_frames: frames of the sequence, ``period`` rounded up.
        period: frames after which the loop repeats; need not be whole.
        device: where the tensors live.
    """
    frames = torch.arange(num_frames, dtype=torch.float32, device=device)
    positions = torch.cat([frames - period, frames, frames + period])
    distance = positions - frames[:, None]
    return positions, ((distance >= -period / 2) & (distance < period / 2))[None, None]
