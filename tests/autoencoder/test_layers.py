"""Normalisation: the accelerators' way gives what torch's does, values and gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from autoencoder.layers import ChannelsLastNorm


@pytest.mark.parametrize(("channels", "groups"), [(8, 2), (12, 3), (4, 1)])
def test_values_and_gradients_are_those_of_group_normalisation(channels: int, groups: int) -> None:
    generator = torch.Generator().manual_seed(channels)
    x = (3 * torch.randn(2, channels, 5, 7, generator=generator) + 1).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(2, channels, generator=generator)
    towards = torch.randn(x.shape, generator=generator)
    found = []
    for norm in (ChannelsLastNorm.apply, lambda *args: F.group_norm(args[0], args[3], *args[1:3], args[4])):
        inputs = [one.clone().requires_grad_() for one in (x, weight, bias)]
        out = norm(*inputs, groups, 1e-5)
        (out * towards).sum().backward()
        found.append([out.detach(), *(one.grad for one in inputs)])
    for ours, theirs in zip(*found, strict=True):
        assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert found[0][0].is_contiguous(memory_format=torch.channels_last)
    assert found[0][1].is_contiguous(memory_format=torch.channels_last)


def test_half_precision_stays_half_precision() -> None:
    x = torch.randn(1, 4, 3, 3).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = ChannelsLastNorm.apply(x, torch.ones(4), torch.zeros(4), 1, 1e-5)
    out.float().sum().backward()
    assert out.dtype == torch.bfloat16
    assert x.grad is not None
