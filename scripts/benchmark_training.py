"""Measure both trainings on this machine: items/s, share of time waiting for data, FLOP utilisation, peak memory.

    python scripts/benchmark_training.py --data_dir data/train --latents_dir outputs/latents/train \
        --autoencoder_model '{}' --published /path/to/music2latent

Without ``data_dir`` (``latents_dir``) crops (clips) are made up. Also measures the data loaders alone, per core. With
``published`` the training step of the published codec, run from a checkout of its package as a black box, is measured
in turn with ours, on the same weights and batch: its encoder and latent decoder once, its network at both noise
levels, our loss, RAdam. Its own training script is not part of that package; as reported of it, the target is computed
with gradients and then cut off. The other row leaves that out. Prints a table; on a
CPU that others use as well, compare the processor time.
"""

import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from jsonargparse import auto_cli, set_parsing_settings
from torch import Tensor
from torch.profiler import profile
from torch.utils.data import default_collate
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoencoder import Music2LatentAutoencoder
from autoencoder.consistency import GapSchedule, huber_constant, per_item, pseudo_huber
from autoencoder.conversion import from_original_state_dict
from autoencoder.data import RandomCrops
from autoencoder.data_order import Batch, PositionedItems, TrainingData
from autoencoder.objective import ConsistencyObjective
from autoencoder.optimization import Update, batches_from, checkpoint_blocks, compile_networks, make_update
from autoencoder.random_numbers import BatchDraws
from autoencoder.recordings import open_recordings
from autoencoder.reporting import peak_memory
from latent_diffusion import LatentDiT
from latent_diffusion.data import LatentClips
from latent_diffusion.objective import FlowObjective
from scripts.train_autoencoder import crop_samples

TEXT_TOKENS = 32


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """What is measured."""

    data_dir: str | Path | None = None
    """Audio for the codec: a folder or shards."""
    latents_dir: Path | None = None
    """Latent shards for the transformer."""
    published: Path | None = None
    """Checkout of the published package (CC BY-NC 4.0), which holds music2latent/models.py."""
    autoencoder_model: dict[str, Any] | None = field(default_factory=dict)
    """Arguments of the codec, by default the published architecture; null leaves it out."""
    latent_dit_model: dict[str, Any] | None = field(default_factory=dict)
    """Arguments of the transformer, by default 120 M parameters; null leaves it out."""
    autoencoder_batch_size: int = 4
    """Crops in a step."""
    latent_dit_batch_size: int = 8
    """Clips in a step."""
    clip_frames: int = 324
    """Latent frames of made-up clips; 324 are 30 s."""
    steps: int = 5
    """Measured steps of each, after one that does not count."""
    num_workers: int = 2
    """Data-loading processes."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """Precision of the network calls."""
    compile: bool = False
    """Compile the networks."""
    gradient_checkpointing: bool = False
    """Compute the blocks twice."""
    peak_tflops: float | None = None
    """What the device can do, for the utilisation; measured with large matrix products if not given."""
    profile_dir: Path | None = None
    """Gets a table of the operations of one step of each of our trainings, the slowest first."""


Steps = Callable[[BenchmarkConfig], Iterator[dict[str, float]]]


class MadeUp:
    """A data set of random items of one kind."""

    def __init__(self, make: Callable[[torch.Generator], dict[str, Tensor]]) -> None:
        self.make = make

    def __len__(self) -> int:
        return 1 << 20

    def order(self, generator: torch.Generator) -> Tensor:
        """As they are."""
        return torch.arange(len(self))

    def draw(self, index: int, generator: torch.Generator) -> dict[str, Tensor]:
        """One item."""
        return self.make(generator)

    def collate(self, items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Stack items to a batch."""
        return default_collate(items)


