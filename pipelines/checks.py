"""The arguments of a call, and what is wrong with them: every message says what to pass instead."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latent_diffusion.conditions import key_index, tempo_value
from latent_diffusion.text import count_prompts

OUTPUT_TYPES = ("np", "pt", "latent")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The arguments of ``Music2LatentPipeline.__call__``, which documents them."""

    prompt: str | Sequence[str] | None
    negative_prompt: str | Sequence[str] | None
    audio_length_in_s: float | None
    num_inference_steps: int
    guidance_scale: float | None
    guidance_rescale: float | None
    guidance_interval: tuple[float, float] | None
    tempo: float | Sequence[float | None] | None
    key: str | Sequence[str | None] | None
    first_beat_in_s: float | Sequence[float | None] | None
    audio: Tensor | np.ndarray | None
    audio_start_in_s: float
    regions: Sequence[tuple[float, float]] | None
    mask: Tensor | np.ndarray | None
    strength: float
    loop: bool
    num_waveforms_per_prompt: int
    generator: torch.Generator | Sequence[torch.Generator] | None
    latents: Tensor | None
    prompt_embeds: Tensor | None
    prompt_attention_mask: Tensor | None
    negative_prompt_embeds: Tensor | None
    negative_prompt_attention_mask: Tensor | None
    output_type: str
    return_dict: bool
    callback_on_step_end: Callable[..., dict[str, Any] | None] | None
    callback_on_step_end_tensor_inputs: Sequence[str]

    @property
    def num_prompts(self) -> int:
        """Rows that are asked for, before ``num_waveforms_per_prompt``."""
        return count_prompts("prompt", self.prompt) if self.prompt_embeds is None else len(self.prompt_embeds)

    def per_prompt(self, name: str) -> list[Any]:
        """Values of ``tempo``, ``key`` or ``first_beat_in_s``, one for each prompt."""
        value = getattr(self, name)
        return list(value) if isinstance(value, list | tuple | np.ndarray) else [value] * self.num_prompts


def check_prompts(arguments: Arguments) -> None:
    """Prompts, embeddings, and the musical conditions of each."""
    if (arguments.prompt is None) == (arguments.prompt_embeds is None):
        got = "neither" if arguments.prompt is None else "both"
        raise ValueError(f"pass either prompt or prompt_embeds, and not both; got {got}")
    if arguments.negative_prompt is not None and arguments.negative_prompt_embeds is not None:
        raise ValueError("pass either negative_prompt or negative_prompt_embeds, and not both")
    for name in ("prompt", "negative_prompt"):
        embeds, mask = getattr(arguments, f"{name}_embeds"), getattr(arguments, f"{name}_attention_mask")
        if (embeds is None) != (mask is None):
            raise ValueError(f"{name}_embeds and {name}_attention_mask belong together: pass both or neither")
    num_prompts, negative = arguments.num_prompts, arguments.negative_prompt
    if negative is not None and count_prompts("negative_prompt", negative) not in (1, num_prompts):
        raise ValueError(
            f"negative_prompt must be one text or one for each of the {num_prompts} prompts, got {len(negative)}"
        )
    negative_embeds = arguments.negative_prompt_embeds
    if negative_embeds is not None and len(negative_embeds) != num_prompts:
        raise ValueError(
            f"negative_prompt_embeds must have one row for each of the {num_prompts} prompts, "
            f"got {len(negative_embeds)}"
        )
    for name, check in (("tempo", tempo_value), ("key", key_index), ("first_beat_in_s", _check_seconds)):
        values = arguments.per_prompt(name)
        if len(values) != num_prompts:
            raise ValueError(
                f"{name} must be one value or one for each of the {num_prompts} prompts, got {len(values)}"
            )
        for value in values:
            check(value)


def _check_seconds(value: float | None) -> None:
    if value is not None and not math.isfinite(value):
        raise ValueError(f"first_beat_in_s must be a finite number of seconds, got {value}")


