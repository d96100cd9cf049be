import pytest
import torch
from diffusers.schedulers import FlowMatchEulerDiscreteScheduler
from torch.testing import assert_close

from latent_diffusion.flow import flow_loss, interpolate, logit_normal, velocity


@pytest.fixture
def x0():
    return torch.randn(3, 4, 7)


@pytest.fixture
def noise():
    return torch.randn(3, 4, 7)


def test_the_path_starts_at_the_data_and_ends_at_the_noise(x0, noise):
    assert_close(interpolate(x0, noise, torch.zeros(3)), x0, rtol=0, atol=0)
    assert_close(interpolate(x0, noise, torch.ones(3)), noise, rtol=0, atol=0)


def test_each_item_has_its_own_time(x0, noise):
    t = torch.tensor([0.0, 0.5, 1.0])
    expected = torch.stack([x0[0], (x0[1] + noise[1]) / 2, noise[2]])
    assert_close(interpolate(x0, noise, t), expected)


def test_the_velocity_is_the_derivative_of_the_path(x0, noise):
    t = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    x0, noise, h = x0.double(), noise.double(), 1e-4
    slope = (interpolate(x0, noise, t + h) - interpolate(x0, noise, t - h)) / (2 * h)
    assert_close(velocity(x0, noise), slope)


def test_data_and_noise_follow_from_a_point_and_its_velocity(x0, noise):
    t = torch.tensor([0.1, 0.5, 0.9])
    x, v, t = interpolate(x0, noise, t), velocity(x0, noise), t[:, None, None]
    assert_close(x - t * v, x0)
    assert_close(x + (1 - t) * v, noise)


def test_our_path_is_the_one_that_diffusers_walks_along(x0, noise):
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=[1.0, 0.6, 0.2])
    first, second = scheduler.timesteps[:2]
    assert (first.item(), second.item()) == pytest.approx((1000, 600))
    stepped = scheduler.step(velocity(x0, noise), first, noise, return_dict=False)[0]
    assert_close(stepped, interpolate(x0, noise, torch.full((3,), 0.6)))


def test_the_loss_of_a_perfect_prediction_is_zero(x0, noise):
    target = velocity(x0, noise)
    assert_close(flow_loss(target, target, torch.ones(3, 7, dtype=torch.bool)), torch.zeros(3), rtol=0, atol=0)


def test_the_loss_is_the_mean_squared_error_of_each_item(x0, noise):
    losses = flow_loss(x0, noise, torch.ones(3, 7, dtype=torch.bool))
    assert_close(losses, (x0 - noise).square().mean((1, 2)))


def test_padding_has_no_influence_on_the_loss(x0, noise):
    mask = torch.arange(7) < torch.tensor([[7], [4], [1]])
    losses = flow_loss(x0, noise, mask)
    spoiled = torch.where(mask[:, None], x0, 1000.0)
    assert_close(flow_loss(spoiled, noise, mask), losses)
    assert_close(losses[1], (x0[1, :, :4] - noise[1, :, :4]).square().mean())


def test_the_loss_is_computed_in_float32(x0, noise):
    assert flow_loss(x0.bfloat16(), noise.bfloat16(), torch.ones(3, 7, dtype=torch.bool)).dtype == torch.float32


def test_times_lie_strictly_between_the_ends_with_the_median_in_the_middle():
    t = logit_normal(torch.randn(20_001), mean=0.0, std=1.0)
    assert t.min() > 0
    assert t.max() < 1
    assert t.median().item() == pytest.approx(0.5, abs=0.01)
    assert logit_normal(torch.zeros(1), mean=0.0, std=1.0).item() == 0.5


def test_the_mean_of_the_times_can_be_moved_towards_noise():
    assert logit_normal(torch.zeros(1), mean=1.0, std=1.0).item() == pytest.approx(
        torch.sigmoid(torch.tensor(1.0)).item()
    )
