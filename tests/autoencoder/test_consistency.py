"""Properties of the consistency math, with toy denoisers."""

import pytest
import torch

from autoencoder.consistency import GapSchedule, NoiseDensity, NoiseRamp, consistency_loss, precondition, pseudo_huber


def test_the_ramp_runs_between_its_ends() -> None:
    ramp = NoiseRamp()
    torch.testing.assert_close(ramp.sigma(torch.tensor([0.0, 1.0])), torch.tensor([0.002, 80.0]), rtol=1e-5, atol=1e-7)


def test_the_ramp_has_an_inverse() -> None:
    ramp, t = NoiseRamp(), torch.linspace(0, 1, 11)
    torch.testing.assert_close(ramp.t(ramp.sigma(t)), t, rtol=1e-4, atol=1e-5)


def test_a_ramp_that_does_not_rise_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0 < sigma_min < sigma_max, got sigma_min=2.0 and sigma_max=1.0"):
        NoiseRamp(sigma_min=2.0, sigma_max=1.0)


def test_the_denoiser_is_the_identity_at_sigma_min() -> None:
    c_skip, c_out, _ = precondition(torch.tensor([0.002]), sigma_min=0.002, sigma_data=0.5)
    assert c_skip.item() == 1.0
    assert c_out.item() == 0.0


def test_the_network_input_has_unit_variance() -> None:
    sigma = torch.tensor([0.1, 1.0, 10.0])
    c_in = precondition(sigma, sigma_min=0.002, sigma_data=0.5).c_in
    torch.testing.assert_close(c_in**2 * (sigma**2 + 0.5**2), torch.ones(3))


def test_the_gap_narrows_by_equal_factors() -> None:
    gap = GapSchedule(first=0.4, last=0.1)
    assert [gap(progress) for progress in (0.0, 0.5, 1.0)] == pytest.approx([0.4, 0.2, 0.1])


def test_a_gap_that_widens_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0 < last <= first <= 1, got first=0\.1 and last=0\.2"):
        GapSchedule(0.1, 0.2)


def test_progress_beyond_the_end_is_refused() -> None:
    with pytest.raises(ValueError, match=r"from 0 to 1; got 1\.5"):
        GapSchedule()(1.5)


def test_positions_cover_the_ramp_and_rise_with_the_uniform_number() -> None:
    t = NoiseDensity(NoiseRamp()).t(torch.linspace(0, 0.99999, 1001))
    assert t.min() >= 0
    assert t.max() <= 1
    assert (t.diff() > 0).all()


def test_pseudo_huber_is_the_norm_far_out_and_quadratic_near_zero() -> None:
    difference = torch.tensor([[1e4, 0.0], [1e-3, 0.0]])
    far, near = pseudo_huber(difference, huber_c=1.0)
    assert far.item() == pytest.approx(1e4 - 1, rel=1e-4)
    assert near.item() == pytest.approx(0.5e-6, rel=0.2)


def test_a_perfect_denoiser_has_no_loss() -> None:
    x0 = torch.randn(3, 2, 4)
    losses, _ = consistency_loss(
        lambda x, sigma: x0, x0, torch.randn_like(x0), torch.full((3,), 0.5), torch.full((3,), 0.6)
    )
    torch.testing.assert_close(losses, torch.zeros(3))


def test_only_the_noisier_side_gets_a_gradient() -> None:
    x0, noise = torch.zeros(1, 2), torch.ones(1, 2)
    gain = torch.ones((), requires_grad=True)
    seen = []

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        seen.append((sigma.item(), torch.is_grad_enabled()))
        return gain * x

    consistency_loss(denoise, x0, noise, torch.tensor([1.0]), torch.tensor([2.0]))[0].backward()
    assert sorted(seen) == [(1.0, False), (2.0, True)]
    # d/dgain sqrt(2 (2 gain - 1)^2) at gain 1, divided by the gap of 1
    assert gain.grad.item() == pytest.approx(2 * 2**0.5, rel=1e-4)


def test_the_loss_is_weighted_by_the_gap() -> None:
    x0, noise = torch.zeros(2, 2), torch.ones(2, 2)
    low, high = torch.tensor([1.0, 1.0]), torch.tensor([2.0, 5.0])
    losses, _ = consistency_loss(lambda x, sigma: x, x0, noise, low, high)
    # the distance of the identity is the gap itself times |noise|, so the weight makes both equal
    torch.testing.assert_close(losses, torch.full((2,), 2**0.5), rtol=1e-2, atol=0)


def test_both_sides_see_the_same_noise() -> None:
    x0, noise = torch.zeros(1, 4), torch.randn(1, 4)
    seen = {}
    consistency_loss(
        lambda x, sigma: seen.setdefault(sigma.item(), x), x0, noise, torch.tensor([1.0]), torch.tensor([3.0])
    )
    torch.testing.assert_close(seen[3.0], 3 * seen[1.0])