def made_up_crop(num_samples: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Noise in the place of a crop."""
    return {"waveform": 0.1 * torch.randn(num_samples, generator=generator)}


def made_up_clip(channels: int, frames: int, dim: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Noise in the place of latents and of a text of ``dim`` channels."""
    latents = torch.randn(channels, frames, generator=generator)
    numbers = {"duration": torch.tensor(30.0), "tempo": torch.tensor(100.0), "key": torch.tensor(0)}
    numbers["beats"] = torch.zeros(frames)
    masks = {"mask": torch.ones(frames).bool(), "text_mask": torch.ones(TEXT_TOKENS).bool()}
    return {"latents": latents, "text": torch.randn(TEXT_TOKENS, dim, generator=generator)} | numbers | masks


def codec_training(config: BenchmarkConfig) -> tuple[torch.nn.Module, torch.optim.Optimizer, TrainingData]:
    """Objective, optimiser and data of the codec."""
    model = Music2LatentAutoencoder(**(config.autoencoder_model or {})).to(memory_format=torch.channels_last)
    data: TrainingData = MadeUp(partial(made_up_crop, crop_samples(model)))
    if config.data_dir is not None:
        recordings = open_recordings(config.data_dir, Path("outputs/shards"))
        data = RandomCrops(recordings, model.config.sample_rate, crop_samples(model))
    optimizer = torch.optim.RAdam(model.parameters(), lr=1e-6, foreach=True)
    return ConsistencyObjective(model, GapSchedule()), optimizer, data


def dit_training(config: BenchmarkConfig) -> tuple[torch.nn.Module, torch.optim.Optimizer, TrainingData]:
    """Objective, optimiser and data of the transformer; the text is made up."""
    dim = 384
    clips = LatentClips(config.latents_dir, config.clip_frames, "disk") if config.latents_dir else None
    channels = clips.codec.latent_channels if clips else 64
    arguments = {"in_channels": channels, "max_frames": config.clip_frames} | (config.latent_dit_model or {})
    model = LatentDiT(**arguments)

    data: TrainingData = MadeUp(partial(made_up_clip, channels, config.clip_frames, dim))
    if clips is not None:
        clips.embeddings = dict.fromkeys(clips.captions, torch.randn(TEXT_TOKENS, dim).half())
        data = clips
    return FlowObjective(model, torch.randn(2, dim)), torch.optim.AdamW(model.parameters(), lr=1e-6), data


def codec_steps(config: BenchmarkConfig) -> Iterator[dict[str, float]]:
    """Endless measured steps of our codec training."""
    return our_steps(config, "codec", *codec_training(config), batch_size=config.autoencoder_batch_size)


def dit_steps(config: BenchmarkConfig) -> Iterator[dict[str, float]]:
    """Endless measured steps of our transformer training."""
    return our_steps(config, "transformer", *dit_training(config), batch_size=config.latent_dit_batch_size)


def our_steps(
    config: BenchmarkConfig,
    name: str,
    objective: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    data: TrainingData,
    batch_size: int,
) -> Iterator[dict[str, float]]:
    """Steps as the training loop makes them; before the first one, operations are counted or profiled."""
    accelerator = Accelerator(mixed_precision=config.mixed_precision)
    model = objective.get_submodule("model")
    if config.gradient_checkpointing:
        checkpoint_blocks(model)
    if config.compile:
        compile_networks(model)
    objective, optimizer = accelerator.prepare(objective, optimizer)
    batches = batches_from(0, data, 0, batch_size, config.num_workers, accelerator)
    flops = float(count_flops(accelerator, objective, next(batches)))

    def step() -> Update:
        return make_update(accelerator, objective, optimizer, batches, 0, 0.5, None)

    if config.profile_dir is not None:
        write_profile(config.profile_dir / f"{name}.txt", step)
    while True:
        synchronize()
        started, cpu = time.perf_counter(), time.process_time()
        update = step()
        synchronize()
        times = {"seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu}
        yield times | {"waited": update.waited, "flops": flops, "items": batch_size}


def count_flops(accelerator: Accelerator, objective: torch.nn.Module, batch: Batch) -> int:
    """Operations of one forward and backward pass."""
    positions, tensors, _ = batch
    draws = BatchDraws(0, positions, accelerator.device)
    with FlopCounterMode(display=False) as counter:
        accelerator.backward(objective(tensors, draws, 0.5)[0].mean())
    objective.zero_grad()
    return counter.get_total_flops()


def write_profile(path: Path, step: Callable[[], Any]) -> None:
    """Table of the operations of one step by their own time and by the shapes of their inputs, after two warm ones."""
    for _ in range(2):
        step()
    synchronize()
    with profile(record_shapes=True) as profiler:
        step()
        synchronize()
    key = f"self_{'cuda' if torch.cuda.is_available() else 'cpu'}_time_total"
    tables = [
        profiler.key_averages(group_by_input_shape=by_shape).table(key, row_limit=60, max_shapes_column_width=120)
        for by_shape in (False, True)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(tables))


def published_steps(config: BenchmarkConfig, target_has_graph: bool = True) -> Iterator[dict[str, float]]:
    """Endless steps of the published network, called through its public class only."""
    sys.path.insert(0, str(config.published))
    from music2latent.models import UNet  # type: ignore[import-not-found]

    device, size = Accelerator().device, config.autoencoder_batch_size
    torch.manual_seed(0)
    network, ours = UNet().to(device), Music2LatentAutoencoder()
    ours.load_state_dict(from_original_state_dict(network.state_dict(), ours))  # raises if it is another network
    optimizer = torch.optim.RAdam(network.parameters(), lr=1e-6)
    while True:
        x0 = ours.spectrogram(0.1 * torch.randn(size, crop_samples(ours), device=device))
        noise, t = torch.randn_like(x0), torch.rand(size, device=device)
        high, low = ours.ramp.sigma(0.1 + 0.9 * t), ours.ramp.sigma(0.9 * t)
        synchronize()
        started, cpu = time.perf_counter(), time.process_time()
        with torch.autocast(device.type, torch.bfloat16, enabled=config.mixed_precision == "bf16"):
            latents = network.encoder(x0)
            maps = network.decoder(latents)
            with torch.set_grad_enabled(target_has_graph):
                target = network(latents, x0 + per_item(low, x0) * noise, sigma=low, pyramid_latents=maps).detach()
            student = network(latents, x0 + per_item(high, x0) * noise, sigma=high, pyramid_latents=maps)
        loss = pseudo_huber(student.float() - target.float(), huber_constant(x0[0].numel())) / (high - low)
        loss.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        synchronize()
        times = {"seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu}
        yield times | {"waited": 0.0, "flops": 0.0, "items": size}


def published_steps_without_graph(config: BenchmarkConfig) -> Iterator[dict[str, float]]:
    """The same with the target computed without gradients."""
    return published_steps(config, target_has_graph=False)


def synchronize() -> None:
    """Wait for the device, if there is one besides the CPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def serve(
    steps: Callable[[BenchmarkConfig], Iterator[dict[str, float]]], config: BenchmarkConfig, ask: Connection
) -> None:
    """Make a step whenever asked; in a process of its own, so that its peak memory is its own."""
    measured = steps(config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    while ask.recv():
        ask.send(next(measured) | {"memory": peak_memory(device)})
    if isinstance(measured, Generator):
        measured.close()  # ends the data-loading processes


def run_in_turn(
    config: BenchmarkConfig, contenders: dict[str, Callable[..., Any]]
) -> dict[str, list[dict[str, float]]]:
    """Steps of several trainings in turn, so that all see the same machine."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name, steps in contenders.items():
        pipes[name], theirs = context.Pipe()
        processes.append(context.Process(target=serve, args=(steps, config, theirs)))
        processes[-1].start()
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    try:
        for _ in range(config.steps + 1):
            for name, pipe in pipes.items():
                pipe.send(True)
                measured[name].append(pipe.recv())
        for pipe, process in zip(pipes.values(), processes, strict=True):
            pipe.send(False)
            process.join(10)
    finally:
        for process in processes:  # one that failed must not leave the others waiting for ever
            process.kill()
    return {name: rows[1:] for name, rows in measured.items()}


def peak_flops(config: BenchmarkConfig) -> float:
    """What the device reaches on large matrix products in the training's precision."""
    if config.peak_tflops is not None:
        return config.peak_tflops * 1e12
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size, dtype = (8192 if device.type == "cuda" else 2048), {"no": torch.float32, "bf16": torch.bfloat16}
    a = torch.randn(size, size, device=device, dtype=dtype.get(config.mixed_precision, torch.float16))
    times = []
    for _ in range(5):
        synchronize()
        started = time.perf_counter()
        a @ a
        synchronize()
        times.append(time.perf_counter() - started)
    return 2 * size**3 / min(times)


def loader_rate(data: TrainingData, num_items: int = 400) -> float:
    """Items per second of processor time that one process of the data loader draws."""
    items = PositionedItems(data, seed=0)
    items.collate([items[position] for position in range(8)])
    started = resource.getrusage(resource.RUSAGE_SELF)
    for position in range(0, num_items, 8):
        items.collate([items[position + offset] for offset in range(8)])
    ended = resource.getrusage(resource.RUSAGE_SELF)
    return num_items / (ended.ru_utime + ended.ru_stime - started.ru_utime - started.ru_stime)


def main(config: BenchmarkConfig) -> dict[str, dict[str, float]]:
    """Measure and print. Returns the medians by what was measured."""
    contenders: dict[str, Steps] = {}
    if config.autoencoder_model is not None:
        contenders["codec"] = codec_steps
        if config.published is not None:
            contenders |= {"published codec": published_steps}
            contenders |= {"published codec, target without graph": published_steps_without_graph}
    if config.latent_dit_model is not None:
        contenders["transformer"] = dit_steps
    peak, results = peak_flops(config), {}
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {peak / 1e12:.2f} TFLOP/s at best")
    print(f"{'':40}{'s/step':>9}{'CPU s':>9}{'items/s':>9}{'data wait':>11}{'utilisation':>13}{'peak MiB':>10}")
    for name, rows in run_in_turn(config, contenders).items():
        median = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        seconds = median["seconds"]
        share, rate = median["waited"] / seconds, median["items"] / seconds
        used = f"{100 * median['flops'] / seconds / peak:.1f} %" if median["flops"] else ""
        times = f"{seconds:>9.3f}{median['cpu']:>9.3f}{rate:>9.2f}{100 * share:>9.1f} %"
        print(f"{name:40}{times}{used:>13}{median['memory']:>10.0f}")
        results[name] = median
    torch.set_num_threads(1)
    if config.data_dir is not None:
        results["codec loader"] = {"items/s": loader_rate(codec_training(config)[2])}
    if config.latents_dir is not None:
        results["latents loader"] = {"items/s": loader_rate(dit_training(config)[2])}
    for name in ("codec loader", "latents loader"):
        if name in results:
            print(f"{name}: {results[name]['items/s']:.0f} items per second and core")
    return results


if __name__ == "__main__":
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    main(auto_cli(BenchmarkConfig, as_positional=False))
