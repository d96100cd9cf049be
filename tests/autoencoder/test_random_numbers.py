"""Random numbers by seed, position and place: the published generator, distributions, independence of the batch."""

import pytest
import torch
from torch.testing import assert_close

from autoencoder.random_numbers import BatchDraws, _hashes


def test_the_hashes_are_those_of_splitmix64() -> None:
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    (hashes,) = _hashes(torch.tensor([1234567]), 4).tolist()
    assert [value % 2**64 for value in hashes] == published


def test_an_item_does_not_depend_on_its_batch() -> None:
    together, alone = BatchDraws(3, [5, 6, 7]), BatchDraws(3, [6])
    for draw in (lambda draws: draws.uniform(5), lambda draws: draws.normal(2, 3, 5), lambda draws: draws.normal()):
        three, one = draw(together), draw(alone)
        assert_close(three[1:2], one, rtol=0, atol=0)
        assert not torch.equal(three[0], three[2])


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_numbers_are_uniform_and_normal(seed: int) -> None:
    draws = BatchDraws(seed, range(64))
    flat = draws.uniform(4096)
    assert 0 <= flat.min() < 0.001
    assert 0.999 < flat.max() < 1
    assert flat.mean() == pytest.approx(0.5, abs=0.003)
    assert flat.var() == pytest.approx(1 / 12, abs=0.001)
    values = draws.normal(4095)
    for power, moment in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
        assert (values.double() ** power).mean() == pytest.approx(moment, abs=0.05)
    between = torch.corrcoef(values[:8]) - torch.eye(8)
    assert between.abs().max() < 0.07
    assert torch.corrcoef(torch.stack([values[:, 1:].flatten(), values[:, :-1].flatten()]))[0, 1].abs() < 0.01


def test_each_call_and_each_seed_draws_other_numbers() -> None:
    draws, other = BatchDraws(0, range(1000)), BatchDraws(1, range(1000))
    rows = torch.stack([draws.normal(), draws.normal(), other.normal(), draws.uniform()])
    between = torch.corrcoef(rows) - torch.eye(4)
    assert between.abs().max() < 0.1
