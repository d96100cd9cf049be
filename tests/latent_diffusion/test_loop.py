"""A loop has no first frame: attention on a circle."""

import pytest
import torch
from torch.testing import assert_close

from latent_diffusion import LatentDiT
from latent_diffusion.embeddings import loop_keys
from tests.conftest import TINY_DIT, randomize

FRAMES = 9


@pytest.fixture
def model() -> LatentDiT:
    model = LatentDiT(in_channels=4, **TINY_DIT).eval()
    randomize(model)
    return model


@torch.no_grad()
def velocity(model, x, frames: float | None = FRAMES, **changes):
    conditions = {
        "timestep": torch.tensor([0.4]),
        "encoder_hidden_states": torch.ones(1, 3, 32),
        "positions": torch.full((1, x.shape[2]), -1.0),
        "duration": torch.tensor([1.0]),
    }
    return model(x, loop_frames=None if frames is None else float(frames), **(conditions | changes)).sample


@pytest.mark.parametrize("frames", [8, 9])
@pytest.mark.parametrize("shift", [1, 4])
def test_rotating_a_loop_rotates_its_velocity(model, frames, shift):
    x = torch.randn(1, 4, frames)
    assert_close(velocity(model, x.roll(shift, -1), frames), velocity(model, x, frames).roll(shift, -1))


def test_without_the_loop_the_ends_are_seen(model):
    x = torch.randn(1, 4, FRAMES)
    rotated = velocity(model, x.roll(4, -1), None)
    assert (rotated - velocity(model, x, None).roll(4, -1)).abs().max() > 1e-2


def test_kept_context_rotates_along(model):
    x, context = torch.randn(1, 4, FRAMES), torch.randn(1, 4, FRAMES)
    mask = torch.zeros(1, 1, FRAMES)
    mask[..., :3] = 1
    here = velocity(model, x, context_latents=context, context_mask=mask)
    there = velocity(model, x.roll(2, -1), context_latents=context.roll(2, -1), context_mask=mask.roll(2, -1))
    assert_close(there, here.roll(2, -1))


@pytest.mark.parametrize("period", [8.0, 8.6, 9.0])
def test_every_frame_sees_every_frame_once_at_its_nearest_place(period):
    num_frames = 9 if period > 8 else 8
    positions, is_seen = loop_keys(num_frames, period, torch.device("cpu"))
    assert_close(is_seen.sum(-1), torch.full((1, 1, num_frames), num_frames))
    distance = (positions - torch.arange(num_frames)[:, None])[is_seen[0, 0]]
    assert distance.abs().max() <= period / 2


def test_the_period_need_not_be_whole(model):
    x = torch.randn(1, 4, FRAMES)
    assert (velocity(model, x, 8.5) - velocity(model, x, 9)).abs().max() > 1e-3


@pytest.mark.parametrize("changes", [{"frames": 8.0}, {"frames": 9.1}, {"attention_mask": torch.ones(1, 9).bool()}])
def test_a_period_that_does_not_fit_is_an_error(model, changes):
    with pytest.raises(ValueError, match="a loop of 9 frames needs loop_frames above 8 and at most 9, and no"):
        velocity(model, torch.randn(1, 4, FRAMES), **changes)
