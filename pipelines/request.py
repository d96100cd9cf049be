"""Everything that one call computes with, one row per waveform."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from diffusers.guiders import BaseGuidance
from jaxtyping import Bool, Float
from torch import Tensor

from latent_diffusion.conditions import NO_TEMPO, whole_beats

LOOP_TOLERANCE = 0.02  # of a beat
logger = logging.getLogger(__name__)
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
        first_beats: seconds from the start of each piece to a bar line; None where its beats are not known.
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
    first_beats: list[float | None]
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

    @cached_property
    def beat_tempo(self) -> Float[Tensor, " batch"]:
        """Tempo of the beats that each piece is told of; ``NO_TEMPO`` for none.

        None where no bar line is known, and none in a loop of a broken number of beats.
        """
        tempos = self.conditions["tempo"][0].tolist()
        pairs = zip(tempos, self.first_beats, strict=True)
        return torch.tensor([NO_TEMPO if beat is None else self._beat_tempo(tempo) for tempo, beat in pairs])

    def _beat_tempo(self, tempo: float) -> float:
        if tempo == NO_TEMPO:
            return NO_TEMPO
        fitting = whole_beats(self.seconds, tempo)
        if self.is_loop and abs(self.seconds - fitting) * tempo / 60 >= LOOP_TOLERANCE:
            logger.warning(
                "a loop of %.2f s has %.2f beats at tempo %g: the tempo is only a hint; audio_length_in_s=%.4f fits",
                self.seconds, self.seconds * tempo / 60, tempo, fitting,
            )  # fmt: skip
            return NO_TEMPO
        return tempo

    def generators(self) -> list[torch.Generator]:
        """A fresh generator per waveform, on the CPU."""
        return [torch.Generator().manual_seed(seed) for seed in self.seeds]
