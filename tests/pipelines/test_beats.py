"""The beats that the transformer is told of: the tempo's, from the start of the piece."""

import pytest
import torch
from torch.testing import assert_close

from latent_diffusion.conditions import NO_BEAT, beats_at
from pipelines.numbers import FIRST_BEAT_S


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


def edit(pipeline, **changes) -> None:
    audio = 0.1 * torch.randn(1, 1, 22_050)
    generate(pipeline, **({"audio": audio, "audio_length_in_s": 1.0, "tempo": 120.0} | changes))


def test_given_audio_has_beats_that_are_not_known(pipeline, told):
    edit(pipeline, audio_length_in_s=None, strength=0.5, num_inference_steps=2)
    assert (told[0] == NO_BEAT).all()


@pytest.mark.parametrize("start", [0.0, 0.25])
def test_the_beats_of_given_audio_go_on_where_one_of_them_is_known(pipeline, told, start):
    edit(pipeline, first_beat_in_s=0.2, audio_start_in_s=start)
    frames = torch.arange(told[0].shape[1]) / pipeline.transformer.config.latent_rate
    assert_close(told[0][0], beats_at(frames - start - 0.2, torch.tensor([120.0])))
    assert (told[1] == NO_BEAT).all()


def test_every_given_piece_may_have_a_first_beat_of_its_own(pipeline, told):
    settings = {"num_inference_steps": 1, "audio_length_in_s": 1.0, "audio": 0.1 * torch.randn(2, 1, 22_050)}
    pipeline(["lofi", "techno"], tempo=90.0, first_beat_in_s=[None, 0.1], num_waveforms_per_prompt=2, **settings)
    assert (told[0][:2] == NO_BEAT).all()
    assert (told[0][2:] != NO_BEAT).all()


def test_the_first_bar_of_a_new_piece_may_be_moved(pipeline, told):
    generate(pipeline, tempo=90.0, first_beat_in_s=0.25)
    frames = torch.arange(told[0].shape[1]) / pipeline.transformer.config.latent_rate
    assert_close(told[0][0], beats_at(frames - 0.25, torch.tensor([90.0])))


def test_a_first_beat_of_given_audio_needs_its_tempo(pipeline):
    for tempo in (None, 0.0):
        with pytest.raises(
            ValueError, match="says where beats of the given audio are: pass its tempo, 20 to 400, as well"
        ):
            edit(pipeline, first_beat_in_s=0.2, tempo=tempo)


def test_a_first_beat_must_be_finite(pipeline):
    with pytest.raises(ValueError, match="first_beat_in_s must be a finite number of seconds, got nan"):
        generate(pipeline, first_beat_in_s=float("nan"))


def test_the_record_of_a_piece_is_enough_to_continue_it(pipeline, told):
    settings = {"num_inference_steps": 1, "output_type": "pt"}
    piece = pipeline("lofi piano", tempo=90.0, audio_length_in_s=0.5, **settings)
    record = piece.metadata[0]
    assert (record["tempo"], record["first_beat_in_s"]) == (90.0, FIRST_BEAT_S)
    numbers = {name: record[name] for name in ("tempo", "first_beat_in_s")}
    longer = pipeline("lofi piano", audio=piece.audio[0], audio_length_in_s=1.0, **numbers, **settings)
    assert_close(told[2][0, : told[0].shape[1]], told[0][0])
    assert longer.metadata[0]["first_beat_in_s"] == FIRST_BEAT_S
    pipeline("lofi piano", audio=piece, audio_length_in_s=1.0, **settings)
    assert_close(told[4], told[2])
    free = pipeline("lofi piano", tempo=0.0, audio_length_in_s=0.5, **settings)
    assert free.metadata[0]["first_beat_in_s"] is None
    pipeline("lofi piano", audio=free, audio_length_in_s=1.0, **settings)
    assert (told[-2] == NO_BEAT).all()


