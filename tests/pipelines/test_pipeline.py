"""What a call of the pipeline gives: lengths, types, seeds, batches, conditions, callbacks, schedulers."""

import numpy as np
import pytest
import torch
from diffusers.schedulers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor
from torch.testing import assert_close

from autoencoder.noise import draw_seeds
from pipelines import Music2LatentPipeline
from pipelines.output import Music2LatentPipelineOutput

SECONDS = 0.2
PROMPTS = ["lofi piano beat slow ambient pads", "techno", "sine low", ""]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def generate(pipeline: Music2LatentPipeline, prompt: str | list[str] | None = "lofi piano", **changes) -> Tensor:
    settings = {"audio_length_in_s": SECONDS, "num_inference_steps": 2, "output_type": "pt", "generator": seeded(0)}
    return pipeline(prompt, **(settings | changes)).audio


def generate_latents(
    pipeline: Music2LatentPipeline, prompt: str | list[str] | None = "lofi piano", **changes
) -> Tensor:
    return generate(pipeline, prompt, output_type="latent", **changes)


def assert_differ(actual: Tensor, expected: Tensor) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() > 1e-3


@pytest.mark.parametrize("seconds", [1 / 44_100, 0.01, 0.123456, 0.5, 1.0])
def test_audio_has_exactly_the_length_asked_for(pipeline, seconds):
    assert generate(pipeline, audio_length_in_s=seconds).shape == (1, 1, round(seconds * 44_100))


def test_the_longest_length_is_what_the_transformer_was_trained_on(pipeline):
    longest = pipeline.max_audio_length_in_s
    assert generate_latents(pipeline, audio_length_in_s=longest).shape[-1] == pipeline.transformer.config.max_frames


def test_audio_is_float32_within_full_scale(pipeline):
    audio = generate(pipeline)
    assert audio.dtype == torch.float32
    assert audio.isfinite().all()
    assert 0 < audio.abs().max() <= 1


@pytest.mark.parametrize("return_dict", [True, False])
@pytest.mark.parametrize(
    ("output_type", "kind", "shape"),
    [("np", np.ndarray, (1, 1, 8820)), ("pt", Tensor, (1, 1, 8820)), ("latent", Tensor, (1, 4, 18))],
)
def test_every_output_type_comes_as_object_and_as_tuple(pipeline, output_type, kind, shape, return_dict):
    result = pipeline(
        "lofi", audio_length_in_s=SECONDS, num_inference_steps=1, output_type=output_type, return_dict=return_dict
    )
    assert isinstance(result, Music2LatentPipelineOutput if return_dict else tuple)
    assert len(result) == (3 if return_dict else 1)
    assert isinstance(result[0], kind)
    assert result[0].shape == shape
    assert result[0].dtype in (np.float32, torch.float32)


def test_output_knows_its_sample_rate_and_the_other_spelling_of_audio(pipeline):
    result = pipeline("lofi", audio_length_in_s=SECONDS, num_inference_steps=1)
    assert result.sample_rate == pipeline.sample_rate == 44_100
    assert result.audios is result.audio


def test_np_and_pt_hold_the_same_numbers(pipeline):
    as_array = generate(pipeline, output_type="np")
    assert_close(torch.from_numpy(as_array), generate(pipeline), rtol=0, atol=0)


def test_latents_decode_to_the_same_audio(pipeline):
    latents = generate_latents(pipeline, generator=seeded(3))
    decoding = [seeded(seed) for seed in draw_seeds(seeded(3), 1)]
    decoded = pipeline.autoencoder.decode(latents, num_samples=8820, generator=decoding)
    assert_close(decoded, generate(pipeline, generator=seeded(3)), rtol=0, atol=0)


def test_latents_are_on_the_scale_of_the_codec(pipeline):
    plain = generate_latents(pipeline)
    pipeline.transformer.register_to_config(latents_mean=[1.0, 2.0, 3.0, 4.0], latents_std=[2.0] * 4)
    expected = 2 * plain + torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None]
    assert_close(generate_latents(pipeline), expected)


def test_weights_collect_no_gradients_during_a_call(pipeline):
    assert not generate(pipeline).requires_grad


def test_the_same_seed_gives_the_same_audio_bit_for_bit(pipeline):
    assert_close(generate(pipeline, generator=seeded(5)), generate(pipeline, generator=seeded(5)), rtol=0, atol=0)


def test_another_seed_gives_other_latents_and_other_audio(pipeline):
    assert_differ(generate_latents(pipeline, generator=seeded(6)), generate_latents(pipeline, generator=seeded(5)))
    assert_differ(generate(pipeline, generator=seeded(6)), generate(pipeline, generator=seeded(5)))


def test_without_a_generator_the_global_seed_decides(pipeline):
    torch.manual_seed(1)
    first = generate(pipeline, generator=None)
    assert_differ(generate(pipeline, generator=None), first)
    torch.manual_seed(1)
    assert_close(generate(pipeline, generator=None), first, rtol=0, atol=0)


