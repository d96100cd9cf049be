"""The velocity network of the latent diffusion model: a transformer over the frames of an audio codec.

The three branches of a block (self-attention, cross-attention, MLP) are modulated by one projection of the condition
vector, shared by all blocks, plus a learned table of each block (adaLN-single). Gates start at zero, so a new block is
the identity and a new model predicts zero.

Symbols
    frames    steps of the latent sequence, ``latent_rate`` per second
    tokens    condition tokens: the text, then duration, tempo and key
    width     num_attention_heads * attention_head_dim
    timestep  time of the flow: 0 is data, 1 is noise

Sources
    DiT     adaLN-Zero: Peebles and Xie 2022, https://arxiv.org/abs/2212.09748
    PixArt  adaLN-single: Chen et al. 2023, https://arxiv.org/abs/2310.00426
    RoPE    Su et al. 2021, https://arxiv.org/abs/2104.09864
    SwiGLU  Shazeer 2020, https://arxiv.org/abs/2002.05202
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput
from diffusers.models.attention import AttentionMixin, AttentionModuleMixin, FeedForward
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.embeddings import PixArtAlphaTextProjection, apply_rotary_emb
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin  # the name must exist here: diffusers looks it up on loading
from diffusers.models.normalization import AdaLayerNormContinuous, RMSNorm
from diffusers.utils import apply_lora_scale
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from latent_diffusion.conditions import NO_BEAT
from latent_diffusion.embeddings import (
    BeatEmbedding,
    ConditionEmbedding,
    Float32Linear,
    PerItem,
    PositionEmbedding,
    RotaryEmbedding,
    RotaryTables,
)


class LatentAttnProcessor:
    """Attention through diffusers' dispatcher, so that every attention backend can be chosen."""

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: "Attention",
        hidden_states: Float[Tensor, "batch frames width"],
        encoder_hidden_states: Float[Tensor, "batch tokens width"] | None = None,
        attention_mask: Bool[Tensor, "#batch #heads #frames keys"] | None = None,
        rotary_emb: RotaryTables | None = None,
    ) -> Float[Tensor, "batch frames width"]:
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if not attn.fused_projections:
            projections = attn.to_q(hidden_states), attn.to_k(source), attn.to_v(source)
        elif attn.is_cross_attention:
            projections = attn.to_q(hidden_states), *attn.to_kv(source).chunk(2, dim=-1)
        else:
            projections = attn.to_qkv(hidden_states).chunk(3, dim=-1)
        query, key, value = (x.unflatten(-1, (-1, attn.head_dim)) for x in projections)

        query, key = attn.norm_q(query), attn.norm_k(key)
        if rotary_emb is not None:
            of_queries, of_keys = rotary_emb
            copies = len(of_keys[0]) // key.shape[1]  # three in a loop, see loop_keys
            if copies > 1:
                key, value = key.repeat(1, copies, 1, 1), value.repeat(1, copies, 1, 1)
            query = apply_rotary_emb(query, of_queries, use_real_unbind_dim=-2, sequence_dim=1)
            key = apply_rotary_emb(key, of_keys, use_real_unbind_dim=-2, sequence_dim=1)

        hidden_states = dispatch_attention_fn(
            query.to(value.dtype),  # a float32 norm returns float32
            key.to(value.dtype),
            value,
            attn_mask=attention_mask,
            backend=self._attention_backend,
            # The condition tokens are not split over devices, so cross-attention stays local.
            parallel_config=None if attn.is_cross_attention else self._parallel_config,
        )
        hidden_states = attn.to_out[0](hidden_states.flatten(2))
        return attn.to_out[1](hidden_states)


class Attention(nn.Module, AttentionModuleMixin):
    """Multi-head attention with normalised queries and keys."""

    _default_processor_cls = LatentAttnProcessor
    _available_processors: ClassVar = [LatentAttnProcessor]
    processor: Callable[..., Tensor]
    to_qkv: nn.Linear  # these two are made by fuse_projections
    to_kv: nn.Linear

    def __init__(self, width: int, head_dim: int, is_cross_attention: bool = False) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.is_cross_attention = is_cross_attention
        self.use_bias = False
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width, bias=False), nn.Dropout(0.0)])
        self.norm_q = RMSNorm(head_dim, eps=1e-6)
        self.norm_k = RMSNorm(head_dim, eps=1e-6)
        self.processor = LatentAttnProcessor()

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **kwargs: Any
    ) -> Float[Tensor, "batch frames width"]:
        return self.processor(self, hidden_states, encoder_hidden_states, **kwargs)


