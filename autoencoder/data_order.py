"""The order of training data: everything random about an item is a function of (seed, position).

``position`` counts items from the start of the training over all processes: which item, which crop and (with the same
function of other streams) which noise. So a run that is stopped and continued, or uses other numbers of workers or
processes, sees the same data.
"""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

MAX_ATTEMPTS = 100  # so that a run goes on with the tenth of a set that is left
Batch = tuple[list[int], dict[str, Tensor], list[str]]
"""Positions, tensors, and the reasons for which items were skipped on the way."""


@runtime_checkable
class TrainingData(Protocol):
    """What training needs of a data set: an item is a function of (index, generator), and so is the order."""

    def __len__(self) -> int: ...
    def order(self, generator: torch.Generator) -> Tensor:
        """A permutation of all indices, for one epoch."""
        ...

    def draw(self, index: int, generator: torch.Generator) -> dict[str, Tensor]: ...
    def collate(self, items: list[dict[str, Tensor]]) -> dict[str, Tensor]: ...


def seed_of(*numbers: int) -> int:
    """A well-mixed seed from several numbers, such as (seed, position, stream)."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


class PositionedItems(Dataset):
    """The endless shuffled stream of a data set: the item at ``position`` is a function of (seed, position).

    An item that cannot be drawn is replaced by another one, and the reason travels along as ``skipped``.
    """

    def __init__(self, data: TrainingData, seed: int) -> None:
        self.data, self.seed = data, seed
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def __getitem__(self, position: int) -> tuple[int, dict[str, Tensor], list[str]]:
        generator = torch.Generator().manual_seed(seed_of(self.seed, position, 0))
        index = self._index(position)
        skipped: list[str] = []
        for _ in range(MAX_ATTEMPTS):
            try:
                return position, self.data.draw(index, generator), skipped
            except ValueError as error:
                skipped.append(str(error))
                index = int(torch.randint(len(self.data), (), generator=generator))
        raise RuntimeError(f"{MAX_ATTEMPTS} items in a row could not be used; the last: {skipped[-1]}")

    def collate(self, entries: list[tuple[int, dict[str, Tensor], list[str]]]) -> Batch:
        """Batch of items, with their positions and what was skipped on the way."""
        positions, items, skipped = zip(*entries, strict=True)
        return list(positions), self.data.collate(list(items)), [reason for reasons in skipped for reason in reasons]

    def _index(self, position: int) -> int:
        epoch, offset = divmod(position, len(self.data))
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(seed_of(self.seed, epoch, 1))
            self._epoch, self._order = epoch, self.data.order(generator)
        return int(self._order[offset])


class Positions(Sampler[list[int]]):
    """Positions of the batches of process ``rank``, which takes its part of each global batch."""

    def __init__(self, batch_size: int, rank: int, num_processes: int, first_batch: int) -> None:
        self.batch_size, self.rank, self.num_processes, self.first_batch = batch_size, rank, num_processes, first_batch

    def __iter__(self) -> Iterator[list[int]]:
        batch = self.first_batch
        while True:
            start = (batch * self.num_processes + self.rank) * self.batch_size
            yield list(range(start, start + self.batch_size))
            batch += 1
