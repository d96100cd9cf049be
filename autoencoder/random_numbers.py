"""Random numbers of a training as a function of (seed, position, place): the same on every device, in any batch.

torch's generators hold a state. For items that do not depend on their batch each would need one of its own, and a
kernel for each of its draws. Here a number is a hash of its item's key and its place, so that a batch is drawn at
once.

Symbols
    keys    one 64-bit number per item, as int64

Sources
    SplitMix64  Steele, Lea and Flood 2014, https://doi.org/10.1145/2660193.2660195
    Box-Muller  Box and Muller 1958, https://doi.org/10.1214/aoms/1177706645
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

Keys = Int[Tensor, " batch"]


def _signed(value: int) -> int:
    """The lowest 64 bits of a number, as torch's int64 holds them."""
    value %= 2**64
    return value - 2**64 if value >= 2**63 else value


GAMMA = _signed(0x9E3779B97F4A7C15)
FACTORS = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


class BatchDraws:
    """Random numbers of a batch; each call gives other ones.

    Args:
        seed: of the training and of the purpose.
        positions: of the items in the training's data.
        device: where the numbers are made.
    """

    def __init__(self, seed: int, positions: Sequence[int], device: torch.device | str = "cpu") -> None:
        places = torch.tensor(positions, dtype=torch.int64).to(device, non_blocking=True)
        self._keys = _mix(_signed(seed) + places * GAMMA)
        self._num_calls = 0

    def uniform(self, *shape: int) -> Float[Tensor, "batch *shape"]:
        """Uniform numbers in [0, 1), multiples of 2**-24."""
        bits = _hashes(self._next_keys(), math.prod(shape))
        return (_shift(bits, 40).float() * 2.0**-24).view(-1, *shape)

    def normal(self, *shape: int) -> Float[Tensor, "batch *shape"]:
        """Unit Gaussian numbers; the largest that can come is 6.7."""
        count = math.prod(shape)
        bits = _hashes(self._next_keys(), -(-count // 2))
        radius = ((_shift(bits, 32) + 1).float() * 2.0**-32).log().mul_(-2).clamp_(min=0).sqrt_()
        angle = (bits & 0xFFFFFFFF).float() * (2 * math.pi * 2.0**-32)
        values = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)
        return values[:, :count].reshape(-1, *shape)

    def _next_keys(self) -> Keys:
        self._num_calls += 1
        return _mix(self._keys ^ _signed(self._num_calls * GAMMA))


def _hashes(keys: Keys, num: int) -> Int[Tensor, "batch num"]:
    """The first outputs of SplitMix64 generators whose states are the keys."""
    return _mix(keys[:, None] + GAMMA * torch.arange(1, num + 1, device=keys.device))


def _mix(z: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    z = (z ^ _shift(z, 30)) * FACTORS[0]
    z = (z ^ _shift(z, 27)) * FACTORS[1]
    return z ^ _shift(z, 31)


def _shift(z: Int[Tensor, "*shape"], places: int) -> Int[Tensor, "*shape"]:
    """To the right without the sign."""
    return (z >> places) & (2 ** (64 - places) - 1)