def test_the_beats_of_an_output_are_those_of_each_piece_if_no_others_are_given(pipeline, told):
    settings = {"num_inference_steps": 1, "audio_length_in_s": 0.5}
    pieces = pipeline(["lofi", "techno"], tempo=[90.0, 0.0], **settings)
    pipeline(["lofi", "techno"], audio=pieces, num_inference_steps=1, audio_length_in_s=1.0)
    assert (told[2][0] != NO_BEAT).all()
    assert (told[2][1] == NO_BEAT).all()
    pieces.metadata = None
    pipeline(["lofi", "techno"], audio=pieces, num_inference_steps=1, audio_length_in_s=1.0)
    assert (told[4] == NO_BEAT).all()


@pytest.fixture
def piece(pipeline):
    return pipeline("lofi", tempo=90.0, num_inference_steps=1, audio_length_in_s=0.5)


def test_the_tempo_of_an_output_goes_before_what_the_prompt_states(pipeline, piece, told):
    longer = pipeline("lofi, 70 bpm", audio=piece, num_inference_steps=1, audio_length_in_s=1.0)
    assert longer.metadata[0]["tempo"] == 90.0
    assert (told[0] != NO_BEAT).all()


def test_another_tempo_than_that_of_the_output_has_no_known_beats(pipeline, piece, told, caplog):
    settings = {"audio": piece, "num_inference_steps": 1, "audio_length_in_s": 1.0}
    pipeline("lofi", tempo=90.0, **settings)
    assert (told[0] != NO_BEAT).all()
    assert not caplog.text
    pipeline("lofi", tempo=60.0, **settings)
    assert (told[2] == NO_BEAT).all()
    assert "the given audio has the tempo [90.0]: beats of tempo [60.0] are not known in it" in caplog.text
    caplog.clear()
    pipeline("lofi", tempo=60.0, first_beat_in_s=0.2, **settings)
    assert (told[4] != NO_BEAT).all()
    assert not caplog.text


def test_the_tempo_of_an_output_is_known_again_when_it_was_rounded_or_is_left_open(pipeline, told, caplog):
    pieces = pipeline(["lofi", "techno"], tempo=[82.3, 120.0], num_inference_steps=1, audio_length_in_s=0.5)
    settings = {"audio": pieces, "num_inference_steps": 1, "audio_length_in_s": 1.0}
    longer = pipeline(["lofi", "techno"], tempo=[82.3, None], **settings)
    assert (told[2] != NO_BEAT).all()
    assert [record["tempo"] for record in longer.metadata] == pytest.approx([82.3, 120.0])
    assert not caplog.text
    pipeline(["lofi", "techno"], tempo=[60.0, 120.0], **settings)
    assert (told[4][0] == NO_BEAT).all()
    assert (told[4][1] != NO_BEAT).all()
    assert "tempo [60.0, 120.0] are not known" in caplog.text


def test_a_first_beat_alone_goes_with_the_tempo_of_the_output(pipeline, piece, told):
    longer = pipeline("lofi", audio=piece, first_beat_in_s=0.2, num_inference_steps=1, audio_length_in_s=1.0)
    assert (longer.metadata[0]["tempo"], longer.metadata[0]["first_beat_in_s"]) == (90.0, 0.2)


def test_an_output_of_another_rate_is_an_error(pipeline, piece):
    piece.sample_rate = 22_050
    with pytest.raises(ValueError, match="an output of 22050 Hz, but this pipeline makes 44100 Hz"):
        pipeline("lofi", audio=piece, audio_length_in_s=1.0)


def test_an_output_of_more_pieces_than_prompts_is_an_error(pipeline):
    pieces = pipeline("lofi", num_waveforms_per_prompt=2, tempo=90.0, num_inference_steps=1, audio_length_in_s=0.5)
    with pytest.raises(ValueError, match="audio must be one piece or one for each of the 1 prompts, got 2"):
        pipeline("lofi", audio=pieces, audio_length_in_s=1.0)


def test_the_record_of_a_loop_says_that_it_has_no_beats(pipeline):
    loop = pipeline("lofi", tempo=100.0, audio_length_in_s=1.0, loop=True, num_inference_steps=1)
    assert (loop.metadata[0]["tempo"], loop.metadata[0]["first_beat_in_s"]) == (100.0, None)
