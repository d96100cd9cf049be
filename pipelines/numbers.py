"""Tempo and key of each waveform: as given, or as the prompt states, or a tempo that suits the prompt."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from latent_diffusion.conditions import MAX_TEMPO, MIN_TEMPO, stated_key, stated_tempo, whole_beats
from latent_diffusion.tempo_prior import TempoPrior
from pipelines.checks import Arguments


def keys_of_call(arguments: Arguments) -> list[str | None]:
    """Key of each waveform; None where it is free."""
    return _given_or_stated(arguments, "key", stated_key)


def tempos_of_call(
    arguments: Arguments,
    prior: TempoPrior | None,
    prompt_embeds: Float[Tensor, "batch tokens dim"],
    prompt_mask: Bool[Tensor, "batch tokens"],
    seeds: Sequence[int],
    seconds: float,
) -> list[float | None]:
    """Tempo of each waveform; None where it is free: without a prior, and beside given audio, which has its own.

    A drawn tempo follows from the seed of the waveform alone. In a loop it is the nearest of which whole beats fit.
    """
    tempos = _given_or_stated(arguments, "tempo", stated_tempo)
    if prior is None or arguments.audio is not None or None not in tempos:
        return tempos
    # numbers of their own, apart from the noise of the piece
    uniform = torch.tensor([np.random.default_rng([seed, 1]).random() for seed in seeds])
    drawn = prior.draw(prompt_embeds, prompt_mask, uniform)
    suggested = [_fitting_tempo(tempo, seconds) for tempo in drawn] if arguments.loop else drawn
    return [one if one is not None else other for one, other in zip(tempos, suggested, strict=True)]


def _fitting_tempo(tempo: float, seconds: float) -> float | None:
    """The nearest tempo of which whole beats fill a loop; None if the loop is too short for one."""
    fitting = tempo * whole_beats(seconds, tempo) / seconds
    return fitting if MIN_TEMPO <= fitting <= MAX_TEMPO else None


def _given_or_stated(arguments: Arguments, name: str, stated: Callable[[str], Any]) -> list[Any]:
    prompt = arguments.prompt
    texts = [prompt] * arguments.num_prompts if prompt is None or isinstance(prompt, str) else prompt
    values = [
        stated(text) if value is None and text is not None else value
        for value, text in zip(arguments.per_prompt(name), texts, strict=True)
    ]
    return [value for value in values for _ in range(arguments.num_waveforms_per_prompt)]
