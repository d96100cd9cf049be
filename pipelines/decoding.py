"""From latents to audio: whole, in pieces as the latents become final, or as a loop."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from autoencoder.chunking import Windows
from autoencoder.noise import place_noise
from pipelines.blending import FADE_IN_S, blend, blend_pieces, close_loop, kept_weights
from pipelines.request import Request
from pipelines.sampling import sample

if TYPE_CHECKING:
    from pipelines.pipeline_music2latent import Music2LatentPipeline

LOOP_CONTEXT = 16  # latent frames decoded again on both sides of a loop: 1.5 s, more than the convolutions reach

Audio = Float[Tensor, "batch channels samples"]
Piece = Float[Tensor, "batch channels _"]


def decode(pipe: "Music2LatentPipeline", request: Request) -> Audio:
    """Audio of the sampled latents, with the kept audio in its place."""
    if request.is_loop:
        audio = _decode_loop(pipe, request)
    else:
        latents = pipe.transformer.denormalize(request.x0)
        audio = pipe.autoencoder.decode(latents, num_samples=request.num_samples, generator=request.generators())
    if request.given is None:
        return audio
    return blend(request.given.to(audio), audio, _weights(request).to(audio.device))


def stream(pipe: "Music2LatentPipeline", request: Request, windows: Windows) -> Iterator[Piece]:
    """Audio in pieces, each as soon as its latents are final; with the usual windows, what ``decode`` gives."""
    if request.is_loop:  # its first sample needs its last latents
        for _ in sample(pipe, request):
            pass
        yield decode(pipe, request)
        return
    pieces = pipe.autoencoder.stream_decode(
        _final_latents(pipe, request),
        num_samples=request.num_samples,
        generator=request.generators(),
        windows=windows,
    )
    yield from pieces if request.given is None else blend_pieces(pieces, request.given, _weights(request))


def _final_latents(pipe: "Music2LatentPipeline", request: Request) -> Iterator[Tensor]:
    done = 0
    for final in sample(pipe, request):
        if final > done:
            yield pipe.transformer.denormalize(request.x0[..., done:final])
            done = final


def _decode_loop(pipe: "Music2LatentPipeline", request: Request) -> Audio:
    """Decode the circle with its ends repeated on both sides, with noise that repeats alike, and cut one turn.

    A turn of a whole number of frames closes by itself. Any other length is cut within its last frame, and what would
    follow is faded into the start.
    """
    codec, num_frames = pipe.autoencoder, request.x0.shape[-1]
    per_latent, samples_per_latent = codec.levels.frames_per_latent, codec.samples_per_latent
    turn = torch.arange(-LOOP_CONTEXT, num_frames + LOOP_CONTEXT) % num_frames
    noise = place_noise(request.seeds, codec.levels.num_bins, num_frames * per_latent)
    fine = (turn[:, None] * per_latent + torch.arange(per_latent)).flatten()
    latents = pipe.transformer.denormalize(request.x0)
    noise = noise[None, ..., fine].repeat_interleave(latents.shape[1] // codec.config.latent_channels, dim=1)
    audio = codec.decode(latents[..., turn], noise=noise)[..., LOOP_CONTEXT * samples_per_latent :]
    rest = num_frames * samples_per_latent - request.num_samples
    beyond = min(round(FADE_IN_S * request.sample_rate), rest)  # further on is the start itself, slightly late
    return close_loop(audio[..., : request.num_samples + beyond], request.num_samples)


def _weights(request: Request) -> Float[Tensor, " samples"]:
    return kept_weights(request.is_kept, round(FADE_IN_S * request.sample_rate), request.is_loop)
