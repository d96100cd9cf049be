"""Wrong arguments and parts that do not belong together: each error says what to do instead."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from diffusers.configuration_utils import register_to_config
from diffusers.guiders import BaseGuidance
from transformers import BertConfig, BertModel

from autoencoder import Music2LatentAutoencoder
from latent_diffusion import LatentDiT
from pipelines import Music2LatentPipeline
from tests.conftest import TINY_CODEC, TINY_DIT


def call(pipeline, prompt="lofi", **changes):
    return pipeline(prompt, **({"audio_length_in_s": 0.2, "num_inference_steps": 1} | changes))


@pytest.mark.parametrize("seconds", [0.0, -1.0, 1e-6, float("nan"), float("inf")])
def test_a_length_must_be_finite_and_at_least_one_sample(pipeline, seconds):
    with pytest.raises(ValueError, match=r"audio_length_in_s must be finite and at least one sample, got"):
        call(pipeline, audio_length_in_s=seconds)


@pytest.mark.parametrize("name", ["num_inference_steps", "num_waveforms_per_prompt"])
def test_counts_must_be_positive(pipeline, name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        call(pipeline, **{name: 0})


def test_an_unknown_output_type_is_an_error_with_the_choices(pipeline):
    with pytest.raises(ValueError, match=r"output_type must be one of \('np', 'pt', 'latent'\), got 'wav'"):
        call(pipeline, output_type="wav")


def test_an_unknown_callback_tensor_is_an_error_with_the_choices(pipeline):
    with pytest.raises(ValueError, match=r"may hold \('latents', .*\), got also \['noise'\]"):
        call(pipeline, callback_on_step_end_tensor_inputs=["noise"])


@pytest.mark.parametrize("prompt", [3, [], ["lofi", 3], [["lofi"]], b"lofi", {"lofi": 1}])
@pytest.mark.usefixtures("unchecked")
def test_a_prompt_that_is_not_text_is_an_error(pipeline, prompt):
    with pytest.raises(TypeError, match=r"^prompt must be text or a non-empty list of texts, got "):
        call(pipeline, prompt)


@pytest.mark.parametrize("prompt", [3, [], [3]])
@pytest.mark.usefixtures("unchecked")
def test_a_negative_prompt_that_is_not_text_is_an_error(pipeline, prompt):
    with pytest.raises(TypeError, match=r"^negative_prompt must be text or a non-empty list of texts, got "):
        call(pipeline, negative_prompt=prompt)


def test_negative_prompts_must_match_the_prompts(pipeline):
    with pytest.raises(ValueError, match="one text or one for each of the 3 prompts, got 2"):
        call(pipeline, ["a", "b", "c"], negative_prompt=["d", "e"])


def test_prompt_and_embeds_exclude_each_other(pipeline):
    embeds, mask, *_ = pipeline.encode_prompt("lofi")
    with pytest.raises(ValueError, match="either prompt or prompt_embeds, and not both"):
        call(pipeline, "lofi", prompt_embeds=embeds, prompt_attention_mask=mask)


def test_something_must_be_asked_for(pipeline):
    with pytest.raises(ValueError, match="either prompt or prompt_embeds"):
        call(pipeline, None)


def test_embeds_need_their_mask(pipeline):
    embeds, mask, *_ = pipeline.encode_prompt("lofi")
    with pytest.raises(ValueError, match="prompt_embeds and prompt_attention_mask belong together"):
        call(pipeline, None, prompt_embeds=embeds)
    with pytest.raises(ValueError, match="prompt_embeds and prompt_attention_mask belong together"):
        call(pipeline, prompt_attention_mask=mask)


def test_negative_embeds_need_their_mask(pipeline):
    embeds, mask, *_ = pipeline.encode_prompt("lofi")
    with pytest.raises(ValueError, match="negative_prompt_embeds and negative_prompt_attention_mask belong together"):
        call(pipeline, negative_prompt_embeds=embeds)
    with pytest.raises(ValueError, match="negative_prompt_embeds and negative_prompt_attention_mask belong together"):
        call(pipeline, negative_prompt_attention_mask=mask)


def test_negative_prompt_and_negative_embeds_exclude_each_other(pipeline):
    embeds, mask, *_ = pipeline.encode_prompt("lofi")
    with pytest.raises(ValueError, match="either negative_prompt or negative_prompt_embeds"):
        call(pipeline, negative_prompt="x", negative_prompt_embeds=embeds, negative_prompt_attention_mask=mask)


def test_negative_embeds_must_match_the_prompts(pipeline):
    embeds, mask, *_ = pipeline.encode_prompt(["lofi", "techno"])
    with pytest.raises(ValueError, match="negative_prompt_embeds must have one row for each of the 3 prompts, got 2"):
        call(pipeline, ["a", "b", "c"], negative_prompt_embeds=embeds, negative_prompt_attention_mask=mask)


@pytest.mark.parametrize("tempo", [19.9, 400.1, -90.0, float("nan")])
def test_a_tempo_out_of_range_is_an_error(pipeline, tempo):
    with pytest.raises(ValueError, match="tempo must be a number from 20 to 400 beats per minute, or 0 for none, got"):
        call(pipeline, tempo=tempo)


@pytest.mark.parametrize("key", ["", "H minor", "F#", "minor", "C dorian", "Am"])
def test_an_unknown_key_is_an_error_with_an_example(pipeline, key):
    with pytest.raises(ValueError, match="key must be a tonic and a mode such as 'F# minor'"):
        call(pipeline, key=key)


@pytest.mark.parametrize(("name", "values"), [("tempo", [90.0, 100.0]), ("key", ["C major", None])])
def test_a_list_of_tempos_or_keys_needs_one_per_prompt(pipeline, name, values):
    with pytest.raises(ValueError, match=f"{name} must be one value or one for each of the 3 prompts, got 2"):
        call(pipeline, ["a", "b", "c"], **{name: values})


@pytest.mark.parametrize("name", ["guidance_scale", "guidance_rescale"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_guidance_must_be_finite_and_not_negative(pipeline, name, value):
    with pytest.raises(ValueError, match=f"{name} must be a finite number of at least 0, got"):
        call(pipeline, **{name: value})


@pytest.mark.parametrize("interval", [(0.5, 0.5), (0.6, 0.4), (-0.1, 1.0), (0.0, 1.1)])
def test_a_guidance_interval_must_lie_in_order_between_0_and_1(pipeline, interval):
    with pytest.raises(
        ValueError, match=r"guidance_interval must be \(start, stop\) with 0 <= start < stop <= 1, got"
    ):
        call(pipeline, guidance_interval=interval)


class Unscaled(BaseGuidance):
    _input_predictions: ClassVar = ["pred_cond"]

    @register_to_config
    def __init__(self):
        super().__init__()


def test_a_guider_without_a_scale_is_an_error_that_names_others(pipeline):
    pipeline.guider = Unscaled()
    with pytest.raises(ValueError, match=r"the guider Unscaled has no guidance_scale, .* such as Classifier"):
        call(pipeline)


def test_starting_noise_of_the_wrong_shape_is_an_error_with_both_shapes(pipeline):
    with pytest.raises(ValueError, match=r"\(batch, channels, frames\) = \(1, 4, 18\), got \(1, 4, 17\)"):
        call(pipeline, latents=torch.randn(1, 4, 17))


def test_a_list_of_generators_needs_one_per_waveform(pipeline):
    generators = [torch.Generator(), torch.Generator()]
    with pytest.raises(ValueError, match="one per waveform: 3 waveforms, 2 generators"):
        call(pipeline, ["a", "b", "c"], generator=generators)


def test_nothing_is_computed_before_an_error(pipeline):
    def fail(*_, **__):
        raise AssertionError("the text encoder ran")

    pipeline.text_encoder.register_forward_pre_hook(fail)
    with pytest.raises(ValueError, match="key must be"):
        call(pipeline, key="H dur")
    with pytest.raises(ValueError, match="audio_length_in_s"):
        call(pipeline, audio_length_in_s=0.0)


def parts(pipeline, **changes):
    return {**pipeline.components, **changes}


def test_an_autoencoder_of_another_codec_is_an_error(pipeline):
    other = Music2LatentAutoencoder(**TINY_CODEC, codec_id="other")
    with pytest.raises(ValueError, match="trained on latents of the codec tiny, but the autoencoder is other; take"):
        Music2LatentPipeline(**parts(pipeline, autoencoder=other))


def test_other_latent_channels_are_an_error(pipeline):
    other = Music2LatentAutoencoder(**(TINY_CODEC | {"latent_channels": 3}))
    with pytest.raises(ValueError, match="makes 4 latent channels, which is no multiple of the autoencoder's 3"):
        Music2LatentPipeline(**parts(pipeline, autoencoder=other))


def test_a_text_encoder_of_another_width_is_an_error_that_names_the_right_one(pipeline):
    other = BertModel(
        BertConfig(vocab_size=15, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    )
    pipeline.transformer.register_to_config(text_encoder="the-right-one")
    with pytest.raises(ValueError, match="is 16 wide, the transformer was trained with one of 32: the-right-one"):
        Music2LatentPipeline(**parts(pipeline, text_encoder=other))


def test_a_codec_without_an_id_is_accepted(pipeline):
    nameless = Music2LatentAutoencoder(**TINY_CODEC)
    assert Music2LatentPipeline(**parts(pipeline, autoencoder=nameless)).autoencoder is nameless


@pytest.mark.usefixtures("unchecked")
def test_a_pipeline_can_be_built_without_any_part():
    empty = Music2LatentPipeline(None, None, None, None, None)
    assert set(empty.components.values()) == {None}


@pytest.mark.usefixtures("unchecked")
def test_prompts_can_be_encoded_by_a_pipeline_without_the_other_parts(pipeline):
    names = ("autoencoder", "transformer", "scheduler")
    text_only = Music2LatentPipeline(**parts(pipeline, **dict.fromkeys(names)))
    torch.testing.assert_close(text_only.encode_prompt("lofi"), pipeline.encode_prompt("lofi"), rtol=0, atol=0)


@pytest.mark.usefixtures("unchecked")
def test_without_a_text_encoder_embeddings_are_needed_for_both_prompts(pipeline):
    names = "prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask"
    embeds = dict(zip(names, pipeline.encode_prompt("lofi"), strict=True))
    pipe = Music2LatentPipeline(**parts(pipeline, text_encoder=None, tokenizer=None))
    pipe.set_progress_bar_config(disable=True)
    assert call(pipe, None, **embeds).audio.shape == (1, 1, 8820)
    for given in ({"prompt": "lofi"}, {"prompt": None, **dict(list(embeds.items())[:2])}):
        with pytest.raises(ValueError, match="no text encoder or no tokenizer: pass prompt_embeds and negative_"):
            call(pipe, **given)


def test_a_stereo_pipeline_generates_two_channels(pipeline):
    stereo = LatentDiT(in_channels=8, latent_rate=44_100 / 512, max_frames=90, codec_id="tiny", **TINY_DIT)
    pipe = Music2LatentPipeline(**parts(pipeline, transformer=stereo))
    pipe.set_progress_bar_config(disable=True)
    assert call(pipe).audio.shape == (1, 2, 8820)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"generator": [None]},
            r"generator must be a torch.Generator or a list of them, got \[None\]; for a seed pass",
        ),
        ({"generator": 5}, "generator must be a torch.Generator or a list of them, got 5; for a seed pass"),
        ({"audio_length_in_s": "3"}, "audio_length_in_s must be a number, got '3'"),
        ({"num_inference_steps": 2.5}, "num_inference_steps must be a whole number, got 2.5"),
        ({"audio": "a.wav"}, "audio must be a tensor, an array or the output of a call, got str; read files with"),
    ],
)
def test_an_argument_of_another_type_is_an_error_that_says_what_to_pass(pipeline, unchecked, changes, message):
    with pytest.raises(TypeError, match=message):
        call(pipeline, **changes)


def test_regions_that_are_no_pairs_are_an_error(pipeline, unchecked):
    audio = 0.1 * torch.ones(1, 4410)
    with pytest.raises(ValueError, match=r"regions must be a list of pairs of seconds such as .*, got \(1, 2\)"):
        call(pipeline, audio=audio, regions=(1, 2))


def test_a_rescale_above_1_is_an_error(pipeline):
    with pytest.raises(ValueError, match="guidance_rescale must be from 0 to 1, got 5"):
        call(pipeline, guidance_rescale=5.0)


def test_numbers_of_numpy_are_numbers(pipeline, unchecked):
    call(pipeline, ["lofi", "techno"], tempo=np.array([90, 100.0]), audio_length_in_s=np.float32(0.1))


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=f"there is no folder {tmp_path / 'nowhere'}; expected one that save_pretr"):
        Music2LatentPipeline.from_pretrained(str(tmp_path / "nowhere"))
