"""Tempo and key of a call: given, stated in the prompt, or a tempo that suits it."""

import inspect

import pytest
import torch
from accelerate import cpu_offload
from diffusers import DiffusionPipeline

from latent_diffusion.tempo_prior import TempoPrior, fit_tempo_prior
from latent_diffusion.text import encode_text
from pipelines import Music2LatentPipeline

STYLES = {"lofi": 80.0, "techno": 160.0}


@pytest.fixture
def prior(pipeline) -> TempoPrior:
    """Lofi is slow, techno is fast."""
    captions = []
    for style, tempo in STYLES.items():
        texts = [f"{style} piano", style, f"slow {style}"]
        states, mask = encode_text(pipeline.tokenizer, pipeline.text_encoder, texts)
        captions += [(one[real].float(), tempo) for one, real in zip(states, mask, strict=True)] * 20
    return fit_tempo_prior(captions)


@pytest.fixture
def pipe(pipeline, prior) -> Music2LatentPipeline:
    """The tiny pipeline, with a tempo prior."""
    pipeline.register_modules(tempo_prior=prior)
    return pipeline


def told(pipe, prompt="lofi piano", *, seed=0, **changes) -> list[tuple[float, str]]:
    """Tempo and key of each piece of a call."""
    settings = {"audio_length_in_s": 0.5, "num_inference_steps": 1, "generator": torch.Generator().manual_seed(seed)}
    output = pipe(prompt, **(settings | changes))
    return [(record["tempo"], record["key"]) for record in output.metadata]


def test_what_is_given_goes_before_what_the_prompt_states(pipe):
    assert told(pipe, "lofi in A minor, 90 bpm", tempo=120.0, key="C major") == [(120.0, "C major")]


def test_what_the_prompt_states_goes_before_the_prior(pipe):
    prompts = ["lofi in A minor, 90 bpm", "techno at 77 BPM", "lofi"]
    (first, first_key), (second, second_key), (third, third_key) = told(pipe, prompts, tempo=[None, None, 100.0])
    assert (first, second, third) == (90.0, 77.0, 100.0)
    assert (first_key, second_key, third_key) == ("A minor", "none", "none")


def test_the_prior_goes_by_the_prompt(pipe):
    (lofi, _), (techno, _) = told(pipe, ["lofi", "techno"])
    assert abs(lofi / STYLES["lofi"] - 1) < 0.15
    assert abs(techno / STYLES["techno"] - 1) < 0.15


def test_the_transformer_is_told_the_drawn_tempo_and_its_beats(pipe):
    calls = []
    pipe.transformer.register_forward_pre_hook(lambda _, __, given: calls.append(given), with_kwargs=True)
    [(tempo, _)] = told(pipe)
    assert calls[0]["tempo"].tolist() == [tempo]
    assert (calls[0]["beats"] >= 0).all()
    assert calls[1]["tempo"].tolist() == [0.0]  # without the prompt


def test_tempo_0_and_key_none_are_none_whatever_the_prompt_says(pipe):
    prompts = ["lofi", "techno, 90 bpm, in F minor"]
    assert told(pipe, prompts, tempo=[0.0, 0.0], key="none") == [(0.0, "none"), (0.0, "none")]


def test_without_a_prior_a_tempo_that_nobody_names_is_free(pipeline):
    assert told(pipeline) == [(0.0, "none")]
    assert told(pipeline, "lofi in C major, 90 bpm") == [(90.0, "C major")]


def test_a_drawn_tempo_follows_from_the_seed_of_the_piece_alone(pipe):
    def generators(*seeds):
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    both = told(pipe, generator=generators(1, 2), num_waveforms_per_prompt=2)
    assert both == [*told(pipe, generator=generators(1)), *told(pipe, generator=generators(2))]
    tempos = {told(pipe, seed=seed)[0][0] for seed in range(8)}
    assert len(tempos) > 2


def test_given_audio_has_a_tempo_of_its_own(pipe):
    audio = 0.1 * torch.randn(1, 1, 22_050, generator=torch.Generator().manual_seed(0))
    edit = {"audio": audio, "audio_length_in_s": None, "strength": 0.5, "num_inference_steps": 2}
    assert told(pipe, **edit) == [(0.0, "none")]
    assert told(pipe, "lofi, 90 bpm", **edit) == [(90.0, "none")]


def test_a_loop_gets_a_tempo_of_which_whole_beats_fit(pipe, caplog):
    [(tempo, _)] = told(pipe, "techno", audio_length_in_s=1.9, loop=True)
    beats = tempo / 60 * 1.9
    assert abs(beats - round(beats)) < 1e-6
    assert abs(tempo / STYLES["techno"] - 1) < 0.25
    assert not caplog.text
    assert told(pipe, audio_length_in_s=0.1, loop=True) == [(0.0, "none")]  # too short for a beat


def test_the_record_is_enough_to_make_a_piece_with_a_drawn_tempo_again(pipe):
    settings = {"audio_length_in_s": 0.5, "num_inference_steps": 1}
    first = pipe("lofi", generator=torch.Generator().manual_seed(3), **settings)
    again = pipe("lofi", generator=torch.Generator().manual_seed(3), tempo=first.metadata[0]["tempo"], **settings)
    assert abs(first.audio - again.audio).max() == 0


def test_embeddings_state_nothing_but_suit_a_tempo(pipe):
    embeds, mask, _, _ = pipe.encode_prompt("lofi at 300 bpm")
    [(tempo, _)] = told(pipe, None, prompt_embeds=embeds, prompt_attention_mask=mask)
    assert 0 < tempo < 300


def test_the_prior_is_saved_and_loaded_with_the_pipeline(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    for loaded in (Music2LatentPipeline.from_pretrained(tmp_path), DiffusionPipeline.from_pretrained(tmp_path)):
        loaded.set_progress_bar_config(disable=True)
        assert isinstance(loaded.tempo_prior, TempoPrior)
        assert told(loaded, ["lofi", "techno"]) == told(pipe, ["lofi", "techno"])


def test_a_prior_that_is_set_later_is_saved_too(pipeline, prior, tmp_path):
    pipeline.tempo_prior = prior
    pipeline.save_pretrained(tmp_path)
    assert told(Music2LatentPipeline.from_pretrained(tmp_path)) == told(pipeline)


def test_a_pipeline_may_go_without_a_prior(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    assert Music2LatentPipeline.from_pretrained(tmp_path).tempo_prior is None
    assert inspect.signature(Music2LatentPipeline.__init__).parameters["tempo_prior"].default is None


def test_sequential_offload_reaches_the_prior(pipe):
    expected = told(pipe)
    cpu_offload(pipe.tempo_prior, torch.device("cpu"))
    assert pipe.tempo_prior.proj.weight.device.type == "meta"
    assert told(pipe) == expected


def test_a_prior_of_another_text_encoder_is_an_error(pipeline):
    parts = {name: part for name, part in pipeline.components.items() if name != "tempo_prior"}
    with pytest.raises(ValueError, match="its cross_attention_dim is 8, the transformer's 32"):
        Music2LatentPipeline(**parts, tempo_prior=TempoPrior(cross_attention_dim=8))
    pipeline.transformer.register_to_config(text_encoder="ours")
    with pytest.raises(ValueError, match="its text_encoder is theirs, the transformer's ours"):
        Music2LatentPipeline(**parts, tempo_prior=TempoPrior(cross_attention_dim=32, text_encoder="theirs"))
