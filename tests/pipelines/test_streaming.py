"""Streams: the same audio as a call, in pieces, as early as possible."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from autoencoder.chunking import Windows
from tests.conftest import tone


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def settings(**changes):
    return {"num_inference_steps": 2, "output_type": "pt", "generator": seeded()} | changes


WHOLE = Windows()  # those of a call


def join(pieces) -> torch.Tensor:
    return torch.cat(list(pieces), dim=-1)


@pytest.mark.parametrize("seconds", [0.01, 0.2, 1.0, 2.5])
def test_the_pieces_of_a_stream_are_what_a_call_gives(pipeline, seconds):
    whole = pipeline("lofi", audio_length_in_s=seconds, **settings()).audio
    streamed = join(pipeline.stream("lofi", windows=WHOLE, audio_length_in_s=seconds, **settings()))
    assert streamed.shape == whole.shape == (1, 1, round(seconds * 44_100))
    assert_close(streamed, whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seconds", [0.01, 0.2, 2.5])
def test_a_stream_of_short_windows_has_the_same_length(pipeline, seconds):
    streamed = join(pipeline.stream("lofi", audio_length_in_s=seconds, **settings()))
    assert streamed.shape == (1, 1, round(seconds * 44_100))


def test_the_first_audio_of_a_long_piece_comes_after_its_first_window(pipeline):
    calls = []
    pipeline.transformer.register_forward_pre_hook(lambda *_: calls.append(1))
    stream = pipeline.stream("lofi", audio_length_in_s=6.0, **settings(guidance_scale=1.0))
    first = next(stream)
    assert first.shape[-1] > 1000
    assert len(calls) == 2
    rest = join(stream)
    assert len(calls) == 2 * 8
    assert first.shape[-1] + rest.shape[-1] == 6 * 44_100


def test_a_call_between_two_pieces_changes_nothing(pipeline):
    whole = join(pipeline.stream("lofi", audio_length_in_s=2.5, **settings(guidance_scale=4.0)))
    stream = pipeline.stream("lofi", audio_length_in_s=2.5, **settings(guidance_scale=4.0))
    first = next(stream)
    pipeline("slow", audio_length_in_s=0.2, **settings(guidance_scale=1.0))
    assert_close(torch.cat([first, join(stream)], dim=-1), whole, rtol=0, atol=0)


def test_a_batch_is_streamed_together(pipeline):
    generators = [seeded(0), seeded(1)]
    whole = pipeline(["lofi", "techno"], audio_length_in_s=0.5, **settings(generator=generators)).audio
    generators = [seeded(0), seeded(1)]
    streamed = pipeline.stream(
        ["lofi", "techno"], windows=WHOLE, audio_length_in_s=0.5, **settings(generator=generators)
    )
    assert_close(join(streamed), whole, rtol=0, atol=1e-4)


def test_edited_audio_can_be_streamed(pipeline):
    editing = {"audio": tone(440, 0.8), "audio_length_in_s": 2.0, "regions": [(0.2, 0.3), (0.8, 2.0)]}
    whole = pipeline("lofi", **editing, **settings()).audio
    streamed = join(pipeline.stream("lofi", windows=WHOLE, **editing, **settings()))
    assert_close(streamed[..., :7000], editing["audio"][None, :, :7000], rtol=0, atol=0)
    assert_close(streamed, whole, rtol=0, atol=1e-6)


def test_a_loop_comes_in_one_piece(pipeline):
    [piece] = pipeline.stream("lofi", audio_length_in_s=0.5, loop=True, **settings())
    assert_close(piece, pipeline("lofi", audio_length_in_s=0.5, loop=True, **settings()).audio, rtol=0, atol=0)


def test_gradients_stay_enabled_between_the_pieces(pipeline):
    for piece in pipeline.stream("lofi", audio_length_in_s=1.0, **settings()):
        assert not piece.requires_grad
        assert torch.is_grad_enabled()


def test_a_stream_gives_arrays_by_default(pipeline):
    piece = next(pipeline.stream("lofi", audio_length_in_s=0.2, num_inference_steps=1))
    assert isinstance(piece, np.ndarray)
    assert piece.dtype == np.float32


def test_a_stream_can_be_interrupted(pipeline):
    """The rest of the piece is decoded from what there is."""
    stream = pipeline.stream("lofi", audio_length_in_s=4.0, **settings())
    next(stream)
    pipeline.interrupt = True
    assert join(stream).isfinite().all()


def test_wrong_arguments_are_noticed_before_the_first_piece(pipeline):
    with pytest.raises(ValueError, match="audio_length_in_s must be finite"):
        pipeline.stream("lofi", audio_length_in_s=-1.0)
    with pytest.raises(ValueError, match="stream gives audio, output_type 'np' or 'pt'"):
        pipeline.stream("lofi", output_type="latent")
    with pytest.raises(TypeError, match="unexpected keyword argument 'sigma'"):
        pipeline.stream("lofi", sigma=1)
