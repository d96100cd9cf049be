"""Given audio: kept where it should be, sample by sample, and everything else generated from it."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from pipelines.editing import DEFAULT_LENGTH_IN_S
from tests.conftest import tone

RATE = 44_100
FADE = round(0.02 * RATE)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def edit(pipeline, audio, prompt="lofi piano", **changes):
    settings = {"num_inference_steps": 2, "output_type": "pt", "generator": seeded()}
    return pipeline(prompt, audio=audio, **(settings | changes)).audio


@pytest.fixture
def music():
    return tone(440, 0.6)


def test_everything_outside_of_the_regions_is_kept_sample_by_sample(pipeline, music):
    regions = [(0.1, 0.2), (0.35, 0.4)]
    result = edit(pipeline, music, regions=regions)
    assert result.shape == (1, 1, 26_460)
    changed = torch.zeros(26_460, dtype=torch.bool)
    for first, last in regions:
        changed[round(first * RATE) - FADE : round(last * RATE) + FADE] = True
        inside = slice(round(first * RATE), round(last * RATE))
        assert (result[0, :, inside] - music[:, inside]).abs().mean() > 1e-2
    assert_close(result[0, :, ~changed], music[:, ~changed], rtol=0, atol=0)


def test_a_mask_says_the_same_as_regions(pipeline, music):
    mask = torch.zeros(26_460, dtype=torch.bool)
    mask[4410:8820] = True
    assert_close(edit(pipeline, music, mask=mask), edit(pipeline, music, regions=[(0.1, 0.2)]), rtol=0, atol=0)
    assert_close(edit(pipeline, music.numpy(), mask=mask.numpy()), edit(pipeline, music, mask=mask), rtol=0, atol=0)


def test_the_known_latents_are_kept_and_only_those(pipeline, music):
    kept = edit(pipeline, music, regions=[(0.1, 0.2)], output_type="latent")
    encoded = pipeline.autoencoder.encode(music[None])
    # 0.1 s is in frame 8, 0.2 s is the beginning of frame 17 whose audio begins 384 samples earlier
    same = (kept - encoded).abs().amax((0, 1)) < 1e-5
    assert same.tolist() == [True] * 8 + [False] * 10 + [True] * (encoded.shape[-1] - 18)


def test_the_prompt_and_the_seed_decide_what_fills_a_region(pipeline, music):
    first = edit(pipeline, music, regions=[(0.1, 0.3)])
    for changed in ({"prompt": "techno"}, {"generator": seeded(1)}):
        assert (edit(pipeline, music, regions=[(0.1, 0.3)], **changed) - first).abs().max() > 1e-3


def test_what_is_kept_has_an_influence_on_what_fills_the_region(pipeline, music):
    inside = slice(7000, 8000)
    here = edit(pipeline, music, regions=[(0.1, 0.2)])[..., inside]
    there = edit(pipeline, tone(3000, 0.6), regions=[(0.1, 0.2)])[..., inside]
    assert (here - there).abs().max() > 1e-3


def test_audio_is_continued(pipeline, music):
    result = edit(pipeline, music, audio_length_in_s=0.9)
    assert result.shape[-1] == 39_690
    assert_close(result[0, :, : 26_460 - FADE], music[:, :-FADE], rtol=0, atol=0)
    assert result[..., 26_460:].abs().mean() > 1e-3


def test_audio_is_led_up_to(pipeline, music):
    result = edit(pipeline, music, audio_start_in_s=0.3)
    assert result.shape[-1] == 39_690
    assert_close(result[0, :, 13_230 + FADE :], music[:, FADE:], rtol=0, atol=0)


def test_audio_in_the_middle_is_extended_both_ways_beyond_the_trained_length(pipeline, music):
    result = edit(pipeline, music, audio_start_in_s=1.0, audio_length_in_s=2.5)
    assert result.shape[-1] == 110_250
    assert_close(result[0, :, 44_100 + FADE : 70_560 - FADE], music[:, FADE:-FADE], rtol=0, atol=0)


def test_a_lower_strength_stays_closer_to_the_audio(pipeline, music):
    encoded = pipeline.autoencoder.encode(music[None])
    settings = {"output_type": "latent", "num_inference_steps": 20, "guidance_scale": 1.0}
    distances = [
        (edit(pipeline, music, strength=strength, **settings) - encoded).norm() for strength in (0.05, 0.3, 0.7)
    ]
    assert distances == sorted(distances)
    assert distances[0] < 0.5 * distances[2]


@pytest.mark.parametrize("strength", [0.5, 0.25])
def test_strength_is_the_share_of_the_steps_that_is_done(pipeline, music, strength):
    steps = []
    edit(
        pipeline,
        music,
        strength=strength,
        num_inference_steps=8,
        callback_on_step_end=lambda _pipe, step, timestep, _tensors: steps.append(timestep.item()),
    )
    assert len(steps) == 8 * strength
    assert steps[0] == 1000 * strength


def test_strength_can_be_limited_to_regions(pipeline, music):
    result = edit(pipeline, music, regions=[(0.1, 0.2)], strength=0.5)
    assert_close(result[0, :, 8820 + FADE :], music[:, 8820 + FADE :], rtol=0, atol=0)
    whole = edit(pipeline, music, regions=[(0.1, 0.2)])
    assert (result - whole)[..., 4410:8820].abs().max() > 1e-3


def test_each_prompt_may_have_its_own_audio(pipeline, music):
    pieces = torch.stack([music, tone(220, 0.6)])
    prompts, generators = ["techno", "lofi"], [seeded(0), seeded(1)]
    together = edit(pipeline, pieces, prompts, regions=[(0.1, 0.2)], generator=generators)
    alone = [edit(pipeline, pieces[k], prompts[k], regions=[(0.1, 0.2)], generator=seeded(k)) for k in range(2)]
    assert_close(together, torch.cat(alone), rtol=0, atol=1e-4)


def test_one_audio_serves_all_waveforms(pipeline, music):
    result = edit(pipeline, music, ["techno", "lofi"], num_waveforms_per_prompt=2, regions=[(0.1, 0.2)])
    assert result.shape == (4, 1, 26_460)
    assert_close(result[..., 12_000:], music[:, 12_000:].expand(4, -1, -1), rtol=0, atol=0)


def test_the_given_audio_is_not_changed(pipeline, music):
    before = music.clone()
    edit(pipeline, music, regions=[(0.1, 0.2)])
    assert_close(music, before, rtol=0, atol=0)


def call(pipeline, **changes):
    return pipeline("lofi", **({"num_inference_steps": 1} | changes))


@pytest.mark.parametrize(
    "changes",
    [{"regions": [(0.0, 0.1)]}, {"mask": torch.ones(9).bool()}, {"strength": 0.5}, {"audio_start_in_s": 0.1}],
)
def test_what_is_to_be_done_with_audio_needs_audio(pipeline, changes):
    name = next(iter(changes))
    with pytest.raises(ValueError, match=f"only given audio can be edited: {name} without audio; pass audio as well"):
        call(pipeline, num_inference_steps=4, **changes)


def test_regions_and_mask_exclude_each_other(pipeline, music):
    with pytest.raises(ValueError, match="either regions, in seconds, or mask, in samples, and not both"):
        call(pipeline, audio=music, regions=[(0.0, 0.1)], mask=torch.ones(26_460).bool())


@pytest.mark.parametrize("shape", [(26_460,), (2, 26_460), (1, 0), (1, 2, 26_460), (1, 1, 1, 9)])
def test_audio_of_another_shape_is_an_error(pipeline, shape):
    with pytest.raises(ValueError, match=r"audio must be \(channels, samples\) or .* with 1 channels, as this"):
        call(pipeline, audio=torch.zeros(shape), regions=[(0.0, 0.1)])


def test_audio_needs_one_piece_per_prompt(pipeline, music):
    with pytest.raises(ValueError, match="one piece or one for each of the 1 prompts, got 2"):
        call(pipeline, audio=torch.stack([music, music]), regions=[(0.0, 0.1)])


@pytest.mark.parametrize("bad", [torch.full((1, 9), 1.5), torch.full((1, 9), float("nan")), torch.ones(1, 9).long()])
def test_audio_must_be_finite_and_within_full_scale(pipeline, bad):
    with pytest.raises(ValueError, match=r"audio must be finite floating-point numbers in \[-1, 1\], got"):
        call(pipeline, audio=bad, regions=[(0.0, 0.1)])


@pytest.mark.parametrize("start", [-0.1, float("nan")])
def test_audio_cannot_start_before_the_piece(pipeline, music, start):
    with pytest.raises(ValueError, match="audio_start_in_s must be at least 0, got"):
        call(pipeline, audio=music, audio_start_in_s=start)


def test_audio_that_does_not_fit_is_an_error(pipeline, music):
    with pytest.raises(ValueError, match=r"of 0\.600 s from 0\.1 s on does not fit into a piece of 0\.500 s: cut it"):
        call(pipeline, audio=music, audio_start_in_s=0.1, audio_length_in_s=0.5)


@pytest.mark.parametrize("region", [(0.2, 0.1), (0.1, 0.1), (-0.1, 0.1), (0.5, 0.7)])
def test_a_region_outside_of_the_piece_is_an_error_that_names_it(pipeline, music, region):
    with pytest.raises(
        ValueError, match=r"regions must be \(start, end\) in seconds .* <= 0\.600, got .* as number 1"
    ):
        call(pipeline, audio=music, regions=[(0.0, 0.1), region])


@pytest.mark.parametrize("mask", [torch.ones(9).bool(), torch.ones(26_460)])
def test_a_mask_of_another_length_or_type_is_an_error(pipeline, music, mask):
    with pytest.raises(ValueError, match="mask must be boolean with one value for each of the 26460 samples"):
        call(pipeline, audio=music, mask=mask)


@pytest.mark.parametrize("strength", [0.0, -0.1, 1.1, float("nan")])
def test_strength_lies_between_0_and_1(pipeline, music, strength):
    with pytest.raises(ValueError, match="strength must be above 0 and at most 1, got"):
        call(pipeline, audio=music, strength=strength)


def test_a_strength_without_a_step_is_an_error_with_the_steps_needed(pipeline, music):
    with pytest.raises(ValueError, match=r"strength 0\.1 of 4 steps leaves none to do; take at least 10 steps"):
        call(pipeline, audio=music, strength=0.1, num_inference_steps=4)


def test_audio_without_anything_to_do_is_an_error_with_the_choices(pipeline, music):
    with pytest.raises(ValueError, match="nothing is left to generate: give regions or a mask"):
        call(pipeline, audio=music)


def test_audio_that_would_not_be_used_is_an_error(pipeline, music):
    with pytest.raises(ValueError, match="all of the audio would be replaced"):
        call(pipeline, audio=music, regions=[(0.0, 0.6)])


def test_variation_needs_audio_everywhere(pipeline, music):
    with pytest.raises(ValueError, match=r"strength below 1 varies given audio, but .* only 0 to 26460 of 44100"):
        call(pipeline, audio=music, strength=0.5, audio_length_in_s=1.0, num_inference_steps=4)


def test_ten_seconds_are_generated_where_nothing_is_said(pipeline):
    result = call(pipeline, output_type="latent").audio
    assert result.shape[-1] == pipeline.autoencoder.num_latent_frames(round(DEFAULT_LENGTH_IN_S * RATE))


def test_np_audio_of_an_output_can_be_edited_again(pipeline):
    first = pipeline("lofi", audio_length_in_s=0.3, num_inference_steps=1).audio
    second = pipeline("lofi", audio=first, regions=[(0.1, 0.2)], num_inference_steps=1).audio
    np.testing.assert_array_equal(second[..., :3500], first[..., :3500])
