"""Three optimiser steps of each training give the numbers they gave before: a refactor must not move them.

A change that moves them on purpose says so in CHANGELOG.md and stores the new ones.
"""

import pytest
import torch

from autoencoder import Music2LatentAutoencoder
from autoencoder.consistency import GapSchedule
from autoencoder.objective import ConsistencyObjective
from autoencoder.random_numbers import BatchDraws
from latent_diffusion import LatentDiT
from latent_diffusion.objective import FlowObjective
from tests.conftest import tone

CODEC_LOSSES = [62.203617095947266, 46.4249382019043, 2.6173884868621826]
TRANSFORMER_LOSSES = [3.7843072414398193, 2.377629041671753, 3.3134355545043945]


def three_losses(objective: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: dict) -> list[float]:
    losses = []
    for step in range(3):
        loss = objective(batch, BatchDraws(step, range(2)), step / 3)[0].mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_codec_training_gives_the_stored_losses(codec: Music2LatentAutoencoder) -> None:
    num_samples = codec.spectrogram.num_samples(16)
    batch = {"waveform": torch.cat([tone(300.0, 0.1), tone(500.0, 0.1)])[:, :num_samples]}
    optimizer = torch.optim.RAdam(codec.parameters(), lr=1e-3)
    losses = three_losses(ConsistencyObjective(codec.train(), GapSchedule()), optimizer, batch)
    assert losses == pytest.approx(CODEC_LOSSES, rel=1e-4)


def test_transformer_training_gives_the_stored_losses(transformer: LatentDiT) -> None:
    generator = torch.Generator().manual_seed(0)
    batch = {
        "latents": torch.randn(2, 4, 20, generator=generator),
        "mask": torch.arange(20) < torch.tensor([[20], [13]]),
        "text": torch.randn(2, 5, 32, generator=generator),
        "text_mask": torch.arange(5) < torch.tensor([[5], [3]]),
        "duration": torch.tensor([0.2, 0.13]),
        "tempo": torch.tensor([100.0, 0.0]),
        "key": torch.tensor([3, 24]),
        "beats": torch.arange(20).expand(2, -1) / 4 - torch.tensor([[0.0], [100.0]]),
    }
    objective = FlowObjective(transformer.train(), torch.randn(2, 32, generator=generator))
    optimizer = torch.optim.AdamW(transformer.parameters(), lr=1e-3)
    assert three_losses(objective, optimizer, batch) == pytest.approx(TRANSFORMER_LOSSES, rel=1e-4)
