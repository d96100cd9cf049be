"""What of a piece is given and what is generated: masks over samples from seconds, the given audio in its place."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pipelines.checks import Arguments

DEFAULT_LENGTH_IN_S = 10.0


@dataclass(frozen=True)
class Plan:
    """Length of a piece, the given audio in it, and which samples of it stay.

    Attributes:
        num_samples: length of the piece.
        given: (batch or 1, channels, num_samples); where there is no audio, a reflection of what there is. None
            without audio.
        is_kept: samples that stay as given.
    """

    num_samples: int
    given: Float[Tensor, "_ channels samples"] | None
    is_kept: Bool[Tensor, " samples"]


def plan_piece(arguments: Arguments, sample_rate: int) -> Plan:
    """Place the given audio and mark what is generated.

    Raises:
        ValueError: the audio does not fit into the piece, a region lies outside of it, the mask has another length,
            there is nothing to generate, or the audio would not be used.
    """
    if arguments.audio is None:
        seconds = DEFAULT_LENGTH_IN_S if arguments.audio_length_in_s is None else arguments.audio_length_in_s
        num_samples = round(seconds * sample_rate)
        return Plan(num_samples, None, torch.zeros(num_samples, dtype=torch.bool))
    audio = torch.as_tensor(arguments.audio).float()
    audio = audio if audio.ndim == 3 else audio[None]
    start, end = _place(arguments, audio.shape[-1], sample_rate)
    num_samples = end if arguments.audio_length_in_s is None else round(arguments.audio_length_in_s * sample_rate)
    if end > num_samples:
        raise ValueError(
            f"the audio of {audio.shape[-1] / sample_rate:.3f} s from {arguments.audio_start_in_s} s on does not fit "
            f"into a piece of {num_samples / sample_rate:.3f} s: cut it or raise audio_length_in_s"
        )
    is_covered = torch.zeros(num_samples, dtype=torch.bool)
    is_covered[start:end] = True
    is_generated = _generated(arguments, num_samples, sample_rate)
    if arguments.strength < 1 and not is_covered.all():
        raise ValueError(
            f"strength below 1 varies given audio, but the audio covers only {start} to {end} of {num_samples} "
            "samples; continue it first, with strength 1"
        )
    if is_generated is None:  # vary all of it, or fill what it leaves
        is_generated = torch.ones_like(is_covered) if arguments.strength < 1 else ~is_covered
    is_kept = is_covered & ~is_generated
    if is_kept.all():
        raise ValueError(
            "nothing is left to generate: give regions or a mask to replace, a larger audio_length_in_s to continue "
            "into, or a strength below 1 to vary all of the audio"
        )
    if arguments.strength == 1 and not is_kept.any():
        raise ValueError("all of the audio would be replaced: leave it out, shrink the regions, or lower strength")
    return Plan(num_samples, _extend(audio, start, num_samples), is_kept)


def _place(arguments: Arguments, num_samples: int, sample_rate: int) -> tuple[int, int]:
    start = round(arguments.audio_start_in_s * sample_rate)
    return start, start + num_samples


def _generated(arguments: Arguments, num_samples: int, sample_rate: int) -> Bool[Tensor, " samples"] | None:
    """Samples that are asked for anew; None if nothing is said."""
    if arguments.mask is not None:
        mask = torch.as_tensor(arguments.mask)
        if mask.shape != (num_samples,) or mask.dtype != torch.bool:
            raise ValueError(
                f"mask must be boolean with one value for each of the {num_samples} samples, True where the music is "
                f"generated anew; got {mask.dtype} {tuple(mask.shape)}"
            )
        return mask.cpu()  # the plan of a call is made there
    if arguments.regions is None:
        return None
    is_generated = torch.zeros(num_samples, dtype=torch.bool)
    if any(not isinstance(region, list | tuple) or len(region) != 2 for region in arguments.regions):
        raise ValueError(f"regions must be a list of pairs of seconds such as [(1.0, 2.5)], got {arguments.regions!r}")
    for number, (first, last) in enumerate(arguments.regions):
        if not 0 <= first < last <= num_samples / sample_rate:
            raise ValueError(
                f"regions must be (start, end) in seconds with 0 <= start < end <= {num_samples / sample_rate:.3f}, "
                f"got {(first, last)} as number {number}"
            )
        is_generated[round(first * sample_rate) : round(last * sample_rate)] = True
    return is_generated


def _extend(audio: Tensor, start: int, num_samples: int) -> Tensor:
    """Reflect audio beyond its ends, as often as needed, so that no silence is encoded beside it."""
    period = max(2 * (audio.shape[-1] - 1), 1)
    place = torch.arange(-start, num_samples - start) % period
    return audio[..., torch.minimum(place, period - place)]
