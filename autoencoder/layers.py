"""Blocks that the encoder, the latent decoder and the denoiser are built from.

Two-dimensional blocks work on (batch, channels, bins, frames), one-dimensional ones on (batch, channels, frames). Time
is mixed only by 3-wide convolutions and by GroupNorm, whose statistics run over all frames given: the output depends
on how much audio is processed together.

Two-dimensional tensors are kept in channels-last order, in which convolutions are fastest. Without gradients the
blocks reuse the memory of their own intermediate results: at full resolution the time goes into moving memory.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

Conv = type[nn.Conv1d] | type[nn.Conv2d]

STRIPE = 16_384  # bins and frames whose squares stay in a CPU's cache


class GroupNorm(nn.GroupNorm):
    """Normalisation with four channels to a group, and at most 32 groups.

    Without gradients, two-dimensional tensors on a CPU get their statistics from sums over stripes. torch's own kernel
    for channels-last tensors adds up all values one by one: over ten seconds of audio its error is a hundred times
    larger.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(max(1, min(channels // 4, 32)), channels)

    def forward(
        self, x: Float[Tensor, "batch channels *shape"], is_disposable: bool = False
    ) -> Float[Tensor, "batch channels *shape"]:
        """Normalised ``x``, in its own memory if it is a disposable intermediate result and no gradient is wanted."""
        if torch.is_grad_enabled() or x.ndim != 4 or x.device.type != "cpu":
            if not torch.amp.is_autocast_available(x.device.type):  # meta tensors
                return super().forward(x)
            with torch.autocast(x.device.type, enabled=False):  # it would make everything float32, twice the memory
                weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
                return F.group_norm(x, self.num_groups, weight, bias, self.eps)
        values = rearrange(x, "b c f t -> b (f t) c")
        stripes = values.split(STRIPE, dim=1)
        total = torch.stack([stripe.sum(1, dtype=torch.float32) for stripe in stripes]).sum(0)
        squares = torch.stack([torch.linalg.vecdot(wide, wide, dim=1) for wide in map(Tensor.float, stripes)]).sum(0)
        mean, power = (
            rearrange(each, "b (g c) -> b g c", g=self.num_groups).mean(2, keepdim=True) / values.shape[1]
            for each in (total, squares)
        )
        scale = (power - mean.square()).clamp(min=0).add(self.eps).rsqrt() * self.weight.view(self.num_groups, -1)
        shift = self.bias.view(self.num_groups, -1) - mean * scale
        scale, shift = (each.flatten(1)[:, :, None, None].to(x.dtype) for each in (scale, shift))
        out = x if is_disposable and not torch.compiler.is_compiling() else None  # the compiler plans memory itself
        return torch.addcmul(shift, x, scale, out=out)


def zero_init(layer: nn.Module) -> nn.Module:
    """Fill the parameters of a layer with zeros, so that its branch is silent at the start of training."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def silu(x: Tensor) -> Tensor:
    """SiLU of an intermediate result, in place where no gradient is wanted."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def add(total: Tensor, other: Tensor, scale: float = 1.0) -> Tensor:
    """``total + scale * other``, in place of the intermediate result ``total`` where no gradient is wanted."""
    return torch.add(total, other, alpha=scale) if torch.is_grad_enabled() else total.add_(other, alpha=scale)


def multiply(total: Tensor, factor: Tensor | float) -> Tensor:
    """``total * factor``, in place of the intermediate result ``total`` where no gradient is wanted."""
    return total * factor if torch.is_grad_enabled() else total.mul_(factor)


class FrequencyAttention(nn.Module):
    """Self-attention over the frequency bins of each frame on its own: it never mixes frames."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = GroupNorm(channels)
        self.to_qkv = nn.Linear(channels, 3 * channels)
        self.to_out = zero_init(nn.Linear(channels, channels))

    def forward(self, x: Float[Tensor, "batch channels bins frames"]) -> Float[Tensor, "batch channels bins frames"]:
        qkv = self.to_qkv(rearrange(self.norm(x), "b c f t -> b f t c"))
        # one item at a time is a view of the channels-last tensor, so that nothing is copied before the attention
        query, key, value = rearrange(qkv, "b f t (qkv h d) -> qkv (b t) h f d", qkv=3, h=self.num_heads)
        mixed = F.scaled_dot_product_attention(query, key, value)
        mixed = self.to_out(rearrange(mixed, "n h f d -> n f (h d)"))
        return add(x, rearrange(mixed, "(b t) f c -> b c f t", b=len(x)))


class ResBlock(nn.Module):
    """Two normalised convolutions beside a skip connection, then frequency attention if it has heads."""

    def __init__(self, in_channels: int, out_channels: int, num_heads: int = 0, conv: Conv = nn.Conv2d) -> None:
        super().__init__()
        self.norm1 = GroupNorm(in_channels)
        self.conv1 = conv(in_channels, out_channels, 3, padding=1)
        self.norm2 = GroupNorm(out_channels)
        # unlike the denoiser's, not zero: an untrained encoder would only filter and normalise, in which magnitudes
        # average out
        self.conv2 = conv(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Identity() if in_channels == out_channels else conv(in_channels, out_channels, 1)
        self.attn = FrequencyAttention(out_channels, num_heads) if num_heads else nn.Identity()

    def forward(self, x: Float[Tensor, "batch channels *shape"]) -> Float[Tensor, "batch out_channels *shape"]:
        h = self.conv1(silu(self.norm1(x)))
        h = self.conv2(silu(self.norm2(h, is_disposable=True)))
        return self.attn(add(h, self.skip(x)))


class GuidedBlock(nn.Module):
    """A residual block of the denoiser: it is told the latents by a map and the noise level by an embedding.

    What is summed in front (the running tensor, the map, and the skip where there is one) keeps its variance.
    """

    def __init__(self, channels: int, embedding_dim: int, num_heads: int) -> None:
        super().__init__()
        self.map_proj = nn.Conv2d(channels, channels, 1)
        self.norm1 = GroupNorm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.embedding_proj = zero_init(nn.Linear(embedding_dim, channels))
        self.norm2 = GroupNorm(channels)
        self.conv2 = zero_init(nn.Conv2d(channels, channels, 3, padding=1))
        self.attn = FrequencyAttention(channels, num_heads) if num_heads else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "batch channels bins frames"],
        conditioning_map: Float[Tensor, "batch channels bins frames"],
        embedding: Float[Tensor, "levels embedding_dim"],
        skip: Float[Tensor, "batch channels bins frames"] | None = None,
    ) -> Float[Tensor, "batch channels bins frames"]:
        """Output of the block; ``embedding`` has one row per item, or one for all."""
        inputs = [x] if skip is None else [x, skip]
        scale = 1 / math.sqrt(len(inputs) + 1)
        is_free = not (is_hooked(self.map_proj) or is_hooked(self.conv1))
        if is_free:
            weight, bias = (scale * parameter for parameter in self.map_proj.parameters())
            x = F.conv2d(conditioning_map, weight, bias)
        else:
            x = scale * self.map_proj(conditioning_map)
        for each in inputs:
            x = add(x, each, scale)
        shift, h = self.embedding_proj(embedding), silu(self.norm1(x))
        if len(shift) == 1 and is_free:  # one noise level for all: the shift costs nothing as part of the bias
            h = F.conv2d(h, self.conv1.weight, self.conv1.bias + shift[0], padding=1)
        else:
            h = self.conv1(h) + shift[:, :, None, None]
        h = self.conv2(silu(self.norm2(h, is_disposable=True)))
        return self.attn(add(h, x))


def is_hooked(module: nn.Module) -> bool:
    """Whether offloading or casting replaced the module's call: until it is called, its weights may be elsewhere."""
    return "forward" in vars(module)


def resampling_conv(
    in_channels: int, out_channels: int, factors: tuple[int, int], stride: tuple[int, int]
) -> nn.Conv2d:
    """Convolution for a change of resolution by ``factors`` (bins, frames): 5 wide for 4, 3 for 2, 1 for 1."""
    tall, wide = (factor + 1 if factor > 1 else 1 for factor in factors)
    return nn.Conv2d(in_channels, out_channels, (tall, wide), stride, padding=(tall // 2, wide // 2))


class Downsample(nn.Module):
    """Strided convolution to fewer bins and frames; with a norm, ``x`` is a disposable intermediate result."""

    def __init__(self, in_channels: int, out_channels: int, factors: tuple[int, int], has_norm: bool) -> None:
        super().__init__()
        self.norm = GroupNorm(in_channels) if has_norm else nn.Identity()
        self.conv = resampling_conv(in_channels, out_channels, factors, stride=factors)

    def forward(self, x: Float[Tensor, "batch channels bins frames"]) -> Float[Tensor, "batch out_channels low short"]:
        if isinstance(self.norm, GroupNorm):
            x = self.norm(x, is_disposable=True)
        return self.conv(x)


class Upsample(nn.Module):
    """Nearest-neighbour repetition to more bins and frames, then a convolution.

    Both are one transposed convolution, whose kernel is the convolution's summed over the repetitions: it needs only
    4/9 (factors 2, 2) or 2/5 (factors 4, 1) of the multiplications.
    """

    def __init__(self, in_channels: int, out_channels: int, factors: tuple[int, int]) -> None:
        super().__init__()
        self.factors = factors
        self.conv = resampling_conv(in_channels, out_channels, factors, stride=(1, 1))

    def forward(self, x: Float[Tensor, "batch channels bins frames"]) -> Float[Tensor, "batch out_channels high long"]:
        if is_hooked(self.conv):
            return self.conv(x.repeat_interleave(self.factors[0], dim=-2).repeat_interleave(self.factors[1], dim=-1))
        kernel = self.conv.weight.flip(-2, -1).transpose(0, 1)
        # each input value meets every tap of the convolution once per repetition
        rows, columns = ([(i, factor - 1 - i) for i in range(factor)] for factor in self.factors)
        kernel = torch.stack([F.pad(kernel, (0, 0, *row)) for row in rows]).sum(0)
        kernel = torch.stack([F.pad(kernel, column) for column in columns]).sum(0)
        padding = (self.conv.kernel_size[0] // 2, self.conv.kernel_size[1] // 2)
        return F.conv_transpose2d(x, kernel, self.conv.bias, self.factors, padding)


def noise_level_features(sigma: Float[Tensor, " batch"], dim: int) -> Float[Tensor, "batch dim"]:
    """Sines, then cosines, of ``log(sigma) / 4`` at ``dim / 2`` frequencies from 1 down to 1/10000."""
    exponents = torch.arange(dim // 2, dtype=torch.float32, device=sigma.device) / (dim // 2 - 1)
    angles = (sigma.float().log() / 4)[:, None] * 10_000.0**-exponents
    return torch.cat([angles.sin(), angles.cos()], dim=1)
