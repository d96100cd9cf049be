"""Decoding noise as a function of place: the same seed gives the same noise for the same frame, whatever the call.

One generator draw per item makes its seed; from then on the noise of a block of frames depends only on (seed, step,
block). So an item decoded alone equals the same item in a batch, windows of one piece agree where they overlap, and
every device sees the same numbers.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

FRAMES_PER_BLOCK = 64


def draw_seeds(generator: torch.Generator | Sequence[torch.Generator] | None, num_items: int) -> list[int]:
    """One seed per item: from one generator in order, from one generator each, or from torch's global one.

    Raises:
        ValueError: a list of generators has another length than the batch.
    """
    if isinstance(generator, Sequence):
        if len(generator) != num_items:
            raise ValueError(
                f"a list of generators needs one per item: {num_items} items, {len(generator)} generators"
            )
        generators: list[torch.Generator | None] = list(generator)
    else:
        generators = [generator] * num_items
    return [
        int(torch.randint(2**62, (), generator=one, device=one.device if one else "cpu").item()) for one in generators
    ]


def place_noise(
    seeds: Sequence[int], num_bins: int, num_frames: int, start_frame: int = 0, step: int = 0
) -> Float[Tensor, "batch 2 bins frames"]:
    """Unit Gaussian noise of the frames from ``start_frame`` on, on the CPU; ``step`` counts decoding steps."""
    first, last = start_frame // FRAMES_PER_BLOCK, (start_frame + num_frames - 1) // FRAMES_PER_BLOCK
    offset = start_frame - first * FRAMES_PER_BLOCK
    items = [
        torch.cat([_block(seed, step, block, num_bins) for block in range(first, last + 1)], dim=2) for seed in seeds
    ]
    return torch.stack(items)[..., offset : offset + num_frames]


def _block(seed: int, step: int, block: int, num_bins: int) -> Float[Tensor, "2 bins frames"]:
    mixed = np.random.SeedSequence([seed, step, block]).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(mixed >> np.uint64(1)))
    return torch.randn(2, num_bins, FRAMES_PER_BLOCK, generator=generator)
