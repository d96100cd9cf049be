"""Joining kept audio and decoded audio: a short cross-fade of constant power beside every generated region.

The fade lies in the kept audio, so nothing of what is replaced is left in the region, and every sample further away is
the given one. There the decoded audio is the codec's version of the same music, with other phases: weights ``a`` and
``b`` with correlation ``r`` would give the power ``a**2 + b**2 + 2 * a * b * r``, which is divided out.
"""

from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

FADE_IN_S = 0.02

Audio = Float[Tensor, "batch channels samples"]
Piece = Float[Tensor, "batch channels _"]
Weights = Float[Tensor, " samples"]


def kept_weights(is_kept: Bool[Tensor, " samples"], fade: int, is_loop: bool = False) -> Weights:
    """Weight of the given audio: 0 in generated regions, 1 where kept, a ramp of ``fade`` samples in between.

    In a loop the last sample is beside the first.
    """
    if is_loop:
        beside = min(fade, len(is_kept))
        turn = torch.cat([is_kept[len(is_kept) - beside :], is_kept, is_kept[:beside]])
        return kept_weights(turn, fade)[beside : beside + len(is_kept)]
    place = torch.arange(len(is_kept))
    none = len(is_kept) + fade + 1  # so far away that there is no ramp
    previous = torch.where(is_kept, -none, place).cummax(0).values
    following = torch.where(is_kept, place + none, place).flip(0).cummin(0).values.flip(0)
    distance = torch.minimum(place - previous, following - place)
    return (distance / (fade + 1)).clamp(max=1)


def blend(given: Audio, decoded: Audio, weights: Weights) -> Audio:
    """Mix with constant power; outside of the fades either is returned bit for bit.

    Correlation is measured over each fade, for each channel; the sum stays in [-1, 1] as audio files demand.
    """
    mixed = torch.where(weights >= 1, given, decoded)
    for first, last in _fades(weights):
        zone = slice(first, last)
        a, b, x, y = weights[zone], 1 - weights[zone], given[..., zone], decoded[..., zone]
        energy = (x.square().sum(-1, keepdim=True) * y.square().sum(-1, keepdim=True)).sqrt()
        correlation = ((x * y).sum(-1, keepdim=True) / energy.clamp(min=1e-12)).clamp(0, 1)
        mixed[..., zone] = ((a * x + b * y) / (a**2 + b**2 + 2 * a * b * correlation).sqrt()).clamp(-1, 1)
    return mixed


def blend_pieces(pieces: Iterable[Piece], given: Audio, weights: Weights) -> Iterator[Piece]:
    """``blend`` of audio that arrives in pieces; no piece that is passed on ends within a fade."""
    fades, start = _fades(weights), 0
    waiting: list[Tensor] = []
    for piece in pieces:
        waiting.append(piece)
        end = start + sum(part.shape[-1] for part in waiting)
        stop = next((first for first, last in fades if first < end < last), end)
        if stop > start:
            decoded = torch.cat(waiting, dim=-1)
            ready, waiting = decoded[..., : stop - start], [decoded[..., stop - start :]]
            yield blend(given[..., start:stop].to(ready), ready, weights[start:stop].to(ready.device))
            start = stop


def close_loop(audio: Piece, num_samples: int) -> Audio:
    """Cut a loop from audio that goes on beyond its end; what goes on is faded into the start.

    Without anything beyond the end, the loop closes by itself.
    """
    loop, beyond = audio[..., :num_samples].clone(), audio[..., num_samples:]
    fade = min(beyond.shape[-1], num_samples)
    if fade:
        weights = torch.linspace(1, 0, fade + 2, device=audio.device)[1:-1]
        loop[..., :fade] = blend(beyond[..., :fade], loop[..., :fade], weights)
    return loop


def _fades(weights: Weights) -> list[tuple[int, int]]:
    """First sample and end of every stretch where both are heard."""
    is_fade = torch.nn.functional.pad(((weights > 0) & (weights < 1)).int(), (1, 1))
    edges = is_fade.diff()
    starts, ends = (edges == 1).nonzero().flatten().tolist(), (edges == -1).nonzero().flatten().tolist()
    return list(zip(starts, ends, strict=True))
