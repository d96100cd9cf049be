"""Tempo, key and first beat of each waveform: as given, or as the prompt states, or a tempo that suits the prompt."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from latent_diffusion.conditions import MAX_TEMPO, MIN_TEMPO, whole_beats
from latent_diffusion.stated import stated_key, stated_tempo
from latent_diffusion.tempo_prior import TempoPrior
from pipelines.checks import Arguments
from pipelines.output import Music2LatentPipelineOutput, spread

logger = logging.getLogger(__name__)
FIRST_BEAT_S = 0.03  # a piece starts a little before its first bar line, so that an early note keeps its attack


def arguments_of_call(given: dict[str, Any], sample_rate: int) -> Arguments:
    """The arguments of a call; if ``audio`` is an output of the pipeline, its audio and its beats stand in for it.

    Its tempo counts where none is given, and its first beat where no other tempo is.

    Raises:
        ValueError: the output has another sample rate.
    """
    output = given["audio"]
    if not isinstance(output, Music2LatentPipelineOutput):
        return Arguments(**given)
    arguments = Arguments(**(given | {"audio": output.audio}))
    if output.sample_rate != sample_rate:
        raise ValueError(f"audio is an output of {output.sample_rate} Hz, but this pipeline makes {sample_rate} Hz")
    records = output.metadata or []
    if len(records) not in (1, arguments.num_prompts) or arguments.tempo == 0:
        return arguments
    known = spread([record.get("tempo") or None for record in records], arguments.num_prompts)
    beats = spread([record.get("first_beat_in_s") for record in records], arguments.num_prompts)
    asked = arguments.per_prompt("tempo")
    if len(asked) != arguments.num_prompts:
        return arguments  # an error, which the checks of all arguments name
    tempos: list[Any] = [other if one is None else one for one, other in zip(asked, known, strict=True)]
    if arguments.first_beat_in_s is not None:
        return replace(arguments, tempo=tempos)
    is_known = [one is None or _is_same(one, other) for one, other in zip(asked, known, strict=True)]
    if not all(ours or one == 0 for ours, one in zip(is_known, asked, strict=True)):
        logger.warning(
            "the given audio has the tempo %s: beats of tempo %s are not known in it, and what is generated keeps to "
            "none; pass first_beat_in_s to say where they are", known, asked,
        )  # fmt: skip
    beats = [beat if ours else None for beat, ours in zip(beats, is_known, strict=True)]
    return replace(arguments, tempo=tempos, first_beat_in_s=beats)


def _is_same(tempo: Any, other: float | None) -> bool:
    """Whether two tempos differ by rounding only; what a caller gave may be anything until it is checked."""
    return other is not None and isinstance(tempo, Real) and math.isclose(tempo, other, rel_tol=1e-5)


def check_first_beats(arguments: Arguments) -> None:
    """Given audio whose first beat is known has a tempo.

    Raises:
        ValueError: it has none.
    """
    if arguments.audio is None or arguments.first_beat_in_s is None:
        return
    tempos = _given_or_stated(arguments, "tempo", stated_tempo)
    beats = _given_or_stated(arguments, "first_beat_in_s", lambda _: None)
    if any(beat is not None and not tempo for beat, tempo in zip(beats, tempos, strict=True)):
        raise ValueError("first_beat_in_s says where beats of the given audio are: pass its tempo, 20 to 400, as well")


def keys_of_call(arguments: Arguments) -> list[str | None]:
    """Key of each waveform; None where it is free."""
    return _given_or_stated(arguments, "key", stated_key)


def first_beats_of_call(arguments: Arguments) -> list[float | None]:
    """Seconds from the start of the piece to a bar line, of each waveform; None where beats are not known."""
    beats = _given_or_stated(arguments, "first_beat_in_s", lambda _: None)
    if arguments.audio is None:
        return [FIRST_BEAT_S if beat is None else beat for beat in beats]
    return [None if beat is None else arguments.audio_start_in_s + beat for beat in beats]


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
    texts = spread(arguments.prompt, arguments.num_prompts)
    values = [
        stated(text) if value is None and text is not None else value
        for value, text in zip(arguments.per_prompt(name), texts, strict=True)
    ]
    return [value for value in values for _ in range(arguments.num_waveforms_per_prompt)]
