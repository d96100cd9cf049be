"""Measure what each stage costs on this machine: training steps, coding and generating; one process each.

    python scripts/benchmark_stages.py --pipeline pipelines/demo_model

Prints a table: median time of a training step, real-time factors (seconds of audio per second), peak memory of the
process. Times of shared machines wander: compare figures of one run only.
"""

import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jsonargparse import auto_cli, set_parsing_settings
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoencoder import Music2LatentAutoencoder
from autoencoder.consistency import GapSchedule
from autoencoder.objective import ConsistencyObjective
from autoencoder.random_numbers import BatchDraws
from latent_diffusion.objective import FlowObjective
from latent_diffusion.text import encode_text
from pipelines import Music2LatentPipeline
from scripts.train_autoencoder import crop_samples


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """What is measured."""

    pipeline: Path
    """Folder of a saved pipeline."""
    seconds: float = 10.0
    """Audio that is coded and generated."""
    codec_batch_size: int = 2
    """Crops in a training step of the codec."""
    dit_batch_size: int = 8
    """Clips in a training step of the transformer."""
    num_inference_steps: int = 25
    """Sampling steps of the transformer."""
    repeats: int = 5
    """Measurements of each stage, after one that does not count."""


def codec_step(pipeline: Music2LatentPipeline, config: BenchmarkConfig) -> Callable[[], object]:
    """One training step of the codec, optimiser included."""
    model = pipeline.autoencoder.train()
    objective, optimizer = ConsistencyObjective(model, GapSchedule()), torch.optim.RAdam(model.parameters(), lr=1e-6)
    batch = {"waveform": 0.1 * torch.randn(config.codec_batch_size, crop_samples(model))}
    return training_step(objective, optimizer, batch, config.codec_batch_size)


def dit_step(pipeline: Music2LatentPipeline, config: BenchmarkConfig) -> Callable[[], object]:
    """One training step of the transformer, optimiser included."""
    model, size = pipeline.transformer.train(), config.dit_batch_size
    num_frames = min(round(config.seconds * model.config.latent_rate), model.config.max_frames)
    text, text_mask = encode_text(pipeline.tokenizer, pipeline.text_encoder, ["slow piano with rain outside"] * size)
    batch = {
        "latents": torch.randn(size, model.config.in_channels, num_frames),
        "mask": torch.ones(size, num_frames, dtype=torch.bool),
        "text": text,
        "text_mask": text_mask,
        "duration": torch.full((size,), config.seconds),
        "tempo": torch.full((size,), 100.0),
        "beats": torch.zeros(size, num_frames),
        "key": torch.zeros(size, dtype=torch.int64),
    }
    objective = FlowObjective(model, text[0])
    return training_step(objective, torch.optim.AdamW(model.parameters(), lr=1e-6), batch, size)


def training_step(
    objective: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, torch.Tensor], size: int
) -> Callable[[], object]:
    """Forward, backward and update as one call."""

    def step() -> None:
        objective(batch, BatchDraws(0, range(size)), 0.5)[0].mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def encode(pipeline: Music2LatentPipeline, config: BenchmarkConfig) -> Callable[[], object]:
    """Encoding of mono audio."""
    waveform = 0.1 * torch.randn(1, 1, round(config.seconds * pipeline.sample_rate))
    return lambda: pipeline.autoencoder.encode(waveform)


def decode(pipeline: Music2LatentPipeline, config: BenchmarkConfig) -> Callable[[], object]:
    """Decoding to mono audio in one step."""
    num_frames = pipeline.autoencoder.num_latent_frames(round(config.seconds * pipeline.sample_rate))
    latents = torch.randn(1, pipeline.autoencoder.config.latent_channels, num_frames)
    return lambda: pipeline.autoencoder.decode(latents)


def generate(pipeline: Music2LatentPipeline, config: BenchmarkConfig) -> Callable[[], object]:
    """The whole pipeline with guidance."""
    pipeline.set_progress_bar_config(disable=True)
    steps = config.num_inference_steps
    return lambda: pipeline("slow piano", audio_length_in_s=config.seconds, num_inference_steps=steps)


STAGES = {
    "codec training step": codec_step,
    "encode": encode,
    "decode": decode,
    "transformer training step": dit_step,
    "generate": generate,
}


def measure(name: str, config: BenchmarkConfig, queue: "multiprocessing.Queue[tuple[float, float]]") -> None:
    """Median seconds of one stage and the peak memory of this process in MB."""
    call = STAGES[name](Music2LatentPipeline.from_pretrained(config.pipeline), config)
    times = []
    for _ in range(config.repeats + 1):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    queue.put((statistics.median(times[1:]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def gigaflops(folder: Path) -> dict[str, float]:
    """Counted cost of coding, in GFLOP per second of mono audio; nothing is computed."""
    with torch.device("meta"), torch.no_grad():
        model = Music2LatentAutoencoder.from_config(Music2LatentAutoencoder.load_config(folder))
        num_frames = 100 * model.levels.frames_per_latent
        spectrogram = torch.zeros(1, 2, model.levels.num_bins, num_frames)
        with FlopCounterMode(display=False) as counter:
            latents = model.encode_spectrogram(spectrogram)
            encoded = counter.get_total_flops()
            model.denoise(spectrogram, torch.ones(1), model.make_maps(latents))
    seconds = num_frames * model.spectrogram.hop_length / model.config.sample_rate
    return {"encode": encoded / seconds / 1e9, "decode": (counter.get_total_flops() - encoded) / seconds / 1e9}


def main(config: BenchmarkConfig) -> None:
    """Measure every stage in a process of its own."""
    context = multiprocessing.get_context("spawn")
    for name, cost in gigaflops(config.pipeline / "autoencoder").items():
        print(f"{name}: {cost:.1f} GFLOP per second of audio")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {config.seconds} s of audio")
    print(f"{'stage':28}{'seconds':>10}{'x real time':>13}{'peak MB':>10}")
    for name in STAGES:
        queue = context.Queue()
        process = context.Process(target=measure, args=(name, config, queue))
        process.start()
        seconds, megabytes = queue.get()
        process.join()
        factor = "" if name.endswith("step") else f"{config.seconds / seconds:.1f}"
        print(f"{name:28}{seconds:>10.3f}{factor:>13}{megabytes:>10.0f}")


if __name__ == "__main__":
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    main(auto_cli(BenchmarkConfig, as_positional=False))
