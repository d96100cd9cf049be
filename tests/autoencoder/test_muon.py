"""Muon takes convolutions as matrices."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from autoencoder.muon import MuonWithAdamW

LEARNING_RATE = 1e-2


def optimizer_of(layer: nn.Module) -> MuonWithAdamW:
    return MuonWithAdamW([layer.weight], [layer.bias], LEARNING_RATE, (0.9, 0.99), weight_decay=0.01)


def update(layer: nn.Module, optimizer: MuonWithAdamW, patches: torch.Tensor) -> None:
    optimizer.zero_grad()
    layer(patches).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_convolution_is_trained_like_the_matrix_of_its_patches(memory_format: torch.memory_format) -> None:
    conv = nn.Conv2d(4, 16, 3).to(memory_format=memory_format)
    linear = nn.Linear(36, 16)
    with torch.no_grad():
        linear.weight.copy_(conv.weight.flatten(1))
        linear.bias.copy_(conv.bias)
    before = linear.weight.detach().clone()
    optimizers = optimizer_of(conv), optimizer_of(linear)
    for _ in range(3):
        patches = torch.randn(8, 4, 3, 3)
        update(conv, optimizers[0], patches)
        update(linear, optimizers[1], patches.flatten(1))
    assert_close(conv.weight.flatten(1), linear.weight, rtol=1e-3, atol=1e-5)
    assert_close(conv.bias, linear.bias, rtol=1e-3, atol=1e-5)
    # the size of AdamW's updates: about .2 of the learning rate each (RMS)
    assert 0.1 * LEARNING_RATE < (linear.weight - before).square().mean().sqrt() < 0.6 * LEARNING_RATE


def test_its_state_goes_on_after_being_loaded() -> None:
    conv = nn.Conv1d(4, 16, 3)
    optimizer = optimizer_of(conv)
    first, second = torch.randn(8, 4, 3), torch.randn(8, 4, 3)
    update(conv, optimizer, first)
    resumed = copy.deepcopy(conv)
    optimizer_again = optimizer_of(resumed)
    optimizer_again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    update(conv, optimizer, second)
    update(resumed, optimizer_again, second)
    assert_close(resumed.weight, conv.weight, rtol=0, atol=0)
