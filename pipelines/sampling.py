"""Sampling: follow the guided velocity from noise to latents, window by window.

Symbols
    t     time of the flow: 1 is noise, 0 is data; the scheduler's timestep over its number of training timesteps
    x     ``(1 - t) * x0 + t * noise``

Known frames stay on their straight path to ``x0``: their velocity is ``(x - x0) / t`` whatever the network says, which
any solver of the flow integrates exactly.
"""

import inspect
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from latent_diffusion.conditions import NO_BEAT, beats_at
from pipelines.guidance import set_scale
from pipelines.request import Latents, Request
from pipelines.windows import final_frames, plan_windows

if TYPE_CHECKING:
    from pipelines.pipeline_music2latent import Music2LatentPipeline

CACHE_NAMES = {"pred_cond": "cond", "pred_uncond": "uncond"}


def sample(pipe: "Music2LatentPipeline", request: Request) -> Iterator[int]:
    """Fill in ``request.x0``; yields the number of leading frames that are final, after each window."""
    if request.loop_frames is not None:
        windows = [torch.arange(len(request.is_known))]
    else:
        windows = plan_windows(request.is_known, pipe.transformer.config.max_frames, request.is_loop)
    is_known = request.is_known.clone()
    steps = len(set_timesteps(pipe.scheduler, request, request.x0.device))
    pipe._num_timesteps = steps * len(windows)
    with pipe.progress_bar(total=pipe._num_timesteps) as progress_bar:
        for number, window in enumerate(windows):
            if pipe.interrupt:
                break
            latents = _sample_window(pipe, request, window, is_known[window], number * steps, progress_bar)
            unknown = window[~is_known[window]]
            request.x0[..., unknown] = latents[..., ~is_known[window]]
            is_known[window] = True
            own = pipe._guidance_scale, pipe._attention_kwargs
            yield final_frames(is_known)
            pipe._guidance_scale, pipe._attention_kwargs = own  # between two pieces of a stream, others may be made
    pipe._current_timestep = None
    yield len(is_known)


def set_timesteps(scheduler: Any, request: Request, device: torch.device) -> Tensor:
    """Evenly spaced times from 1 to 0, without the part that ``strength`` skips.

    Schedulers that take no times choose their own.
    """
    num_steps = request.num_inference_steps
    if "sigmas" in inspect.signature(scheduler.set_timesteps).parameters:
        sigmas = np.linspace(1, 1 / num_steps, num_steps)  # an array: UniPC cannot use a list
        scheduler.set_timesteps(sigmas=sigmas, device=device)
    else:
        scheduler.set_timesteps(num_steps, device=device)
    skipped = (num_steps - int(num_steps * request.strength)) * scheduler.order
    if skipped and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(skipped)
    return scheduler.timesteps[skipped:]


def _sample_window(
    pipe: "Music2LatentPipeline",
    request: Request,
    window: Tensor,
    is_known: Bool[Tensor, " window_frames"],
    first_step: int,
    progress_bar: Any,
) -> Float[Tensor, "batch channels window_frames"]:
    scheduler, guider = pipe.scheduler, request.guider
    x0, noise = request.x0[..., window], request.noise[..., window]
    timesteps = set_timesteps(scheduler, request, x0.device)
    conditions = request.conditions | _places(request, x0, window, is_known, pipe.transformer.config)
    step_arguments: dict[str, Any] = {"return_dict": False}
    if "generator" in inspect.signature(scheduler.step).parameters:
        step_arguments["generator"] = _generators_of_window(request, window)  # stochastic ones draw noise in each step
    is_known = is_known.to(x0.device)
    t = timesteps[0] / scheduler.config.num_train_timesteps
    state = {"latents": (1 - t) * x0 + t * noise} | _embeds(conditions)
    on_step_end, callback_names = request.on_step_end
    for step, timestep in enumerate(timesteps):
        if pipe.interrupt:
            break
        pipe._current_timestep = timestep
        set_scale(guider, pipe.guidance_scale)  # a callback may change it
        guider.set_state(step, len(timesteps), timestep)
        t = timestep / scheduler.config.num_train_timesteps
        velocity = _guided_velocity(pipe, guider, state, conditions, t, request.loop_frames)
        velocity = torch.where(is_known, (state["latents"] - x0) / t, velocity)
        state["latents"] = scheduler.step(velocity, timestep, state["latents"], **step_arguments)[0]
        if on_step_end is not None:
            shown = {name: state[name] for name in callback_names}
            state |= on_step_end(pipe, first_step + step, timestep, shown) or {}
        progress_bar.update()
    if hasattr(pipe.transformer, "_reset_stateful_cache"):
        pipe.transformer._reset_stateful_cache()  # what a cache remembers belongs to this window
    return state["latents"]


