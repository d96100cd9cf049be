"""Normalisation keeps the precision of its input, and gives the same with and without gradients."""

import pytest
import torch
from torch.testing import assert_close

from autoencoder.layers import GroupNorm


@pytest.mark.parametrize("shape", [(2, 12, 5, 7), (2, 12, 9)])
def test_half_precision_stays_half_precision(shape: tuple[int, ...]) -> None:
    norm, x = GroupNorm(12), torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        assert norm(x.bfloat16()).dtype == torch.bfloat16
        with torch.no_grad():
            assert norm(x.bfloat16()).dtype == torch.bfloat16
    with torch.no_grad():
        without_gradients = norm(x)
    assert_close(norm(x).detach(), without_gradients)
