import pytest
import torch
from torch.testing import assert_close

from latent_diffusion.conditions import (
    BEAT_CYCLE,
    KEYS,
    NO_BEAT,
    NO_KEY,
    NO_TEMPO,
    beats_at,
    key_index,
    random_context_mask,
    tempo_value,
    whole_beats,
)

NUM_FRAMES = 40
PREFIX, SUFFIX, SEGMENTS = 0.1, 0.5, 0.9  # first uniform number of each kind


@pytest.mark.parametrize("index", range(24))
def test_every_key_has_its_number(index):
    assert key_index(KEYS[index]) == index


def test_there_are_24_keys_and_one_number_for_none():
    assert len(set(KEYS)) == 24
    assert key_index(None) == key_index("none") == NO_KEY == 24


@pytest.mark.parametrize(
    ("flat", "sharp"),
    [("Db", "C#"), ("Eb", "D#"), ("Gb", "F#"), ("Ab", "G#"), ("Bb", "A#"), ("Cb", "B"), ("Fb", "E"), ("E#", "F")],
)
@pytest.mark.parametrize("mode", ["major", "minor"])
def test_enharmonic_keys_are_the_same(flat, sharp, mode):
    assert key_index(f"{flat} {mode}") == key_index(f"{sharp} {mode}")


@pytest.mark.parametrize(
    "spelling",
    [
        "f# minor",
        "F# Minor",
        "F# MINOR",
        "  F#  minor ",
        "gb minor",
        "F#min",
        "F sharp minor",
        "G-flat minor",
        "G♭ minor",
    ],
)
def test_spelling_of_a_key_is_free(spelling):
    assert key_index(spelling) == key_index("F# minor")


@pytest.mark.parametrize("key", ["", " ", "C", "minor", "H minor", "C dorian", "Cm", "B## major"])
def test_an_unknown_key_is_an_error_that_shows_it(key):
    with pytest.raises(ValueError, match=f"such as 'F# minor' or 'Bb major', or 'none', got {key!r}"):
        key_index(key)


@pytest.mark.parametrize("tempo", [20.0, 93.5, 400.0])
def test_a_tempo_in_range_is_kept(tempo):
    assert tempo_value(tempo) == tempo


def test_no_tempo_has_its_own_value():
    assert tempo_value(None) == tempo_value(0.0) == NO_TEMPO == 0


@pytest.mark.parametrize("tempo", [19.9, 400.1, -120.0, float("nan"), float("inf")])
def test_a_tempo_out_of_range_is_an_error_that_shows_it(tempo):
    with pytest.raises(ValueError, match=f"a number from 20 to 400 beats per minute, or 0 for none, got {tempo}"):
        tempo_value(tempo)


def test_beats_count_from_the_bar_line_and_begin_again():
    seconds = torch.tensor([0.0, 0.5, 1.0, -0.5, 24.0])  # at 120 beats per minute, two a second
    expected = torch.tensor([0.0, 1.0, 2.0, BEAT_CYCLE - 1, 0.0])
    assert_close(beats_at(seconds, torch.tensor([120.0])), expected)


@pytest.mark.parametrize(("seconds", "tempo", "beats"), [(10.0, 82.0, 14), (8.0, 120.0, 16), (0.1, 60.0, 1)])
def test_a_length_of_whole_beats_is_the_nearest_and_not_nothing(seconds, tempo, beats):
    assert whole_beats(seconds, tempo) == pytest.approx(beats * 60 / tempo)


def test_there_are_no_beats_without_a_tempo():
    beats = beats_at(torch.rand(2, 5), torch.tensor([[NO_TEMPO], [90.0]]))
    assert (beats[0] == NO_BEAT).all()
    assert (beats[1] >= 0).all()


def masks(uniform: torch.Tensor, lengths: list[int] | None = None) -> torch.Tensor:
    """Kept frames, (batch, frames) of 0 and 1."""
    lengths = torch.tensor([NUM_FRAMES] * len(uniform) if lengths is None else lengths)
    return random_context_mask(uniform, lengths, NUM_FRAMES)[:, 0]


def uniform_of(kind: float, num_items: int = 500) -> torch.Tensor:
    uniform = torch.rand(num_items, 8)
    uniform[:, 0] = kind
    return uniform


def num_runs(mask: torch.Tensor) -> torch.Tensor:
    """How many stretches of generated frames each item has."""
    generated = torch.nn.functional.pad(1 - mask, (1, 0))
    return (generated.diff(dim=1) > 0).sum(1)


def test_a_context_mask_holds_zeros_and_ones():
    assert masks(torch.rand(500, 8)).unique().tolist() == [0, 1]


@pytest.mark.parametrize("kind", [PREFIX, SUFFIX, SEGMENTS])
def test_something_is_kept_and_something_is_generated(kind):
    fraction = masks(uniform_of(kind)).mean(1)
    assert fraction.min() > 0
    assert fraction.max() < 1


@pytest.mark.parametrize("kind", [PREFIX, SUFFIX])
def test_a_tenth_to_nine_tenths_are_kept_at_an_end(kind):
    fraction = masks(uniform_of(kind, 5000)).mean(1)
    assert fraction.min().item() == pytest.approx(0.1, abs=0.03)
    assert fraction.max().item() == pytest.approx(0.9, abs=0.03)


def test_nothing_beyond_the_length_is_kept():
    lengths = torch.randint(1, NUM_FRAMES + 1, (500,))
    padding = torch.arange(NUM_FRAMES) >= lengths[:, None]
    assert (masks(torch.rand(500, 8), lengths.tolist()) * padding).sum() == 0


def test_a_prefix_starts_at_the_start():
    mask = masks(uniform_of(PREFIX))
    assert (mask.diff(dim=1) <= 0).all()
    assert (mask[:, 0] == 1).all()


def test_a_suffix_ends_at_the_end():
    mask = masks(uniform_of(SUFFIX))
    assert (mask.diff(dim=1) >= 0).all()
    assert (mask[:, -1] == 1).all()


def test_a_suffix_ends_at_the_real_end_of_a_padded_item():
    mask = masks(uniform_of(SUFFIX), [25] * 500)
    assert (mask[:, 24] == 1).all()


def test_one_to_three_segments_are_to_be_filled():
    assert num_runs(masks(uniform_of(SEGMENTS, 2000))).unique().tolist() == [1, 2, 3]


def test_the_kinds_are_equally_likely():
    mask = masks(torch.rand(6000, 8))
    is_prefix = ((mask.diff(dim=1) <= 0).all(1) & (mask[:, 0] == 1)).float().mean()
    assert is_prefix.item() == pytest.approx(1 / 3, abs=0.1)  # a segment at the end looks like a prefix, too


def test_a_mask_is_a_function_of_its_numbers_only():
    uniform = torch.rand(5, 8)
    alone = torch.cat([masks(uniform[k : k + 1]) for k in range(5)])
    torch.manual_seed(99)
    assert_close(masks(uniform), alone, rtol=0, atol=0)


def test_a_mask_does_not_depend_on_the_padding():
    uniform, lengths = torch.rand(50, 8), torch.full((50,), 20)
    long, short = (random_context_mask(uniform, lengths, num_frames) for num_frames in (NUM_FRAMES, 20))
    assert_close(long[..., :20], short, rtol=0, atol=0)
