"""The tempo that suits a text."""

import pytest
import torch
from torch.testing import assert_close

from latent_diffusion.conditions import MAX_TEMPO, MIN_TEMPO
from latent_diffusion.tempo_prior import NUM_BINS, TempoPrior, fit_tempo_prior, tempo_bin, text_direction


def states(direction: int, num_tokens: int = 3) -> torch.Tensor:
    """Token states of a text that is mostly about one thing."""
    generator = torch.Generator().manual_seed(num_tokens)
    return torch.nn.functional.one_hot(torch.tensor(direction), 8) + 0.1 * torch.randn(
        num_tokens, 8, generator=generator
    )


@pytest.fixture(scope="module")
def prior() -> TempoPrior:
    """Slow under one word, fast under another, either under a third."""
    slow = [(states(0, 2 + k % 5), 60.0 + k % 3) for k in range(60)]
    fast = [(states(1, 2 + k % 5), 170.0 + k % 3) for k in range(60)]
    either = [(states(2, 2 + k % 5), 60.0 if k % 2 else 170.0) for k in range(60)]
    return fit_tempo_prior(slow + fast + either, "an encoder")


def draw(prior: TempoPrior, direction: int, uniform: list[float]) -> list[float]:
    batch = torch.stack([states(direction)] * len(uniform))
    return prior.draw(batch, torch.ones(batch.shape[:2], dtype=torch.bool), torch.tensor(uniform))


def test_tempos_are_those_of_the_music_under_such_words(prior):
    everywhere = [0.01, 0.25, 0.5, 0.75, 0.99]
    assert all(55 < tempo < 66 for tempo in draw(prior, 0, everywhere))
    assert all(158 < tempo < 183 for tempo in draw(prior, 1, everywhere))


def test_a_text_may_suit_two_tempos_and_none_between(prior):
    tempos = draw(prior, 2, [k / 20 + 0.01 for k in range(20)])
    assert tempos == sorted(tempos)
    assert sum(55 < tempo < 66 for tempo in tempos) in range(8, 13)
    assert sum(158 < tempo < 183 for tempo in tempos) in range(8, 13)


def test_tempos_are_whole_numbers_and_the_rare_ends_are_left_out():
    unknowing = TempoPrior(cross_attention_dim=8)
    slowest, fastest = draw(unknowing, 0, [0.0, 1.0])
    assert slowest == round(MIN_TEMPO * (MAX_TEMPO / MIN_TEMPO) ** 0.05)
    assert fastest == round(MIN_TEMPO * (MAX_TEMPO / MIN_TEMPO) ** 0.95)


def test_padding_and_length_of_a_text_do_not_count(prior):
    text = states(1)
    padded = torch.cat([text, torch.full((2, 8), 9.0)])[None]
    mask = torch.tensor([[True, True, True, False, False]])
    alone = prior(text[None], torch.ones(1, 3, dtype=torch.bool))
    assert_close(prior(padded, mask), alone)
    assert_close(prior(torch.cat([text, text])[None], torch.ones(1, 6, dtype=torch.bool)), alone)
    assert_close(alone.exp().sum(), torch.tensor(1.0))


def test_a_text_without_tokens_has_a_tempo(prior):
    [tempo] = prior.draw(torch.zeros(1, 0, 8), torch.zeros(1, 0, dtype=torch.bool), torch.tensor([0.5]))
    assert MIN_TEMPO < tempo < MAX_TEMPO
    assert text_direction(torch.zeros(1, 0, 8), torch.zeros(1, 0, dtype=torch.bool)).tolist() == [[0.0] * 8]


def test_the_fit_is_the_same_each_time():
    captions = [(states(k % 3), 60.0 + 10 * k) for k in range(12)]
    torch.manual_seed(1)
    first = fit_tempo_prior(captions)
    torch.manual_seed(2)
    second = fit_tempo_prior(captions)
    assert torch.equal(first.proj.weight, second.proj.weight)


def test_every_tempo_of_music_has_a_bin():
    assert (tempo_bin(MIN_TEMPO), tempo_bin(MAX_TEMPO)) == (0, NUM_BINS - 1)
    assert tempo_bin(120.0) == tempo_bin(119.0) != tempo_bin(150.0)


def test_nothing_to_fit_is_an_error():
    with pytest.raises(ValueError, match="captions of clips whose tempo is known, got none"):
        fit_tempo_prior([])


def test_a_saved_prior_is_the_same(prior, tmp_path):
    prior.save_pretrained(tmp_path)
    loaded = TempoPrior.from_pretrained(tmp_path)
    assert loaded.config.text_encoder == "an encoder"
    assert draw(loaded, 2, [0.2, 0.8]) == draw(prior, 2, [0.2, 0.8])
    assert draw(TempoPrior.from_pretrained(tmp_path, torch_dtype=torch.float16), 0, [0.5]) == draw(prior, 0, [0.5])
