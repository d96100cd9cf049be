"""The beats that the transformer is told of: the tempo's, from the start of the piece."""

import pytest
import torch
from torch.testing import assert_close

from latent_diffusion.conditions import NO_BEAT, beats_at
from pipelines.sampling import FIRST_BEAT_S


@pytest.fixture
def told(pipeline):
    """Beats of every call of the transformer: with and without the prompt in turn."""
    calls: list[torch.Tensor] = []
    pipeline.transformer.register_forward_pre_hook(
        lambda _, __, arguments: calls.append(arguments["beats"]), with_kwargs=True
    )
    return calls


def generate(pipeline, **changes) -> None:
    settings = {"num_inference_steps": 1, "audio_length_in_s": 0.5, "generator": torch.Generator().manual_seed(0)}
    pipeline("lofi piano", **(settings | changes))


def test_beats_are_those_of_the_tempo_and_left_out_with_it(pipeline, told):
    generate(pipeline, tempo=[90.0])
    frames = torch.arange(told[0].shape[1]) / pipeline.transformer.config.latent_rate
    assert_close(told[0][0], beats_at(frames - FIRST_BEAT_S, torch.tensor([90.0])))
    assert (told[1] == NO_BEAT).all()


def test_there_are_no_beats_without_a_tempo(pipeline, told):
    generate(pipeline)
    assert (told[0] == NO_BEAT).all()


def test_every_prompt_has_beats_of_its_own(pipeline, told):
    settings = {"num_inference_steps": 1, "audio_length_in_s": 0.5}
    pipeline(["lofi", "techno", "jazz"], tempo=[90.0, None, 120.0], num_waveforms_per_prompt=2, **settings)
    assert_close(told[0][::2], told[0][1::2])
    assert (told[0][2] == NO_BEAT).all()
    assert (told[0][0] - told[0][4]).abs().max() > 0.1


def test_beats_go_on_in_the_windows_of_a_long_piece(pipeline, told):
    rate = pipeline.transformer.config.latent_rate
    generate(pipeline, tempo=90.0, audio_length_in_s=1.5 * pipeline.transformer.config.max_frames / rate)
    first, second = told[0][0], told[2][0]
    shared = [k for k in range(len(first)) if (first[k] - second[0]).abs() < 1e-4]
    assert len(shared) == 1
    overlap = len(first) - shared[0]
    assert 0 < overlap < len(first)
    assert_close(second[:overlap], first[shared[0] :], rtol=0, atol=1e-3)


@pytest.mark.parametrize(("seconds", "has_beats"), [(1.0, True), (1.25, False)])
def test_a_loop_has_beats_if_it_holds_a_whole_number_of_them(pipeline, told, seconds, has_beats):
    generate(pipeline, tempo=120.0, audio_length_in_s=seconds, loop=True)
    assert (told[0] != NO_BEAT).all() == has_beats


def test_a_loop_of_a_broken_number_of_beats_is_told_the_length_that_fits(pipeline, caplog):
    generate(pipeline, tempo=100.0, audio_length_in_s=1.0, loop=True)
    assert "1.67 beats at tempo 100: the tempo is only a hint; audio_length_in_s=1.2000 fits" in caplog.text
    caplog.clear()
    generate(pipeline, tempo=100.0, audio_length_in_s=1.2, loop=True)
    assert not caplog.text


def test_given_audio_has_beats_that_are_not_known(pipeline, told):
    audio = 0.1 * torch.randn(1, 1, 22_050)
    generate(pipeline, tempo=120.0, audio=audio, audio_length_in_s=None, strength=0.5, num_inference_steps=2)
    assert (told[0] == NO_BEAT).all()