def check_settings(arguments: Arguments, sample_rate: int, callback_tensors: Sequence[str]) -> None:
    """Lengths, counts, guidance and output."""
    for name in ("audio_length_in_s", "num_inference_steps", "num_waveforms_per_prompt", "strength"):
        value, kind = getattr(arguments, name), Integral if name.startswith("num") else Real
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"{name} must be {'a whole' if kind is Integral else 'a'} number, got {value!r}")
    given = arguments.generator
    generators = given if isinstance(given, Sequence) else [] if given is None else [given]
    if not all(isinstance(one, torch.Generator) for one in generators):
        raise TypeError(
            f"generator must be a torch.Generator or a list of them, got {arguments.generator!r}; for a seed pass "
            "torch.Generator().manual_seed(seed)"
        )
    seconds = arguments.audio_length_in_s
    if seconds is not None and not (math.isfinite(seconds) and seconds * sample_rate >= 1):
        raise ValueError(f"audio_length_in_s must be finite and at least one sample, got {seconds}")
    for name in ("num_inference_steps", "num_waveforms_per_prompt"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(arguments, name)}")
    for name in ("guidance_scale", "guidance_rescale"):
        value = getattr(arguments, name)
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be a finite number of at least 0, got {value}")
    if arguments.guidance_rescale is not None and arguments.guidance_rescale > 1:
        raise ValueError(f"guidance_rescale must be from 0 to 1, got {arguments.guidance_rescale}")
    interval = arguments.guidance_interval
    if interval is not None and not (len(interval) == 2 and 0 <= interval[0] < interval[1] <= 1):
        raise ValueError(f"guidance_interval must be (start, stop) with 0 <= start < stop <= 1, got {interval}")
    if arguments.output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type must be one of {OUTPUT_TYPES}, got {arguments.output_type!r}")
    unknown = set(arguments.callback_on_step_end_tensor_inputs) - set(callback_tensors)
    if unknown:
        raise ValueError(
            f"callback_on_step_end_tensor_inputs may hold {tuple(callback_tensors)}, got also {sorted(unknown)}"
        )
    generator = arguments.generator
    num_waveforms = arguments.num_prompts * arguments.num_waveforms_per_prompt
    if isinstance(generator, Sequence) and len(generator) != num_waveforms:
        raise ValueError(
            f"a list of generators needs one per waveform: {num_waveforms} waveforms, {len(generator)} generators"
        )


def check_strength(arguments: Arguments) -> None:
    """Strength leaves at least one step to do."""
    steps, strength = arguments.num_inference_steps, arguments.strength
    if not 0 < strength <= 1:
        raise ValueError(f"strength must be above 0 and at most 1, got {strength}")
    if int(steps * strength) < 1:
        raise ValueError(
            f"strength {strength} of {steps} steps leaves none to do; take at least {math.ceil(1 / strength)} steps"
        )


def check_editing(arguments: Arguments, num_channels: int) -> None:
    """Given audio, and what is to be done with it."""
    audio = arguments.audio
    check_strength(arguments)
    if audio is None:
        used = {"regions": arguments.regions, "mask": arguments.mask}
        names = [name for name, value in used.items() if value is not None]
        names += ["strength"] * (arguments.strength != 1) + ["audio_start_in_s"] * (arguments.audio_start_in_s != 0)
        if names:
            raise ValueError(f"only given audio can be edited: {', '.join(names)} without audio; pass audio as well")
        return
    if not isinstance(audio, Tensor | np.ndarray):
        raise TypeError(
            f"audio must be a tensor, an array or the output of a call, got {type(audio).__name__}; read files with "
            "autoencoder.audio.read_audio"
        )
    if arguments.regions is not None and arguments.mask is not None:
        raise ValueError("pass either regions, in seconds, or mask, in samples, and not both")
    if audio.ndim not in (2, 3) or 0 in audio.shape or audio.shape[-2] != num_channels:
        raise ValueError(
            f"audio must be (channels, samples) or (batch, channels, samples) with {num_channels} channels, as this "
            f"transformer makes, and not empty; got {tuple(audio.shape)}; audio[None] adds an axis of channels, and "
            "latents have to be decoded first"
        )
    if audio.ndim == 3 and len(audio) not in (1, arguments.num_prompts):
        raise ValueError(
            f"audio must be one piece or one for each of the {arguments.num_prompts} prompts, got {len(audio)}"
        )
    tensor = torch.as_tensor(audio)
    if not tensor.is_floating_point() or not tensor.isfinite().all() or tensor.abs().max() > 1:
        raise ValueError(
            f"audio must be finite floating-point numbers in [-1, 1], got {tensor.dtype} up to "
            f"{tensor.abs().max().item():.4g}; scale it first, 16-bit integers by 1 / 32768"
        )
    if not (math.isfinite(arguments.audio_start_in_s) and arguments.audio_start_in_s >= 0):
        raise ValueError(f"audio_start_in_s must be at least 0, got {arguments.audio_start_in_s}")