def test_a_batch_equals_single_calls(pipeline):
    together = generate(pipeline, PROMPTS, generator=[seeded(k) for k in range(4)])
    alone = [generate(pipeline, prompt, generator=seeded(k)) for k, prompt in enumerate(PROMPTS)]
    assert_close(together, torch.cat(alone), rtol=0, atol=1e-4)


def test_neighbours_have_no_influence(pipeline):
    with_long = generate_latents(pipeline, ["techno", PROMPTS[0]], generator=[seeded(0), seeded(1)])
    with_short = generate_latents(pipeline, ["techno", ""], generator=[seeded(0), seeded(2)])
    assert_close(with_long[0], with_short[0], rtol=0, atol=1e-5)


def test_padding_tokens_have_no_influence(pipeline):
    embeds, mask, *_ = pipeline.encode_prompt("lofi piano")
    padded = torch.cat([embeds, torch.full((1, 3, 32), 50.0)], dim=1)
    padded_mask = torch.cat([mask, torch.zeros(1, 3, dtype=torch.bool)], dim=1)
    result = generate_latents(pipeline, None, prompt_embeds=padded, prompt_attention_mask=padded_mask)
    assert_close(result, generate_latents(pipeline), rtol=0, atol=1e-5)


def test_waveforms_of_a_prompt_follow_each_other(pipeline):
    prompts = ["techno", "slow ambient pads"]
    together = generate_latents(pipeline, prompts, num_waveforms_per_prompt=2, generator=[seeded(k) for k in range(4)])
    alone = [generate_latents(pipeline, prompts[k // 2], generator=seeded(k)) for k in range(4)]
    assert_close(together, torch.cat(alone), rtol=0, atol=1e-4)


def test_one_generator_gives_each_waveform_its_own_noise(pipeline):
    first, second = generate_latents(pipeline, num_waveforms_per_prompt=2)
    assert_differ(first, second)


def test_negative_prompts_are_paired_with_their_prompts(pipeline):
    prompts, negatives = ["techno", "lofi"], ["slow", "fast beat"]
    generators = [seeded(0), seeded(1)]
    together = generate_latents(pipeline, prompts, negative_prompt=negatives, generator=generators)
    alone = [
        generate_latents(pipeline, prompts[k], negative_prompt=negatives[k], generator=seeded(k)) for k in range(2)
    ]
    assert_close(together, torch.cat(alone), rtol=0, atol=1e-4)


def test_the_prompt_changes_the_music(pipeline):
    assert_differ(generate_latents(pipeline, "techno"), generate_latents(pipeline, "ambient pads"))


def test_the_negative_prompt_changes_the_music(pipeline):
    assert_differ(generate_latents(pipeline, negative_prompt="techno"), generate_latents(pipeline))


def test_no_negative_prompt_means_the_empty_prompt(pipeline):
    assert_close(generate_latents(pipeline, negative_prompt=""), generate_latents(pipeline), rtol=0, atol=0)


def test_the_negative_prompt_is_ignored_without_guidance(pipeline):
    plain = generate_latents(pipeline, guidance_scale=1.0)
    assert_close(generate_latents(pipeline, guidance_scale=1.0, negative_prompt="techno"), plain, rtol=0, atol=0)


def test_guidance_extrapolates_away_from_the_negative_prompt(pipeline):
    """With one step the result is linear in the guidance scale."""
    low, middle, high = (generate_latents(pipeline, num_inference_steps=1, guidance_scale=s) for s in (1.0, 2.0, 4.0))
    assert_close(high - low, 3 * (middle - low), rtol=1e-3, atol=1e-4)


def test_guidance_counts_tempo_and_key_as_part_of_the_prompt(pipeline):
    plain = {"num_inference_steps": 1, "tempo": 90.0, "key": "A minor", "negative_prompt": "lofi piano"}
    assert_differ(
        generate_latents(pipeline, guidance_scale=4.0, **plain),
        generate_latents(pipeline, guidance_scale=1.0, **plain),
    )


@pytest.mark.parametrize("numbers", [{"tempo": 90.0}, {"key": "F# minor"}])
def test_tempo_and_key_change_the_music(pipeline, numbers):
    assert_differ(generate_latents(pipeline, **numbers), generate_latents(pipeline))


def test_the_value_of_the_tempo_matters(pipeline):
    assert_differ(generate_latents(pipeline, tempo=90.0), generate_latents(pipeline, tempo=140.0))


def test_the_length_asked_for_is_a_condition(pipeline):
    """Two lengths that need the same number of frames."""
    assert_differ(
        generate_latents(pipeline, audio_length_in_s=0.200), generate_latents(pipeline, audio_length_in_s=0.198)
    )


def test_tempo_and_key_of_none_are_the_same_as_not_given(pipeline):
    assert_close(generate_latents(pipeline, tempo=None, key=None), generate_latents(pipeline), rtol=0, atol=0)


def test_prompt_embeds_are_the_same_as_the_prompt(pipeline):
    names = "prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask"
    tensors = pipeline.encode_prompt("lofi piano", "techno")
    from_embeds = generate_latents(pipeline, None, **dict(zip(names, tensors, strict=True)))
    assert_close(from_embeds, generate_latents(pipeline, negative_prompt="techno"), rtol=0, atol=0)


def test_prompt_embeds_of_two_prompts_are_repeated_in_order(pipeline):
    embeds, mask, *_ = pipeline.encode_prompt(["techno", "lofi"])
    settings = {"num_waveforms_per_prompt": 2, "generator": [seeded(k) for k in range(4)]}
    from_embeds = generate_latents(pipeline, None, prompt_embeds=embeds, prompt_attention_mask=mask, **settings)
    settings["generator"] = [seeded(k) for k in range(4)]
    assert_close(from_embeds, generate_latents(pipeline, ["techno", "lofi"], **settings), rtol=0, atol=0)


def test_the_starting_noise_can_be_given(pipeline):
    noise = torch.randn(1, 4, 18)
    first = generate_latents(pipeline, latents=noise, generator=seeded(0))
    assert_close(generate_latents(pipeline, latents=noise, generator=seeded(1)), first, rtol=0, atol=0)
    assert_differ(generate_latents(pipeline, latents=-noise), first)


def test_the_callback_sees_steps_timesteps_and_named_tensors(pipeline):
    seen = []
    names = ("latents", "prompt_embeds", "negative_prompt_embeds")

    def watch(pipe, step, timestep, tensors):
        assert pipe is pipeline
        seen.append((step, timestep.item(), tuple(tensors)))
        return {}

    generate(pipeline, callback_on_step_end=watch, callback_on_step_end_tensor_inputs=names, num_inference_steps=4)
    assert seen == [(0, 1000.0, names), (1, 750.0, names), (2, 500.0, names), (3, 250.0, names)]


def test_a_callback_that_returns_nothing_changes_nothing(pipeline):
    watched = generate_latents(pipeline, callback_on_step_end=lambda *_: None)
    assert_close(watched, generate_latents(pipeline), rtol=0, atol=0)


def test_the_callback_can_change_the_latents(pipeline):
    def erase(_pipe, _step, _timestep, tensors):
        return {"latents": torch.zeros_like(tensors["latents"])}

    latents = generate_latents(pipeline, callback_on_step_end=erase)
    assert_close(latents, torch.zeros_like(latents), rtol=0, atol=0)


def test_an_interrupted_call_returns_what_there_is(pipeline):
    states = []

    def stop(pipe, _step, _timestep, tensors):
        states.append(tensors["latents"])
        pipe.interrupt = True
        return {}

    result = generate_latents(pipeline, callback_on_step_end=stop, num_inference_steps=5)
    assert_close(result, states[0], rtol=0, atol=0)
    assert len(states) == 1


def test_an_interruption_does_not_outlive_its_call(pipeline):
    whole = generate(pipeline)
    pipeline.interrupt = True
    assert_close(generate(pipeline), whole, rtol=0, atol=0)


def test_progress_can_be_read_from_a_callback(pipeline):
    progress = []

    def read(pipe, *_):
        progress.append((pipe.num_timesteps, pipe.current_timestep.item(), pipe.guidance_scale))

    generate(pipeline, callback_on_step_end=read, guidance_scale=3.0)
    assert progress == [(2, 1000.0, 3.0), (2, 500.0, 3.0)]
    assert pipeline.current_timestep is None


FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
SCHEDULERS = {
    "heun": FlowMatchHeunDiscreteScheduler(),
    "dpm++": DPMSolverMultistepScheduler(**FLOW),
    "unipc": UniPCMultistepScheduler(**FLOW),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_other_flow_schedulers_follow_the_same_path(pipeline, name):
    gentle = {"guidance_scale": 1.0, "num_inference_steps": 40}
    euler = generate_latents(pipeline, **gentle)
    pipeline.scheduler = SCHEDULERS[name]
    error = generate_latents(pipeline, **gentle) - euler
    assert error.std() < 0.1 * euler.std()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_other_flow_schedulers_give_finite_audio(pipeline, name):
    pipeline.scheduler = SCHEDULERS[name]
    audio = generate(pipeline, num_inference_steps=3)
    assert audio.isfinite().all()
    assert audio.shape == (1, 1, 8820)


def test_a_scheduler_that_shifts_its_times_still_starts_from_pure_noise(pipeline):
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    generate(pipeline, num_inference_steps=3)
    assert pipeline.scheduler.sigmas[0] == 1
    assert pipeline.scheduler.sigmas[-1] == 0


def test_a_bfloat16_transformer_works_with_a_float32_codec(pipeline):
    exact = generate_latents(pipeline)
    pipeline.transformer.to(torch.bfloat16)
    rounded = generate_latents(pipeline)
    assert rounded.dtype == torch.float32
    assert_close(rounded, exact, rtol=0, atol=0.1 * exact.abs().max().item())
    assert generate(pipeline).dtype == torch.float32
