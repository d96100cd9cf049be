"""The architecture computes what the published network computed with the same weights (tests/parity)."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from autoencoder import Music2LatentAutoencoder
from autoencoder.consistency import (
    GapSchedule,
    NoiseDensity,
    NoiseRamp,
    consistency_loss,
    huber_constant,
    precondition,
)
from autoencoder.conversion import UNUSED, from_original_state_dict, original_names

PARITY = Path(__file__).parents[1] / "parity"
SEEDS = (11, 12)


def load_reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", PARITY / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference = load_reference()


def relative_to_1e3(actual: torch.Tensor | float, expected: np.ndarray) -> None:
    torch.testing.assert_close(float(actual), float(expected), rtol=1e-3, atol=1e-6)


@pytest.fixture(scope="module")
def published() -> Music2LatentAutoencoder:
    return Music2LatentAutoencoder().eval()


@pytest.fixture(scope="module", params=SEEDS)
def case(request: pytest.FixtureRequest, published: Music2LatentAutoencoder) -> dict:
    """Every stage of the published computation, by our network with the reference weights."""
    seed = request.param
    published.load_state_dict(from_original_state_dict(reference.reference_weights(seed), published))
    expected = dict(np.load(PARITY / f"vectors_seed{seed}.npz"))
    waveform = torch.from_numpy(reference.test_waveform(len(expected["waveform"]), seed))
    with torch.no_grad():
        spectrogram = published.spectrogram(waveform[None])
        spectrogram = spectrogram[..., : spectrogram.shape[-1] // 8 * 8]
        latents = published.encode_spectrogram(spectrogram)
        maps = published.make_maps(latents)
        noise, noise_mid = reference.unit_noise(seed, spectrogram.shape[-1])
        decoded = published.decode_spectrogram(noise[None], maps)
        sigma_mid = torch.tensor([float(expected["sigma_mid"])])
        actual = {
            "waveform": waveform,
            "spectrogram": spectrogram,
            "features": published.encoder.features(spectrogram),
            "latents": latents,
            "maps": maps,
            "decoded": decoded,
            "decoded_waveform": published.spectrogram.inverse(decoded),
            "mid": published.denoise(decoded + sigma_mid * noise_mid, sigma_mid, maps),
        }
    return {"actual": actual, "expected": expected}


def test_the_published_architecture_has_the_published_parameters(published: Music2LatentAutoencoder) -> None:
    shapes = json.loads((PARITY / "state_dict_shapes.json").read_text())
    unused = sum(int(np.prod(shape)) for name, shape in shapes.items() if UNUSED.fullmatch(name))
    assert published.num_parameters() + unused == 58_185_026
    assert published.encoder.gain.numel() == 1024
    assert sum(parameter.numel() for parameter in published.encoder.parameters()) == 16_261_568


def test_every_published_tensor_in_use_has_a_place(published: Music2LatentAutoencoder) -> None:
    shapes = json.loads((PARITY / "state_dict_shapes.json").read_text())
    in_use = {name for name in shapes if not UNUSED.fullmatch(name)}
    assert set(original_names(published).values()) == in_use
    assert len(shapes) - len(in_use) == 8


def test_spectrogram(case: dict) -> None:
    actual, expected = case["actual"]["spectrogram"], case["expected"]
    torch.testing.assert_close(case["actual"]["waveform"], torch.from_numpy(expected["waveform"]), rtol=0, atol=1e-6)
    first = torch.from_numpy(expected["spectrogram_first_frames"])
    torch.testing.assert_close(actual[0, ..., :2], first, rtol=1e-3, atol=1e-5)
    relative_to_1e3(actual.abs().mean(), expected["spectrogram_abs_mean"])
    relative_to_1e3(actual.double().sum(), expected["spectrogram_sum"])


def test_features(case: dict) -> None:
    actual, expected = case["actual"]["features"], case["expected"]
    assert list(actual.shape) == expected["features_shape"].tolist()
    corner = torch.from_numpy(expected["features_corner"])
    torch.testing.assert_close(actual[0, :64, :4], corner, rtol=1e-3, atol=1e-3)
    relative_to_1e3(actual.abs().mean(), expected["features_abs_mean"])


def test_latents(case: dict) -> None:
    # float32 rounding alone moves these latents by up to 7e-4: computed in float64 they differ by as much
    torch.testing.assert_close(
        case["actual"]["latents"], torch.from_numpy(case["expected"]["latents"]), rtol=0, atol=1e-3
    )


def test_maps(case: dict) -> None:
    maps, expected = case["actual"]["maps"], case["expected"]
    assert [list(each.shape) for each in maps] == expected["pyramid_shapes"].tolist()
    for each, mean in zip(maps, expected["pyramid_abs_mean"], strict=True):
        relative_to_1e3(each.abs().mean(), mean)


@pytest.mark.parametrize(("name", "key"), [("decoded", "denoised_at_sigma_max"), ("mid", "denoised_at_sigma_mid")])
def test_denoising_steps(case: dict, name: str, key: str) -> None:
    actual, expected = case["actual"][name], case["expected"]
    corner = torch.from_numpy(expected[f"{key}_corner"])
    torch.testing.assert_close(actual[0, :, :48, :8], corner, rtol=1e-3, atol=1e-4)
    relative_to_1e3(actual.abs().mean(), expected[f"{key}_abs_mean"])


def test_decoded_waveform(case: dict) -> None:
    expected = torch.from_numpy(case["expected"]["decoded_waveform"])
    torch.testing.assert_close(case["actual"]["decoded_waveform"], expected, rtol=0, atol=1e-4)


def test_training_loss_of_two_crops(published: Music2LatentAutoencoder) -> None:
    expected = json.loads((PARITY / "training_math.json").read_text())["loss"]
    published.load_state_dict(from_original_state_dict(reference.reference_weights(11), published))
    crops = torch.stack([torch.from_numpy(reference.test_waveform(34_304, 100 + index)) for index in range(2)])
    noise = np.random.Generator(np.random.PCG64(4242)).standard_normal((2, 2, 1024, 64)).astype(np.float32)
    ramp, t_high = published.ramp, torch.tensor(expected["t_high"])
    sigma_high, sigma_low = ramp.sigma(t_high), ramp.sigma(t_high - expected["gap"])
    torch.testing.assert_close(sigma_high, torch.tensor(expected["sigma_high"]), rtol=1e-4, atol=0)
    torch.testing.assert_close(sigma_low, torch.tensor(expected["sigma_low"]), rtol=1e-4, atol=0)
    weight = 1 / (sigma_high - sigma_low)
    torch.testing.assert_close(weight, torch.tensor(expected["weight"]), rtol=1e-3, atol=0)
    x0 = published.spectrogram(crops)
    with torch.no_grad():
        maps = published.make_maps(published.encode_spectrogram(x0))
        losses, _ = consistency_loss(
            lambda x, sigma: published.denoise(x, sigma, maps), x0, torch.from_numpy(noise), sigma_low, sigma_high
        )
    torch.testing.assert_close(losses, torch.tensor(expected["weighted_per_crop"]), rtol=1e-3, atol=0)
    torch.testing.assert_close(losses / weight, torch.tensor(expected["unweighted_pseudo_huber"]), rtol=1e-3, atol=0)
    torch.testing.assert_close(losses.mean().item(), expected["mean"], rtol=1e-3, atol=0)
    assert huber_constant(x0[0].numel()) == pytest.approx(expected["huber_c"], rel=1e-6)


@pytest.fixture(scope="module")
def training_math() -> dict:
    return json.loads((PARITY / "training_math.json").read_text())


def test_gap_schedule(training_math: dict) -> None:
    gap = GapSchedule()
    for step, expected in training_math["gap_exponent_3"].items():
        assert gap(int(step) / 800_000) == pytest.approx(expected, rel=1e-6)


def test_ramp(training_math: dict) -> None:
    ramp = training_math["ramp"]
    sigma = NoiseRamp().sigma(torch.tensor(ramp["t"]))
    torch.testing.assert_close(sigma, torch.tensor(ramp["sigma"]), rtol=1e-4, atol=0)


def test_noise_density(training_math: dict) -> None:
    expected, ramp = training_math["noise_density"], NoiseRamp()
    density = NoiseDensity(ramp)
    sigma = ramp.sigma(density.t(torch.tensor(expected["quantiles"])))
    torch.testing.assert_close(sigma, torch.tensor(expected["sigma"]), rtol=1e-3, atol=0)
    uniform = (torch.arange(100_000) + 0.5) / 100_000
    mean = ramp.sigma(density.t(uniform)).log().mean().item()
    assert mean == pytest.approx(expected["mean_log_sigma"], rel=1e-3)


def test_preconditioning(training_math: dict) -> None:
    expected = training_math["preconditioning"]
    scales = precondition(torch.tensor(expected["sigma"]), sigma_min=0.002, sigma_data=0.5)
    for name in ("c_skip", "c_out", "c_in"):
        torch.testing.assert_close(getattr(scales, name), torch.tensor(expected[name]), rtol=1e-5, atol=1e-7)
