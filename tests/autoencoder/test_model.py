"""The codec's public interface, on a tiny one."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from autoencoder import Music2LatentAutoencoder
from autoencoder.consistency import GapSchedule
from autoencoder.noise import place_noise
from autoencoder.objective import ConsistencyObjective
from autoencoder.random_numbers import BatchDraws
from tests.conftest import TINY_CODEC, tone


@pytest.mark.parametrize("num_samples", [1, 383, 384, 512, 4096, 34_304])
def test_decoding_gives_exactly_the_samples_that_were_encoded(
    codec: Music2LatentAutoencoder, num_samples: int
) -> None:
    latents = codec.encode(torch.randn(2, 1, num_samples) * 0.1)
    assert latents.shape == (2, 4, codec.num_latent_frames(num_samples))
    waveform = codec.decode(latents, num_samples=num_samples)
    assert waveform.shape == (2, 1, num_samples)
    assert waveform.abs().max() <= 1


def test_channels_are_coded_one_by_one(codec: Music2LatentAutoencoder) -> None:
    left, right = tone(300.0, 0.2)[None], tone(500.0, 0.2)[None]
    both = codec.encode(torch.cat([left, right], dim=1))
    torch.testing.assert_close(both, torch.cat([codec.encode(left), codec.encode(right)], dim=1), rtol=1e-4, atol=1e-3)


def test_channels_of_an_item_share_the_noise(codec: Music2LatentAutoencoder) -> None:
    latents = codec.encode(tone(300.0, 0.2)[None]).repeat(1, 2, 1)
    left, right = codec.decode(latents)[0]
    torch.testing.assert_close(left, right)


def test_an_item_does_not_see_its_batch(codec: Music2LatentAutoencoder) -> None:
    waveforms = torch.stack([tone(100.0 * k, 0.2) for k in range(1, 5)])
    latents = codec.encode(waveforms)
    generators = [torch.Generator().manual_seed(k) for k in range(4)]
    together = codec.decode(latents, generator=generators)
    alone = codec.decode(codec.encode(waveforms[2:3]), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(together[2:3], alone, rtol=0, atol=1e-5)


def test_the_seed_decides(codec: Music2LatentAutoencoder) -> None:
    latents = codec.encode(tone(300.0, 0.2)[None])
    first, again, other = (codec.decode(latents, generator=torch.Generator().manual_seed(k)) for k in (1, 1, 2))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert (first - other).abs().max() > 1e-3


def test_given_noise_is_used(codec: Music2LatentAutoencoder) -> None:
    latents = codec.encode(tone(300.0, 0.2)[None])
    noise = torch.randn(1, 1, 2, 256, latents.shape[-1] * 4)
    torch.testing.assert_close(codec.decode(latents, noise=noise), codec.decode(latents, noise=noise))
    assert (codec.decode(latents, noise=noise) - codec.decode(latents, noise=-noise)).abs().max() > 1e-3


def test_more_steps_change_the_result_and_end_with_the_denoiser(codec: Music2LatentAutoencoder) -> None:
    latents = codec.encode(tone(300.0, 0.2)[None])
    maps = codec.make_maps(latents)
    noise = torch.randn(2, 1, 2, 256, latents.shape[-1] * 4)
    sigma = codec.ramp.sigma(torch.tensor([1.0, 0.5]))
    first = codec.denoise(sigma[0] * noise[0], sigma[:1], maps)
    second = codec.denoise(first + (sigma[1] ** 2 - 0.002**2).sqrt() * noise[1], sigma[1:], maps)
    torch.testing.assert_close(codec.decode_spectrogram(noise, maps), second)


def test_noise_is_a_function_of_place() -> None:
    whole = place_noise([5, 6], 8, 200)
    torch.testing.assert_close(place_noise([6], 8, 70, start_frame=60), whole[1:, ..., 60:130], rtol=0, atol=0)
    assert (place_noise([5], 8, 64) - place_noise([5], 8, 64, step=1)).abs().max() > 0.1
    assert whole.std().item() == pytest.approx(1.0, abs=0.05)


def test_the_denoiser_is_the_identity_at_sigma_min(codec: Music2LatentAutoencoder) -> None:
    maps = codec.make_maps(torch.randn(1, 4, 3))
    x = torch.randn(1, 2, 256, 12)
    torch.testing.assert_close(codec.denoise(x, torch.tensor([0.002]), maps), x)


def test_silence_is_coded_without_nan(codec: Music2LatentAutoencoder) -> None:
    assert codec.encode(torch.zeros(1, 1, 5000)).isfinite().all()


def test_features_are_wide_and_in_step_with_the_latents(codec: Music2LatentAutoencoder) -> None:
    features = codec.extract_features(torch.randn(2, 2, 5000))
    assert features.shape == (2, 2, codec.levels.features_dim, codec.num_latent_frames(5000))


def test_forward_keeps_the_shape_and_has_gradients_for_every_parameter() -> None:
    model = Music2LatentAutoencoder(**TINY_CODEC)
    sample = tone(300.0, 0.1).repeat(2, 1)[None]
    reconstruction = model(sample).sample
    assert reconstruction.shape == sample.shape
    torch.testing.assert_close(
        model(sample, generator=torch.Generator().manual_seed(0), return_dict=False)[0],
        model(sample, generator=torch.Generator().manual_seed(0)).sample,
    )


def test_every_parameter_takes_part_in_the_training_step(codec: Music2LatentAutoencoder) -> None:
    objective = ConsistencyObjective(codec.train(), GapSchedule())
    batch = {"waveform": torch.cat([tone(300.0, 0.1), tone(500.0, 0.1)])[:, : codec.spectrogram.num_samples(16)]}
    losses, levels = objective(batch, BatchDraws(0, range(2)), 0.0)
    losses.mean().backward()
    assert losses.shape == levels.shape == (2,)
    for name, parameter in codec.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_the_spectral_term_is_the_distance_of_the_estimates_audio(codec: Music2LatentAutoencoder) -> None:
    waveforms = torch.cat([tone(300.0, 0.1), tone(500.0, 0.1)])[:, : codec.spectrogram.num_samples(16)]

    def losses(spectral_weight: float) -> torch.Tensor:
        objective = ConsistencyObjective(codec, GapSchedule(), spectral_weight=spectral_weight)
        return objective({"waveform": waveforms}, BatchDraws(0, range(2)), 0.5)[0]

    terms = losses(10.0) - losses(0.0)
    torch.testing.assert_close(losses(20.0) - losses(0.0), 2 * terms)
    assert (terms > 0).all()


def test_the_spectral_term_trains_on_silence(codec: Music2LatentAutoencoder) -> None:
    objective = ConsistencyObjective(codec.train(), GapSchedule(), spectral_weight=10.0)
    batch = {"waveform": torch.zeros(1, codec.spectrogram.num_samples(16))}
    losses, _ = objective(batch, BatchDraws(0, [0]), 0.0)
    losses.mean().backward()
    assert losses.isfinite().all()
    for name, parameter in codec.named_parameters():
        assert parameter.grad.isfinite().all(), name


def test_the_first_share_of_the_training_is_about_magnitudes_only(codec: Music2LatentAutoencoder) -> None:
    objective = ConsistencyObjective(codec.train(), GapSchedule(), magnitude_weight=3.0, magnitude_share=0.5)
    batch = {"waveform": torch.cat([tone(300.0, 0.1), tone(500.0, 0.1)])[:, : codec.spectrogram.num_samples(16)]}

    def losses(progress: float) -> torch.Tensor:
        return objective(batch, BatchDraws(0, range(2)), progress)[0]

    losses(0.2).mean().backward()
    for name, parameter in objective.named_parameters():
        assert parameter.grad is not None, name  # or several processes would wait for it
        assert bool(parameter.grad.abs().max() > 0) == ("denoiser" not in name), name
    x0 = codec.spectrogram(batch["waveform"])
    read = objective.magnitude_head(codec.make_maps(codec.encode_spectrogram(x0))[0])
    wanted = (x0.norm(dim=1, keepdim=True) + 0.02).log()
    torch.testing.assert_close(losses(0.2), 3 * (read - wanted).square().flatten(1).mean(1), rtol=1e-4, atol=1e-4)
    published = ConsistencyObjective(codec, GapSchedule())
    alone = published(batch, BatchDraws(0, range(2)), 0.5)[0]
    torch.testing.assert_close(losses(0.5) - alone, losses(0.2), rtol=1e-4, atol=1e-3)


def test_of_a_new_codec_only_the_denoiser_is_silent() -> None:
    model = Music2LatentAutoencoder(**TINY_CODEC)
    for name, parameter in model.named_parameters():
        if name.endswith("conv2.weight"):
            assert bool(parameter.any()) == (not name.startswith("denoiser")), name


def test_the_loss_of_an_item_does_not_depend_on_its_batch(codec: Music2LatentAutoencoder) -> None:
    objective = ConsistencyObjective(codec, GapSchedule())
    waveforms = torch.cat([tone(300.0, 0.1), tone(500.0, 0.1)])[:, : codec.spectrogram.num_samples(16)]
    together, _ = objective({"waveform": waveforms}, BatchDraws(0, range(2)), 0.5)
    alone, _ = objective({"waveform": waveforms[1:]}, BatchDraws(0, [1]), 0.5)
    torch.testing.assert_close(together[1:], alone)


def test_a_saved_codec_is_loaded_with_the_same_result(codec: Music2LatentAutoencoder, tmp_path: Path) -> None:
    codec.save_pretrained(tmp_path)
    loaded = Music2LatentAutoencoder.from_pretrained(tmp_path)
    assert loaded.config.codec_id == "tiny"
    assert loaded.fingerprint() == codec.fingerprint()
    latents = codec.encode(tone(300.0, 0.2)[None])
    torch.testing.assert_close(loaded.encode(tone(300.0, 0.2)[None]), latents, rtol=0, atol=0)


def test_the_fingerprint_is_that_of_the_encoder_only(codec: Music2LatentAutoencoder) -> None:
    before = codec.fingerprint()
    codec.denoiser.conv_out.bias.data += 1
    assert codec.fingerprint() == before
    codec.encoder.conv_out.bias.data += 1
    assert codec.fingerprint() != before


def test_missing_weights_are_an_error_that_names_them(codec: Music2LatentAutoencoder, tmp_path: Path) -> None:
    codec.save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    del weights["encoder.gain"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"missing_keys.*encoder\.gain"):
        Music2LatentAutoencoder.from_pretrained(tmp_path)


def test_half_precision_runs_and_stays_close(codec: Music2LatentAutoencoder) -> None:
    waveform = tone(300.0, 0.2)[None]
    latents = codec.encode(waveform)
    codec.to(torch.bfloat16)
    assert codec.encode(waveform).dtype == torch.bfloat16
    assert (codec.encode(waveform).float() - latents).abs().mean() < 0.1 * latents.abs().mean()
    assert codec.decode(latents).dtype == torch.float32


@pytest.mark.parametrize(
    ("waveform", "error", "message"),
    [
        (torch.zeros(1, 1, 100, dtype=torch.int16), TypeError, "divide 16-bit integers by 32768"),
        (torch.full((2, 1, 100), torch.nan), ValueError, r"items \[0, 1\] of the batch hold NaN"),
        (torch.zeros(1, 1, 0), ValueError, r"not empty, got \(1, 1, 0\)"),
    ],
)
def test_bad_waveforms_are_refused(
    codec: Music2LatentAutoencoder, waveform: torch.Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        codec.encode(waveform)


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((1, 6, 3), {}, r"channels \* 4, latent_frames\) and not empty, got \(1, 6, 3\)"),
        ((1, 4, 3), {"num_samples": 5000}, r"cover at most 1152 samples, got num_samples=5000"),
        ((1, 4, 3), {"num_samples": 0}, "num_samples must be at least 1, got 0"),
        ((1, 4, 3), {"num_inference_steps": 0}, "at least 1, got 0"),
        ((2, 4, 3), {"generator": [torch.Generator()]}, "2 items, 1 generators"),
    ],
)
def test_bad_decoding_arguments_are_refused(
    codec: Music2LatentAutoencoder, shape: tuple[int, ...], arguments: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        codec.decode(torch.zeros(shape), **arguments)


def test_levels_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ValueError, match="5 levels of channels need"):
        Music2LatentAutoencoder(frequency_factors=(4, 2), time_factors=(1, 2))
    with pytest.raises(ValueError, match=r"do not divide 1024 bins"):
        Music2LatentAutoencoder(frequency_factors=(3, 2, 2, 2))


def test_the_config_file_describes_the_model(codec: Music2LatentAutoencoder, tmp_path: Path) -> None:
    codec.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["channels"] == [4, 8, 8]
    assert config["sample_rate"] == 44_100


def test_audio_is_padded_by_reflection(codec: Music2LatentAutoencoder) -> None:
    waveform = tone(300.0, 0.2)[None, :, :5000]
    overlap, end = codec.spectrogram.overlap, codec.num_latent_frames(5000) * codec.samples_per_latent
    padded = torch.nn.functional.pad(waveform, (overlap, end - 5000), mode="reflect")
    torch.testing.assert_close(
        codec.encode(waveform), codec.encode_spectrogram(codec.spectrogram(padded[0])), rtol=1e-4, atol=1e-4
    )


def test_a_folder_that_does_not_exist_is_an_error_that_asks_no_hub(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere; expected one with config\.json"):
        Music2LatentAutoencoder.from_pretrained(tmp_path / "nowhere")