class LatentDiTBlock(nn.Module):
    """Self-attention over frames, cross-attention to the condition tokens, then an MLP.

    Each branch is shifted, scaled and gated by ``modulation + scale_shift_table``; both start at zero (DiT sec. 3.2).
    """

    def __init__(self, width: int, head_dim: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm = RMSNorm(width, eps=1e-6, elementwise_affine=False)  # has no weights, so the branches share it
        self.self_attn = Attention(width, head_dim)
        self.cross_attn = Attention(width, head_dim, is_cross_attention=True)
        self.mlp = FeedForward(width, inner_dim=round(width * mlp_ratio), activation_fn="swiglu", bias=False)
        self.scale_shift_table = nn.Parameter(torch.zeros(9, width))

    def forward(
        self,
        hidden_states: Float[Tensor, "batch frames width"],
        encoder_hidden_states: Float[Tensor, "batch tokens width"],
        modulation: Float[Tensor, "batch 9 width"],
        rotary_emb: RotaryTables,
        attention_mask: Bool[Tensor, "#batch 1 #frames keys"] | None,
        encoder_attention_mask: Bool[Tensor, "batch 1 1 tokens"] | None,
    ) -> Float[Tensor, "batch frames width"]:
        table = (modulation + self.scale_shift_table).unflatten(1, (3, 3))[:, :, :, None]
        shift, scale, gate = table.unbind(2)

        def modulated(x: Tensor, branch: int) -> Tensor:
            return (self.norm(x) * (1 + scale[:, branch]) + shift[:, branch]).type_as(x)

        x = hidden_states
        y = self.self_attn(modulated(x, 0), attention_mask=attention_mask, rotary_emb=rotary_emb)
        x = (x + gate[:, 0] * y).type_as(x)
        y = self.cross_attn(modulated(x, 1), encoder_hidden_states, attention_mask=encoder_attention_mask)
        x = (x + gate[:, 1] * y).type_as(x)
        y = self.mlp(modulated(x, 2))
        return (x + gate[:, 2] * y).type_as(x)


class LatentDiT(ModelMixin, ConfigMixin, PeftAdapterMixin, CacheMixin, AttentionMixin):
    """Diffusion transformer that predicts the velocity of normalised latents, given text and musical conditions.

    Args:
        in_channels: channels of the latents.
        num_layers: number of transformer blocks.
        num_attention_heads: heads of every attention; the width is this times ``attention_head_dim``.
        attention_head_dim: channels of a head.
        cross_attention_dim: width of the text encoder's output.
        mlp_ratio: hidden width of the gated MLPs relative to the width.
        rope_theta: base of the rotary frequencies.
        latents_mean: mean of each channel of the training latents, used by ``normalize`` and ``denormalize`` only.
            None if the latents are used as they are.
        latents_std: standard deviation of each channel of the training latents.
        latent_rate: latent frames per second.
        max_frames: longest sequence seen in training, in frames.
        codec_id: fingerprint of the codec whose latents the model was trained on.
        text_encoder: name of the text encoder the model was trained with.

    Raises:
        ValueError: the latent statistics are incomplete or have another length than ``in_channels``.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules: ClassVar = ["LatentDiTBlock"]
    _repeated_blocks: ClassVar = ["LatentDiTBlock"]
    _skip_layerwise_casting_patterns: ClassVar = ["proj_in", "context_in", "position_embed", "beat_embed", "norm"]
    _keep_in_fp32_modules: ClassVar = [
        "condition_embed", "position_embed", "beat_embed", "modulation", "scale_shift_table",
    ]  # fmt: skip
    _cp_plan: ClassVar = {
        "rope": {index: ContextParallelInput(split_dim=0, expected_dims=2, split_output=True) for index in (0, 1)},
        "transformer_blocks.0": {"hidden_states": ContextParallelInput(split_dim=1, expected_dims=3)},
        "proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
    }

    @register_to_config
    def __init__(
        self,
        in_channels: int = 64,
        num_layers: int = 12,
        num_attention_heads: int = 12,
        attention_head_dim: int = 64,
        cross_attention_dim: int = 384,
        mlp_ratio: float = 2.5,
        rope_theta: float = 10000.0,
        latents_mean: Sequence[float] | None = None,
        latents_std: Sequence[float] | None = None,
        latent_rate: float = 44100 / 4096,
        max_frames: int = 324,
        codec_id: str | None = None,
        text_encoder: str | None = None,
    ) -> None:
        super().__init__()
        for name, statistic in (("latents_mean", latents_mean), ("latents_std", latents_std)):
            if (latents_mean is None) != (latents_std is None) or len(statistic or [0] * in_channels) != in_channels:
                raise ValueError(
                    f"{name} needs one value for each of the {in_channels} latent channels (in_channels), got "
                    f"{0 if statistic is None else len(statistic)}; give both latents_mean and latents_std, or neither"
                )

        width = num_attention_heads * attention_head_dim
        self.condition_embed = ConditionEmbedding(width)
        self.modulation = Float32Linear(width, 9 * width)
        self.text_in = PixArtAlphaTextProjection(cross_attention_dim, width)
        self.text_norm = RMSNorm(width, eps=1e-6)
        self.proj_in = nn.Linear(in_channels, width)
        self.context_in = nn.Linear(in_channels + 1, width, bias=False)
        self.position_embed = PositionEmbedding(width)
        self.beat_embed = BeatEmbedding(width)
        self.rope = RotaryEmbedding(attention_head_dim, rope_theta)
        self.transformer_blocks = nn.ModuleList(
            [LatentDiTBlock(width, attention_head_dim, mlp_ratio) for _ in range(num_layers)]
        )
        self.norm_out = AdaLayerNormContinuous(width, width, elementwise_affine=False, eps=1e-6, norm_type="rms_norm")
        self.proj_out = nn.Linear(width, in_channels)

        self.gradient_checkpointing = False
        self._initialize_weights()

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """Load as every diffusers model, but strictly: missing, unexpected or misshapen weights are an error.

        diffusers only warns of missing weights and leaves them without storage, to fail at the first call.

        Raises:
            ValueError: there is no such folder, or weights are missing or unexpected; they are named.
        """
        if isinstance(args[0], Path) and not args[0].is_dir():  # text that is no folder may name a model on a hub
            raise ValueError(f"there is no folder {args[0]}; expected one with config.json and safetensors weights")
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        problems = {name: info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[name]}
        if problems:
            raise ValueError(f"the weights in {args[0]} do not fit the architecture in its config.json: {problems}")
        # weights mapped from a file lie at odd addresses, where sums are made in another order than in the saved model
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
        return (model, info) if output_loading_info else model

    def _initialize_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.condition_embed.key.weight, std=0.02)
        inputs = (self.context_in, self.position_embed.proj, self.beat_embed.proj)
        for layer in (*inputs, self.modulation, self.norm_out.linear, self.proj_out):
            nn.init.zeros_(layer.weight)

    def normalize(self, latents: Float[Tensor, "batch channels frames"]) -> Float[Tensor, "batch channels frames"]:
        """Return latents of the codec scaled as the model expects them: zero mean, unit variance in each channel."""
        mean, std = self._statistics(latents)
        return ((latents - mean) / std).type_as(latents)

    def denormalize(self, latents: Float[Tensor, "batch channels frames"]) -> Float[Tensor, "batch channels frames"]:
        """Return normalised latents on the scale of the codec, the inverse of ``normalize``."""
        mean, std = self._statistics(latents)
        return (latents * std + mean).type_as(latents)

    def _statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.config.latents_mean or [0.0] * self.config.in_channels
        std = self.config.latents_std or [1.0] * self.config.in_channels
        table = torch.tensor([mean, std], dtype=torch.float32, device=latents.device)[:, :, None]
        return table[0], table[1]

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: Float[Tensor, "batch channels frames"],
        timestep: PerItem,
        encoder_hidden_states: Float[Tensor, "batch tokens text_width"],
        *,
        encoder_attention_mask: Bool[Tensor, "batch tokens"] | None = None,
        duration: PerItem | None = None,
        tempo: PerItem | None = None,
        key: Int[Tensor, "batch"] | None = None,
        context_latents: Float[Tensor, "batch channels frames"] | None = None,
        context_mask: Float[Tensor, "batch 1 frames"] | None = None,
        positions: Float[Tensor, "batch frames"] | None = None,
        beats: Float[Tensor, "batch frames"] | None = None,
        attention_mask: Bool[Tensor, "batch frames"] | None = None,
        loop_frames: float | None = None,
        attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Predict the velocity (noise minus data) at ``hidden_states``.

        Args:
            hidden_states: noisy normalised latents.
            timestep: time of the flow in [0, 1]: 0 is data, 1 is noise.
            encoder_hidden_states: output of the text encoder.
            encoder_attention_mask: True for real text tokens. An item may have none.
            duration: length of the whole piece in seconds; 0 where not given.
            tempo: beats per minute; 0 where not given.
            key: musical key, 0 to 23; 24 where not given.
            context_latents: clean normalised latents to keep; ignored where ``context_mask`` is 0.
            context_mask: 1 for frames to keep, 0 for frames to generate.
            positions: seconds of each frame since the start of the piece; negative where not given. None counts the
                frames from 0.
            beats: beats of each frame since a bar line, modulo 48 (``conditions.beats_at``); negative where not
                given. None for no frame.
            attention_mask: True for real frames, False for padding. None when nothing is padded, which is faster.
            loop_frames: frames after which the sequence repeats, for a loop; the sequence has as many, rounded up.
                Not together with ``attention_mask``; leave out ``positions`` by negative ones.
            attention_kwargs: ``{"scale": float}`` weighs the loaded LoRA.
            return_dict: False returns the tuple ``(velocity,)``.

        Raises:
            ValueError: another number of channels than ``in_channels``, context latents without their mask, or
                ``loop_frames`` that do not fit the sequence.
        """
        if hidden_states.shape[1] != self.config.in_channels:
            raise ValueError(
                f"hidden_states must be (batch, {self.config.in_channels}, frames), got {tuple(hidden_states.shape)}; "
                "use latents of the codec that this model was trained on"
            )
        temb, conditions = self.condition_embed(timestep, duration, tempo, key)
        modulation = self.modulation(F.silu(temb)).unflatten(-1, (9, -1))

        text = self.text_in(encoder_hidden_states)
        tokens = self.text_norm(torch.cat([text, conditions.to(text.dtype)], dim=1)).to(text.dtype)
        if encoder_attention_mask is not None:  # the condition tokens are always valid
            encoder_attention_mask = F.pad(encoder_attention_mask, (0, conditions.shape[1]), value=True)
            encoder_attention_mask = encoder_attention_mask[:, None, None]
        x = self.proj_in(hidden_states.mT) + self._embed_context(hidden_states, context_latents, context_mask)
        x = x + self._embed_positions(hidden_states, positions, duration).to(x.dtype)
        if beats is None:  # still evaluated: under DDP no parameter may go unused
            beats = torch.full_like(hidden_states[:, 0], NO_BEAT)
        x = x + self.beat_embed(beats).to(x.dtype)
        rotary_emb, attention_mask = self.rope.tables(x, attention_mask, loop_frames)
        for block in self.transformer_blocks:
            inputs = (x, tokens, modulation, rotary_emb, attention_mask, encoder_attention_mask)
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = self._gradient_checkpointing_func(block, *inputs)
            else:
                x = block(*inputs)

        velocity = self.proj_out(self.norm_out(x, temb)).mT
        return Transformer2DModelOutput(sample=velocity) if return_dict else (velocity,)

    def _embed_positions(self, latents: Tensor, positions: Tensor | None, duration: Tensor | None) -> Tensor:
        if positions is None:
            frames = torch.arange(latents.shape[2], dtype=torch.float32, device=latents.device)
            positions = (frames / self.config.latent_rate).expand(len(latents), -1)
        if duration is None:
            duration = torch.zeros(len(latents), device=latents.device)
        return self.position_embed(positions, duration)

    def _embed_context(self, latents: Tensor, context_latents: Tensor | None, context_mask: Tensor | None) -> Tensor:
        if context_latents is not None and context_mask is not None:
            context = torch.cat([context_latents * context_mask, context_mask], dim=1).to(latents.dtype)
        elif context_latents is None and context_mask is None:  # still evaluated: under DDP no parameter may go unused
            context = F.pad(torch.zeros_like(latents), (0, 0, 0, 1))
        else:
            given = "context_mask" if context_latents is None else "context_latents"
            raise ValueError(
                f"context_latents and context_mask must be given together, got only {given}; pass both or neither"
            )
        return self.context_in(context.mT)


def _register_block() -> None:
    """Let FirstBlockCache and MagCache accept the block; the registry is private, so do without where it is gone."""
    try:
        from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
    except ImportError:
        return
    metadata = TransformerBlockMetadata(return_hidden_states_index=0, return_encoder_hidden_states_index=None)
    TransformerBlockRegistry.register(LatentDiTBlock, metadata)


_register_block()