def _guided_velocity(
    pipe: "Music2LatentPipeline",
    guider: Any,
    state: dict[str, Tensor],
    conditions: dict[str, tuple[Tensor, Tensor]],
    t: Tensor,
    loop_frames: float | None,
) -> Latents:
    """Ask the network once for each prediction that the guider wants, and combine them."""
    transformer, latents = pipe.transformer, state["latents"]
    embeds = state["prompt_embeds"], state["negative_prompt_embeds"]
    batches = guider.prepare_inputs(conditions | {"encoder_hidden_states": embeds})
    for batch in batches:
        guider.prepare_models(transformer)
        asked = {name: getattr(batch, name) for name in conditions}
        asked["encoder_hidden_states"] = asked["encoder_hidden_states"].to(transformer.dtype)
        name = getattr(batch, guider._identifier_key)
        with transformer.cache_context(CACHE_NAMES.get(name, name)):
            batch.noise_pred = transformer(
                latents.to(transformer.dtype),
                t.to(latents.device, torch.float32).expand(len(latents)),
                loop_frames=loop_frames,
                attention_kwargs=pipe._attention_kwargs,
                return_dict=False,
                **asked,
            )[0].float()
        guider.cleanup_models(transformer)
    return guider(batches).pred


def _embeds(conditions: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    prompt, negative = conditions["encoder_hidden_states"]
    return {"prompt_embeds": prompt, "negative_prompt_embeds": negative}


def _places(
    request: Request, x0: Tensor, window: Tensor, is_known: Tensor, config: Any
) -> dict[str, tuple[Tensor, Tensor]]:
    """Where the frames stand in the piece, and the context that is kept; the same with and without the prompt.

    Only a piece that is generated as a whole has a beginning and an end. The windows of a longer one and the frames of
    a loop have no place, which the training has seen as well; their duration is that of the window.
    """
    batch, num_frames = len(x0), len(window)
    if num_frames == len(request.is_known) and not request.is_loop:
        positions, seconds = window / config.latent_rate, request.seconds
    else:
        positions, seconds = torch.full((num_frames,), -1.0), min(num_frames / config.latent_rate, request.seconds)
    since_bar = window / config.latent_rate - torch.tensor([beat or 0.0 for beat in request.first_beats])[:, None]
    beats = beats_at(since_bar.to(x0.device), request.beat_tempo.to(x0.device)[:, None])
    places = {
        "positions": positions.float().expand(batch, -1).to(x0.device),
        "duration": torch.full((batch,), seconds, dtype=torch.float32, device=x0.device),
    }
    if is_known.any():
        mask = is_known.float().expand(batch, 1, -1).to(x0.device)
        places |= {"context_latents": x0 * mask, "context_mask": mask}
    pairs = {name: (value, value) for name, value in places.items()}
    return pairs | {"beats": (beats, torch.full_like(beats, NO_BEAT))}  # they go with the tempo, as in the training


def _generators_of_window(request: Request, window: Tensor) -> list[torch.Generator]:
    seeds: Sequence[int] = request.seeds
    return [torch.Generator().manual_seed((seed + 1 + int(window[0])) % 2**62) for seed in seeds]
