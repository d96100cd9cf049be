"""Run time of both trainings: learning rate, data order, checkpoints, the signal to stop."""

import itertools
import os
import signal
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch.testing import assert_close
from torch.utils.data import default_collate

from autoencoder.checkpoints import Checkpoints, StopSignal
from autoencoder.data_order import PositionedItems, Positions, seed_of
from autoencoder.reporting import LossMeter
from autoencoder.training import TrainingConfig, learning_rate_at

CONFIG = TrainingConfig(
    output_dir=Path(), max_steps=110, warmup_steps=10, learning_rate=1e-3, final_learning_rate=1e-5
)


def test_the_learning_rate_warms_up_in_equal_steps():
    rates = [learning_rate_at(step, CONFIG) for step in range(10)]
    assert rates == pytest.approx([1e-4 * (k + 1) for k in range(10)])


def test_the_learning_rate_peaks_after_the_warm_up_and_ends_at_its_final_value():
    assert learning_rate_at(10, CONFIG) == pytest.approx(1e-3)
    assert learning_rate_at(60, CONFIG) == pytest.approx((1e-3 + 1e-5) / 2)
    assert learning_rate_at(110, CONFIG) == pytest.approx(1e-5)


def test_the_learning_rate_never_rises_after_the_warm_up():
    rates = [learning_rate_at(step, CONFIG) for step in range(10, 111)]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"warmup_steps": 110}, "warmup_steps must be below max_steps, got 110 and 110"),
        ({"warmup_steps": -1}, "warmup_steps must be"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1, got 0"),
        ({"checkpoints_to_keep": 0}, "checkpoints_to_keep must be at least 1, got 0"),
    ],
)
def test_impossible_settings_are_an_error_with_their_values(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**({"output_dir": Path(), "max_steps": 110, "warmup_steps": 10} | settings))


