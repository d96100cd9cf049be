"""Everything that one call computes with, one row per waveform."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.guiders import BaseGuidance
from jaxtyping import Bool, Float
from torch import Tensor

Latents = Float[Tensor, "batch channels frames"]


@dataclass(kw_only=True)
class Request:
    """One call, ready to be sampled.

    Attributes:
        seeds: one per waveform; everything random about a waveform follows from its seed.
        num_samples: length of each piece.
        noise: starting noise of the whole piece.
        x0: normalised latents of the whole piece; those that are not known are filled in by the sampling.
        is_known: frames of ``x0`` that need no generation.
        conditions: arguments of the transformer, each a pair for the prediction with and without the prompt.
        guider: combines the two.
        sample_rate: Hz.
        num_inference_steps: steps of the scheduler.
        strength: 1 starts from noise, less from partly noised ``x0``.
        loop_frames: period of a loop that is generated as a whole.
        is_loop: whether the end joins the start.
        given: given audio, laid out over the whole piece.
        is_kept: samples that stay as given.
        on_step_end: the caller's callback and the names of the tensors it gets.
        metadata: one record per waveform, written into audio files.
    """

    seeds: list[int]
    num_samples: int
    noise: Latents
    x0: Latents
    is_known: Bool[Tensor, " frames"]
    conditions: dict[str, tuple[Tensor, Tensor]]
    guider: BaseGuidance
    sample_rate: int
    num_inference_steps: int
    strength: float
    loop_frames: float | None
    is_loop: bool
    given: Float[Tensor, "batch audio_channels samples"] | None
    is_kept: Bool[Tensor, " samples"]
    on_step_end: tuple[Callable[..., dict[str, Any] | None] | None, Sequence[str]]
    metadata: list[dict[str, Any]]

    @property
    def seconds(self) -> float:
        """Length of each piece."""
        return self.num_samples / self.sample_rate

    def generators(self) -> list[torch.Generator]:
        """A fresh generator per waveform, on the CPU."""
        return [torch.Generator().manual_seed(seed) for seed in self.seeds]
