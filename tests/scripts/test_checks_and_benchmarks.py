"""The overfit checks and the stage benchmark run, on tiny models."""

import json
from pathlib import Path

import pytest
import torch

from latent_diffusion.data import CodecInfo, LatentItem, LatentStatistics, write_shard
from pipelines import Music2LatentPipeline
from scripts.benchmark_stages import STAGES, BenchmarkConfig, gigaflops
from scripts.benchmark_training import BenchmarkConfig as TrainingBenchmark
from scripts.benchmark_training import codec_steps, codec_training, dit_steps, dit_training, loader_rate
from scripts.overfit_autoencoder import OverfitConfig as CodecOverfitConfig
from scripts.overfit_autoencoder import main as overfit_codec
from scripts.overfit_latent_dit import OverfitConfig, correlations, distinct_clips, num_right
from scripts.overfit_latent_dit import main as overfit_transformer
from tests.conftest import TINY_CODEC

SHORT_RUN = {"max_steps": 2, "warmup_steps": 1, "batch_size": 2, "num_workers": 0, "validate_every": 1}


def clip(name: str, tempo: float, key: str, num_frames: int = 20) -> LatentItem:
    latents = torch.randn(4, num_frames, generator=torch.Generator().manual_seed(int(tempo)))
    return LatentItem(latents, name, (f"{name} sine", "piano"), num_frames / 80, tempo, key)


def test_the_overfit_of_the_codec_leaves_its_measures_and_pictures(music_dir: Path, tmp_path: Path) -> None:
    config = CodecOverfitConfig(
        data_dir=music_dir / "train", output_dir=tmp_path / "run", start_seconds=0.1, model=TINY_CODEC, **SHORT_RUN
    )
    result = overfit_codec(config)
    history = json.loads((tmp_path / "run" / "result.json").read_text())
    assert [row["step"] for row in history] == [1, 2]
    assert history[-1] == result
    assert {"log-mel correlation", "log-mel distance", "level difference (dB)"} < set(result)
    assert (tmp_path / "run" / "crops.png").stat().st_size > 1000
    assert (tmp_path / "run" / "curves.png").stat().st_size > 1000


def test_the_overfit_of_the_transformer_asks_by_every_condition(text_encoder_dir: Path, tmp_path: Path) -> None:
    items = [clip("low", 80.0, "C major"), clip("high", 90.0, "D minor"), clip("slow", 100.0, "E minor")]
    write_shard(tmp_path / "latents-00000.safetensors", items, CodecInfo("tiny", 4, 80.0))
    LatentStatistics.of([item.latents for item in items]).save(tmp_path)
    config = OverfitConfig(
        data_dir=tmp_path,
        autoencoder=tmp_path,
        output_dir=tmp_path / "run",
        text_encoder=str(text_encoder_dir),
        num_clips=3,
        model={"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16},
        **SHORT_RUN,
    )
    result = overfit_transformer(config)
    matrices = json.loads((tmp_path / "run" / "result.json").read_text())
    assert set(result) == set(matrices) == {"caption", "tempo", "key", "context"}
    assert all(len(matrix) == 3 for matrix in matrices.values())
    assert (tmp_path / "run" / "matrices.png").stat().st_size > 1000


def test_clips_are_taken_that_differ_in_tempo_and_key() -> None:
    items = [
        clip("a", 80.0, "C major"),
        clip("b", 80.0, "D major"),
        clip("c", 90.0, "C major"),
        clip("d", 100.0, "E minor"),
    ]
    chosen = distinct_clips(items, 2, trim_frames=3)
    assert [item.file_name for item in chosen] == ["a", "d"]
    assert chosen[0].latents.shape == (4, 14)
    assert chosen[0].captions == ("a sine",)
    with pytest.raises(ValueError, match="found only 2 clips that differ in tempo and key, 3 are needed"):
        distinct_clips(items, 3, trim_frames=3)


def test_a_request_is_right_where_its_own_clip_correlates_most() -> None:
    clips = torch.randn(4, 3, 10)
    assert num_right(correlations(clips + 0.1 * torch.randn_like(clips), clips)) == 4
    assert num_right(correlations(clips.roll(1, 0), clips)) == 0


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_of_the_benchmark_runs(name: str, pipeline: Music2LatentPipeline, tmp_path: Path) -> None:
    config = BenchmarkConfig(pipeline=tmp_path, seconds=0.3, num_inference_steps=2)
    STAGES[name](pipeline, config)()


def test_cost_is_counted_without_computing(pipeline: Music2LatentPipeline, tmp_path: Path) -> None:
    pipeline.autoencoder.save_pretrained(tmp_path)
    cost = gigaflops(tmp_path)
    assert 0 < cost["encode"] < cost["decode"]


def test_the_training_benchmark_measures_both_trainings_and_their_loaders(chain, tmp_path) -> None:
    config = TrainingBenchmark(
        data_dir=chain.music / "train",
        latents_dir=chain.latents / "train",
        autoencoder_model=TINY_CODEC,
        latent_dit_model={"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16},
        clip_frames=20,
        steps=1,
        num_workers=0,
        peak_tflops=1.0,
        profile_dir=tmp_path / "profile",
    )
    for steps in (codec_steps(config), dit_steps(config)):
        row = next(steps)
        assert row["seconds"] > row["waited"] > 0
        assert row["flops"] > 0
    for name in ("codec", "transformer"):
        assert "aten::add" in (tmp_path / "profile" / f"{name}.txt").read_text()
    for training in (codec_training, dit_training):
        assert loader_rate(training(config)[2], num_items=16) > 0
