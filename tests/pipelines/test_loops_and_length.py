"""Loops, and pieces that are longer than what the transformer was trained on."""

import inspect

import pytest
import torch
from torch.testing import assert_close

from pipelines.blending import FADE_IN_S
from pipelines.decoding import LOOP_CONTEXT
from pipelines.sampling import sample

SAMPLES_PER_LATENT = 512


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def generate(pipeline, prompt="lofi piano", **changes):
    settings = {"num_inference_steps": 2, "output_type": "pt", "generator": seeded()}
    return pipeline(prompt, **(settings | changes)).audio


def seconds(num_frames: float) -> float:
    return num_frames * SAMPLES_PER_LATENT / 44_100


@pytest.mark.parametrize("length", [0.5, 1.0, 1.7, 0.123456])
def test_a_loop_has_exactly_the_length_asked_for(pipeline, length):
    assert generate(pipeline, audio_length_in_s=length, loop=True).shape == (1, 1, round(length * 44_100))


def test_rotated_noise_gives_the_rotated_loop(pipeline):
    """Nothing of a loop knows where it begins."""
    noise = torch.randn(1, 4, 40)
    settings = {"audio_length_in_s": seconds(40), "loop": True, "output_type": "latent"}
    here = generate(pipeline, latents=noise, **settings)
    there = generate(pipeline, latents=noise.roll(13, -1), **settings)
    assert_close(there, here.roll(13, -1), rtol=1e-4, atol=1e-4)
    straight = generate(pipeline, latents=noise, audio_length_in_s=seconds(40) - 0.01, output_type="latent")
    rotated = generate(
        pipeline, latents=noise.roll(13, -1), audio_length_in_s=seconds(40) - 0.01, output_type="latent"
    )
    assert (rotated - straight.roll(13, -1)).abs().max() > 1e-2


def test_the_audio_of_a_loop_goes_on_at_its_start(pipeline):
    """Decoded for longer than one turn, a loop of whole frames repeats itself, so its end meets its start."""
    pipeline("lofi", num_inference_steps=1, audio_length_in_s=seconds(40), loop=True)
    turns = []
    inner = pipeline.autoencoder.decode

    def keep(*args, **kwargs):
        turns.append(inner(*args, **kwargs))
        return turns[-1]

    pipeline.autoencoder.decode = keep
    loop = generate(pipeline, audio_length_in_s=seconds(40), loop=True)
    around = turns[0][..., LOOP_CONTEXT * SAMPLES_PER_LATENT :]
    goes_on = around[..., loop.shape[-1] : loop.shape[-1] + 4 * SAMPLES_PER_LATENT]
    assert_close(loop, around[..., : loop.shape[-1]], rtol=0, atol=0)
    error = (goes_on - loop[..., : goes_on.shape[-1]]).abs().max()
    assert error < 0.02 * loop.abs().max()


def test_the_end_of_a_loop_is_faded_into_given_audio_at_its_start(pipeline):
    given = torch.full((1, 22_050), 0.5)
    loop = generate(pipeline, audio=given, audio_length_in_s=0.9, loop=True)[0, 0]
    fade = round(FADE_IN_S * 44_100)
    assert (loop[fade : 22_050 - fade] == 0.5).all()
    steps = loop.diff(append=loop[:1]).abs()
    assert steps[-1] < 3 * steps[22_050:].max()
    assert (loop[: fade // 2] != 0.5).all()


def test_a_batch_of_loops_equals_single_loops(pipeline):
    settings = {"audio_length_in_s": 0.4, "loop": True}
    together = generate(pipeline, ["techno", "lofi"], generator=[seeded(0), seeded(1)], **settings)
    alone = [generate(pipeline, ["techno", "lofi"][k], generator=seeded(k), **settings) for k in range(2)]
    assert_close(together, torch.cat(alone), rtol=0, atol=1e-4)


@pytest.mark.parametrize("loop", [False, True])
def test_a_piece_can_be_longer_than_the_trained_one(pipeline, loop):
    audio = generate(pipeline, audio_length_in_s=2.5, loop=loop)
    assert audio.shape == (1, 1, 110_250)
    assert audio.isfinite().all()
    assert audio[..., -20_000:].std() > 0.1 * audio.std()


def test_the_first_window_of_a_long_piece_does_not_depend_on_its_length(pipeline):
    noise = torch.randn(1, 4, 300)
    short = generate(pipeline, audio_length_in_s=seconds(200) - 0.01, latents=noise[..., :200], output_type="latent")
    long = generate(pipeline, audio_length_in_s=seconds(300) - 0.01, latents=noise, output_type="latent")
    assert_close(long[..., :90], short[..., :90], rtol=1e-4, atol=1e-4)


def test_later_windows_depend_on_earlier_ones(pipeline):
    noise = torch.randn(1, 4, 200)
    settings = {"audio_length_in_s": seconds(200) - 0.01, "output_type": "latent"}
    first = generate(pipeline, latents=noise, **settings)
    changed = noise.clone()
    changed[..., :20] += 1
    second = generate(pipeline, latents=changed, **settings)
    assert (second - first)[..., 100:].abs().max() > 1e-3


def test_a_batch_of_long_pieces_equals_single_calls(pipeline):
    prompts = ["techno", "lofi"]
    together = generate(pipeline, prompts, generator=[seeded(0), seeded(1)], audio_length_in_s=1.5)
    alone = [generate(pipeline, prompts[k], generator=seeded(k), audio_length_in_s=1.5) for k in range(2)]
    assert_close(together, torch.cat(alone), rtol=0, atol=1e-4)


def test_steps_are_counted_over_all_windows(pipeline):
    steps = []

    def watch(pipe, step, _timestep, tensors):
        steps.append((step, pipe.num_timesteps, tensors["latents"].shape[-1]))

    generate(pipeline, audio_length_in_s=2.0, callback_on_step_end=watch)
    assert steps == [(step, 6, 90) for step in range(6)]


def test_an_interrupted_long_piece_keeps_its_length(pipeline):
    def stop(pipe, step, *_):
        pipe.interrupt = step == 2

    audio = generate(pipeline, audio_length_in_s=2.0, callback_on_step_end=stop)
    assert audio.shape == (1, 1, 88_200)


def test_latents_become_final_window_by_window(pipeline):
    arguments = {"audio_length_in_s": 2.0, "num_inference_steps": 1, "generator": seeded()}
    bound = inspect.signature(pipeline.__call__).bind("lofi", **arguments)
    bound.apply_defaults()
    with torch.no_grad():
        assert list(sample(pipeline, pipeline._prepare(**bound.arguments))) == [90, 158, 174, 174]
