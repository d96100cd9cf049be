"""Guidance through diffusers' guiders, as arguments of a call and as a part of the pipeline."""

import pytest
import torch
from diffusers.guiders import (
    AdaptiveProjectedGuidance,
    ClassifierFreeGuidance,
    ClassifierFreeZeroStarGuidance,
    MagnitudeAwareGuidance,
    SkipLayerGuidance,
    TangentialClassifierFreeGuidance,
)
from diffusers.hooks import LayerSkipConfig
from torch.testing import assert_close

from pipelines import Music2LatentPipeline


def generate(pipeline, **changes):
    settings = {"audio_length_in_s": 0.2, "num_inference_steps": 4, "output_type": "latent"}
    seeded = torch.Generator().manual_seed(0)
    return pipeline("lofi piano", generator=seeded, **(settings | changes)).audio


def count_calls(pipeline) -> list[int]:
    calls = []
    pipeline.transformer.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


def test_without_a_guider_it_is_classifier_free_guidance_of_scale_7(pipeline):
    plain = generate(pipeline)
    assert_close(generate(pipeline, guidance_scale=7.0), plain, rtol=0, atol=0)
    pipeline.guider = ClassifierFreeGuidance(guidance_scale=7.0)
    assert_close(generate(pipeline), plain, rtol=0, atol=0)


def test_the_scale_of_the_guider_is_used_where_a_call_gives_none(pipeline):
    expected = generate(pipeline, guidance_scale=2.0)
    pipeline.guider = ClassifierFreeGuidance(guidance_scale=2.0)
    assert_close(generate(pipeline), expected, rtol=0, atol=0)
    assert (generate(pipeline, guidance_scale=6.0) - expected).abs().max() > 1e-3
    assert pipeline.guider.guidance_scale == 2.0


def test_a_scale_below_one_is_no_guidance(pipeline):
    calls = count_calls(pipeline)
    plain = generate(pipeline, guidance_scale=1.0)
    assert_close(generate(pipeline, guidance_scale=0.0), plain, rtol=0, atol=0)
    assert len(calls) == 4 + 4
    assert not pipeline.do_classifier_free_guidance
    pipeline.guider = ClassifierFreeGuidance(guidance_scale=0.0, use_original_formulation=True)
    assert_close(generate(pipeline), plain, rtol=0, atol=0)


def test_rescaling_brings_the_spread_of_the_unguided_prediction_back(pipeline):
    settings = {"num_inference_steps": 1, "latents": torch.zeros(1, 4, 18)}
    plain = generate(pipeline, guidance_scale=1.0, **settings)
    guided = generate(pipeline, guidance_scale=40.0, **settings)
    rescaled = generate(pipeline, guidance_scale=40.0, guidance_rescale=1.0, **settings)
    assert guided.std() > 1.05 * plain.std()
    assert_close(rescaled.std(), plain.std(), rtol=1e-3, atol=0)


def test_guidance_costs_a_second_call_only_within_its_interval(pipeline):
    calls = count_calls(pipeline)
    generate(pipeline, guidance_interval=(0.25, 0.75))
    assert len(calls) == 4 + 2
    calls.clear()
    generate(pipeline, guidance_scale=1.0)
    assert len(calls) == 4


def test_the_interval_changes_the_music(pipeline):
    inside = generate(pipeline, guidance_interval=(0.25, 0.75))
    assert (inside - generate(pipeline)).abs().max() > 1e-3
    assert (inside - generate(pipeline, guidance_scale=1.0)).abs().max() > 1e-3


GUIDERS = [
    AdaptiveProjectedGuidance(guidance_scale=4.0, adaptive_projected_guidance_momentum=-0.5, eta=0.0),
    ClassifierFreeZeroStarGuidance(guidance_scale=4.0),
    MagnitudeAwareGuidance(guidance_scale=4.0),
    TangentialClassifierFreeGuidance(guidance_scale=4.0),
]


@pytest.mark.parametrize("guider", GUIDERS, ids=lambda guider: type(guider).__name__)
def test_other_guiders_give_other_music_and_no_memory_of_the_last_call(pipeline, guider):
    plain = generate(pipeline)
    pipeline.guider = guider
    guided = generate(pipeline)
    assert guided.isfinite().all()
    assert (guided - plain).abs().max() > 1e-4
    assert_close(generate(pipeline), guided, rtol=0, atol=0)


@pytest.mark.parametrize("guider", GUIDERS, ids=lambda guider: type(guider).__name__)
def test_neighbours_have_no_influence_through_the_guider(pipeline, guider):
    pipeline.guider = guider
    settings = {"audio_length_in_s": 0.2, "num_inference_steps": 3, "output_type": "latent"}

    def seeds(*numbers):
        return [torch.Generator().manual_seed(number) for number in numbers]

    together = pipeline(["techno", "lofi"], generator=seeds(0, 1), **settings).audio
    alone = pipeline("techno", generator=seeds(0), **settings).audio
    assert_close(together[:1], alone, rtol=0, atol=1e-4)


def test_a_guider_that_skips_layers_works_too(pipeline):
    plain, calls = generate(pipeline), count_calls(pipeline)
    config = LayerSkipConfig(indices=[1], fqn="transformer_blocks")
    pipeline.guider = SkipLayerGuidance(
        guidance_scale=4.0, skip_layer_config=config, skip_layer_guidance_start=0.0, skip_layer_guidance_stop=1.0
    )
    guided = generate(pipeline)
    assert len(calls) > 8
    assert (guided - plain).abs().max() > 1e-4
    pipeline.guider = None
    assert_close(generate(pipeline), plain, rtol=0, atol=0)


def test_a_guider_is_saved_with_the_pipeline(pipeline, tmp_path):
    pipeline.guider = AdaptiveProjectedGuidance(guidance_scale=3.0, eta=0.5)
    expected = generate(pipeline)
    pipeline.save_pretrained(tmp_path)
    loaded = Music2LatentPipeline.from_pretrained(tmp_path)
    assert isinstance(loaded.guider, AdaptiveProjectedGuidance)
    assert loaded.guider.config.eta == 0.5
    loaded.set_progress_bar_config(disable=True)
    assert_close(generate(loaded), expected, rtol=0, atol=0)