class Numbers:
    """Items that are their index and a random number; those in ``bad`` cannot be drawn."""

    def __init__(self, length: int, bad: tuple[int, ...] = ()) -> None:
        self.length, self.bad = length, bad

    def __len__(self) -> int:
        return self.length

    def order(self, generator: torch.Generator) -> torch.Tensor:
        return torch.randperm(self.length, generator=generator)

    def draw(self, index: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        if index in self.bad:
            raise ValueError(f"item {index} is bad")
        return {"index": torch.tensor(index), "random": torch.rand((), generator=generator)}

    def collate(self, items: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        return default_collate(items)


def indices(items: PositionedItems, positions: range) -> list[int]:
    return [int(items[position][1]["index"]) for position in positions]


def test_every_epoch_visits_every_item_once():
    items = PositionedItems(Numbers(10), seed=0)
    for epoch in range(5):
        assert sorted(indices(items, range(10 * epoch, 10 * epoch + 10))) == list(range(10))


def test_epochs_and_seeds_have_their_own_order():
    items = PositionedItems(Numbers(50), seed=0)
    first = indices(items, range(50))
    assert first != indices(items, range(50, 100))
    assert first != indices(PositionedItems(Numbers(50), seed=1), range(50))


def test_an_item_is_a_function_of_seed_and_position():
    in_order, backwards = PositionedItems(Numbers(7), seed=3), PositionedItems(Numbers(7), seed=3)
    expected = [in_order[position] for position in range(20)]
    for position in reversed(range(20)):
        assert_close(backwards[position], expected[position], rtol=0, atol=0)


def test_the_same_item_is_drawn_differently_in_every_epoch():
    items = PositionedItems(Numbers(1), seed=0)
    assert len({float(items[position][1]["random"]) for position in range(20)}) == 20


def test_a_bad_item_is_replaced_and_reported():
    items = PositionedItems(Numbers(5, bad=(2,)), seed=0)
    drawn = [items[position] for position in range(5)]
    assert all(int(tensors["index"]) != 2 for _, tensors, _ in drawn)
    assert {reason for _, _, skipped in drawn for reason in skipped} == {"item 2 is bad"}


def test_the_report_travels_with_the_batch():
    items = PositionedItems(Numbers(5, bad=(2,)), seed=0)
    positions, tensors, skipped = items.collate([items[position] for position in range(5)])
    assert positions == [0, 1, 2, 3, 4]
    assert tensors["index"].shape == (5,)
    assert "item 2 is bad" in skipped


def test_nothing_but_bad_items_is_an_error():
    items = PositionedItems(Numbers(3, bad=(0, 1, 2)), seed=0)
    with pytest.raises(RuntimeError, match=r"100 items in a row could not be used; the last: item \d is bad"):
        items[0]


@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_all_processes_together_visit_every_position_once(num_processes):
    parts = [itertools.islice(Positions(4, rank, num_processes, 0), 5) for rank in range(num_processes)]
    visited = [position for part in parts for batch in part for position in batch]
    assert sorted(visited) == list(range(20 * num_processes))


@pytest.mark.parametrize("num_processes", [1, 3])
def test_positions_continue_at_a_later_batch(num_processes):
    whole = list(itertools.islice(Positions(4, 0, num_processes, 0), 6))
    assert list(itertools.islice(Positions(4, 0, num_processes, 2), 4)) == whole[2:]


def test_a_global_batch_is_the_same_for_any_number_of_processes():
    one = next(iter(Positions(6, 0, 1, 3)))
    three = [next(iter(Positions(2, rank, 3, 3))) for rank in range(3)]
    assert [position for part in three for position in part] == one


def test_seeds_of_neighbouring_numbers_differ():
    seeds = {seed_of(a, b, c) for a in range(10) for b in range(10) for c in range(3)}
    assert len(seeds) == 300
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_loss_is_averaged_over_the_steps_and_in_each_part_of_the_range():
    meter = LossMeter(torch.device("cpu"))
    meter.add(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 0.1]))
    meter.add(torch.tensor([5.0, 7.0]), torch.tensor([0.6, 1.0]))
    assert meter.read(Accelerator(cpu=True)) == {
        "loss": 4.0,
        "loss/level 0.00-0.25": 2.0,
        "loss/level 0.50-0.75": 5.0,
        "loss/level 0.75-1.00": 7.0,
    }
    assert meter.read(Accelerator(cpu=True)) == {}


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(Accelerator(cpu=True), tmp_path, {"width": 8}, num_kept=2)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_checkpoints_are_kept(checkpoints, tmp_path):
    for step in (5, 10, 100):
        checkpoints.save(step)
    assert names(tmp_path) == ["step-00000010", "step-00000100"]


def test_a_run_continues_from_its_newest_checkpoint(checkpoints):
    assert checkpoints.resume()["step"] == 0
    for step in (90, 100):
        checkpoints.save(step, {"faults": {"a.wav": 3}})
    run = checkpoints.resume()
    assert (run["step"], run["faults"]) == (100, {"a.wav": 3})


def test_a_checkpoint_can_be_written_again(checkpoints, tmp_path):
    checkpoints.save(5)
    checkpoints.save(5)
    assert names(tmp_path) == ["step-00000005"]


def test_what_a_killed_save_has_left_is_no_checkpoint(checkpoints, tmp_path):
    checkpoints.save(5)
    (tmp_path / "step-00000006.partial").mkdir()
    assert checkpoints.resume()["step"] == 5
    checkpoints.save(6)
    assert names(tmp_path) == ["step-00000005", "step-00000006"]


def test_a_checkpoint_of_other_settings_is_an_error_that_shows_the_difference(checkpoints, tmp_path):
    checkpoints.save(5)
    other = Checkpoints(Accelerator(cpu=True), tmp_path, {"width": 16, "depth": 2}, num_kept=2)
    with pytest.raises(ValueError, match="started with other settings: depth was None, is 2; width was 8, is 16"):
        other.resume()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_only_sets_a_flag(number):
    stop = StopSignal()
    try:
        assert not stop.received
        os.kill(os.getpid(), number)
        assert stop.received
    finally:
        stop.restore()


def test_the_second_signal_goes_to_whoever_had_it_before():
    before = signal.getsignal(signal.SIGINT)
    stop = StopSignal()
    os.kill(os.getpid(), signal.SIGINT)
    assert stop.received
    assert signal.getsignal(signal.SIGINT) is before
