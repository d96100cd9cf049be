"""Codecs and baselines: on real music the metrics rank them as ears do."""

from pathlib import Path

import pytest
import torch

from autoencoder import Music2LatentAutoencoder
from autoencoder.audio import read_audio
from pipelines.evaluation.coding import SIGMAS, FileResult, denoising_errors, evaluate_waveform, summarise
from pipelines.evaluation.embeddings import load_embedding
from pipelines.evaluation.results import SystemResult
from pipelines.evaluation.systems import Codec, Noise, Opus, RoundTrip
from tests.conftest import SAMPLE_RATE, tone

DEMO_MUSIC = Path(__file__).parents[3] / "scripts" / "demo_music" / "test"
RANKED = ["spectrogram", "Opus 12", "Opus 6", "noise"]


@pytest.fixture(scope="module")
def results() -> dict[str, SystemResult]:
    """Four of the bundled pieces, four seconds each, through all of ``RANKED``."""
    systems = [RoundTrip(Music2LatentAutoencoder(channels=(8, 8), frequency_factors=(8,), time_factors=(2,),
                                                 attention_heads=(0, 0))), Opus(12.0), Opus(6.0), Noise()]  # fmt: skip
    embeddings = [load_embedding("musicnn-msd"), load_embedding("basic-pitch")]
    files: list[FileResult] = []
    for index, path in enumerate(sorted(DEMO_MUSIC.glob("*.ogg"))[::2]):
        waveform = read_audio(path, SAMPLE_RATE)[:, 2 * SAMPLE_RATE : 6 * SAMPLE_RATE]
        files.append(
            evaluate_waveform(path.name, waveform, SAMPLE_RATE, systems, embeddings, with_visqol=index < 2, seed=index)
        )
    return {name: summarise(files, name, num_replicates=100, seed=0) for name in RANKED}


@pytest.mark.parametrize(
    "metric",
    [
        "log-mel distance",
        "STFT distance",
        "SI-SDR (dB)",
        "ViSQOL",
        "FAD musicnn-msd",
        "KAD musicnn-msd",
        "FAD basic-pitch",
        "KAD basic-pitch",
    ],
)
def test_metrics_rank_clean_above_opus_12_above_opus_6_above_noise(
    results: dict[str, SystemResult], metric: str
) -> None:
    values = [results[name].estimates[metric].value for name in RANKED]
    is_distance = metric not in ("SI-SDR (dB)", "ViSQOL")
    assert values == sorted(values, reverse=not is_distance)
    assert len(set(values)) == 4


def test_nothing_is_lost_by_the_spectrogram_alone(results: dict[str, SystemResult]) -> None:
    clean = results["spectrogram"].estimates
    assert clean["SI-SDR (dB)"].value > 60
    for name in ("FAD musicnn-msd", "KAD musicnn-msd", "FAD basic-pitch", "KAD basic-pitch"):
        assert clean[name].value == pytest.approx(0, abs=0.01 * results["noise"].estimates[name].value)


@pytest.mark.parametrize("channels", [1, 2])
def test_opus_keeps_to_its_bit_rate_per_channel_and_to_the_length(channels: int) -> None:
    waveform = read_audio(DEMO_MUSIC / "funk_00010.ogg", SAMPLE_RATE)[:, : 3 * SAMPLE_RATE + 17].expand(channels, -1)
    for target in (6.0, 16.0):
        coded = Opus(target)(waveform, SAMPLE_RATE, 0)
        assert coded.waveform.shape == waveform.shape
        assert target - 1 < coded.kbps < target + 4  # the container takes 1 to 2 kbit/s of a file so short
    with pytest.raises(ValueError, match="6 to 256 kbit/s per channel, got 5"):
        Opus(5.0)


def test_the_codec_costs_16_bits_per_latent(codec: Music2LatentAutoencoder) -> None:
    waveform = tone(440, 1.0, channels=2)
    coded = Codec(codec)(waveform, SAMPLE_RATE, 0)
    frames = codec.num_latent_frames(waveform.shape[-1])
    assert coded.kbps == pytest.approx(frames * 4 * 16 / 1000)
    again = Codec(codec)(waveform, SAMPLE_RATE, 0)
    torch.testing.assert_close(again.waveform, coded.waveform, rtol=0, atol=0)
    assert Codec(codec, 2).name == "codec, 2 steps"


def test_denoising_is_perfect_at_the_lowest_noise_level(codec: Music2LatentAutoencoder) -> None:
    errors = denoising_errors(codec, tone(440, 1.0), seed=0)
    assert list(errors) == list(SIGMAS)
    assert errors[0.02] < errors[80.0]
    assert errors[0.02] < -15
