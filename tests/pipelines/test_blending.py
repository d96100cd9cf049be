"""Cross-fades between given and decoded audio."""

import pytest
import torch
from torch.testing import assert_close

from pipelines.blending import blend, blend_pieces, close_loop, kept_weights


def mask(num_samples: int, *generated: tuple[int, int]) -> torch.Tensor:
    is_kept = torch.ones(num_samples, dtype=torch.bool)
    for first, last in generated:
        is_kept[first:last] = False
    return is_kept


def test_weights_fall_to_zero_within_the_kept_audio():
    weights = kept_weights(mask(12, (6, 8)), fade=2)
    assert_close(weights, torch.tensor([1, 1, 1, 1, 2 / 3, 1 / 3, 0, 0, 1 / 3, 2 / 3, 1, 1]))


def test_there_is_no_fade_at_the_ends_of_the_piece():
    assert_close(kept_weights(mask(5), fade=2), torch.ones(5))
    assert_close(kept_weights(mask(5, (0, 5)), fade=2), torch.zeros(5))


def test_in_a_loop_the_fade_goes_across_its_end():
    weights = kept_weights(mask(12, (0, 3)), fade=2, is_loop=True)
    assert_close(weights, torch.tensor([0, 0, 0, 1, 2, 3, 3, 3, 3, 3, 2, 1]) / 3)
    weights = kept_weights(mask(12, (0, 3), (5, 12)), fade=4, is_loop=True)
    assert_close(weights[3:5], torch.tensor([1, 1]) / 5)


def test_outside_of_the_fade_every_sample_is_one_or_the_other_bit_for_bit():
    given, decoded = torch.rand(2, 1, 400) - 0.5, torch.rand(2, 1, 400) - 0.5
    weights = kept_weights(mask(400, (200, 300)), fade=20)
    mixed = blend(given, decoded, weights)
    assert_close(mixed[..., :180], given[..., :180], rtol=0, atol=0)
    assert_close(mixed[..., 200:300], decoded[..., 200:300], rtol=0, atol=0)
    assert_close(mixed[..., 320:], given[..., 320:], rtol=0, atol=0)


def test_audio_that_equals_the_given_one_is_left_alone():
    given = torch.rand(1, 2, 400) - 0.5
    assert_close(blend(given, given, kept_weights(mask(400, (200, 300)), fade=50)), given)


def test_power_is_constant_over_a_fade_of_unrelated_audio():
    given, decoded = 0.1 * torch.randn(400, 1, 1000), 0.1 * torch.randn(400, 1, 1000)
    mixed = blend(given, decoded, kept_weights(mask(1000, (600, 1000)), fade=300))
    assert_close(mixed[..., 300:600].std(0), torch.full((1, 300), 0.1), rtol=0.15, atol=0)
    assert mixed[..., 300:600].std() == pytest.approx(0.1, rel=0.03)


def test_loud_audio_stays_within_full_scale():
    time = torch.arange(400) / 10
    given, decoded = torch.sin(time)[None, None], torch.cos(time)[None, None]
    assert blend(given, decoded, kept_weights(mask(400, (300, 400)), fade=200)).abs().max() <= 1


@pytest.mark.parametrize("size", [1, 7, 64, 400])
def test_pieces_are_blended_as_the_whole_is(size):
    given, decoded = torch.rand(2, 1, 400) - 0.5, torch.rand(2, 1, 400) - 0.5
    weights = kept_weights(mask(400, (50, 90), (200, 300)), fade=20)
    pieces = list(blend_pieces(decoded.split(size, dim=-1), given, weights))
    assert_close(torch.cat(pieces, dim=-1), blend(given, decoded, weights), rtol=0, atol=0)


def test_what_goes_on_beyond_a_loop_is_faded_into_its_start():
    audio = torch.full((1, 1, 120), 0.5)
    audio[..., 100:] = 0.25
    loop = close_loop(audio, 100)
    assert loop.shape[-1] == 100
    assert loop[..., 0] < 0.3
    assert_close(loop[..., 20:], audio[..., 20:100], rtol=0, atol=0)
    assert_close(close_loop(audio[..., :100], 100), audio[..., :100], rtol=0, atol=0)
