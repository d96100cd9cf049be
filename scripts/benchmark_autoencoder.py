"""Measure how fast the codec encodes and decodes, and beside the published package if there is a checkout of it.

    python scripts/benchmark_autoencoder.py --seconds 10 60
    python scripts/benchmark_autoencoder.py --seconds 10 60 --published path/to/music2latent

Each figure comes from a process of its own; with ``--published`` the processes of the two alternate, and the ratios
are those of neighbours. Both get the same random weights in the published layout. Reported are real-time factors, the
achieved share of this machine's measured matrix rate (the cost counted for the published algorithm: 47 GFLOP per
second of audio to encode and 313 to decode with the base model), and the peak memory of the process. Times of shared
machines wander: compare figures of one run, and ratios rather than times.
"""

import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from jsonargparse import auto_cli, set_parsing_settings
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoencoder import Music2LatentAutoencoder
from scripts.benchmark_stages import gigaflops

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ROW = "{:9}{:11}{:>6}{:>7}{:>9}{:>10}{:>8}{:>10}{:>12}{:>9}"


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """What is measured. All combinations of the lists are."""

    seconds: tuple[float, ...] = (10.0, 60.0)
    """Lengths of the audio."""
    batch_sizes: tuple[int, ...] = (1,)
    """Items at once."""
    dtypes: tuple[Literal["float32", "bfloat16", "float16"], ...] = ("float32",)
    """Precisions of the weights."""
    modes: tuple[Literal["eager", "compiled"], ...] = ("eager",)
    """With and without compile_windows; compiling counts as warm-up."""
    stages: tuple[Literal["encode", "decode"], ...] = ("encode", "decode")
    """What is timed."""
    model_config: Path | None = None
    """Preset whose architecture is measured; the published one if not given."""
    published: Path | None = None
    """Checkout of the published package (float32, mono, base model); measured in alternation."""
    repeats: int = 3
    """Processes per figure; each measures one call after a warm-up."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where the networks run."""


def random_codec(config: BenchmarkConfig) -> Music2LatentAutoencoder:
    """A codec in which no path is silent."""
    torch.manual_seed(0)
    options = yaml.safe_load(config.model_config.read_text())["model"] if config.model_config else {}
    codec = Music2LatentAutoencoder(**options)
    with torch.no_grad():
        for parameter in codec.parameters():
            scale = 0.1 if parameter.ndim < 2 else 1 / math.sqrt(parameter[0].numel())
            parameter.copy_(scale * torch.randn(parameter.shape) + (parameter.ndim < 2))
    return codec.eval()


def ours(job: dict[str, Any]) -> Callable[[float], Callable[[], object]]:
    """Seconds of audio -> a call that codes so many."""
    codec = Music2LatentAutoencoder.from_pretrained(job["folder"], torch_dtype=DTYPES[job["dtype"]]).to(job["device"])
    if job["mode"] == "compiled":
        codec.compile_windows()

    def call(seconds: float) -> Callable[[], object]:
        waveform = audio(job, seconds)[:, None].to(job["device"], codec.dtype)
        num_samples = waveform.shape[-1]
        shape = (len(waveform), codec.config.latent_channels, codec.num_latent_frames(num_samples))
        latents = torch.randn(shape, device=job["device"])
        if job["stage"] == "encode":
            return lambda: codec.encode(waveform)
        return lambda: codec.decode(latents, num_samples=num_samples)

    return call


def published(job: dict[str, Any]) -> Callable[[float], Callable[[], object]]:
    """The same for the published package, on the same weights."""
    sys.path.insert(0, job["published"])
    from music2latent import inference  # type: ignore[import-not-found]

    inference.download_model = lambda: None  # its constructor downloads weights otherwise
    coder = inference.EncoderDecoder(load_path_inference=job["checkpoint"], device=torch.device(job["device"]))

    def call(seconds: float) -> Callable[[], object]:
        waveform = audio(job, seconds).numpy()
        if job["stage"] == "encode":
            return lambda: coder.encode(waveform)
        latents = torch.randn(len(waveform), 64, waveform.shape[-1] // 4096)
        return lambda: coder.decode(latents)

    return call


def audio(job: dict[str, Any], seconds: float) -> Tensor:
    """Noise (batch, samples)."""
    samples = round(seconds * 44_100)
    return 0.1 * torch.randn(job["batch_size"], samples, generator=torch.Generator().manual_seed(0))


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """GFLOP/s of a large matrix product, the best of several."""
    size = 8192 if device.startswith("cuda") else 2048
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    return 2 * size**3 / min(timed(lambda: a @ b, device) for _ in range(8)) / 1e9


def timed(call: Callable[[], object], device: str) -> float:
    """Seconds of one call."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    started = time.perf_counter()
    call()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - started


def run_job(job: dict[str, Any]) -> dict[str, float]:
    """Measure one call in this process."""
    call = (published if job["system"] == "published" else ours)(job)
    # without compilation a short call is enough to start threads and load libraries
    warm_up = timed(call(job["seconds"] if job["mode"] == "compiled" else 1.0), job["device"])
    seconds = timed(call(job["seconds"]), job["device"])
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if job["device"].startswith("cuda"):
        memory = torch.cuda.max_memory_allocated() / 1e6
    rate = matrix_rate(job["device"], DTYPES[job["dtype"]])
    return {"warm-up": warm_up, "seconds": seconds, "memory": memory, "matrix rate": rate}


def in_new_process(job: dict[str, Any]) -> dict[str, float]:
    """Measure one call in a process of its own."""
    command = [sys.executable, __file__, "--job", json.dumps(job)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def report(job: dict[str, Any], results: dict[str, list[dict[str, float]]], gflop_per_second: float) -> None:
    """Print the medians of each system, and the ratios of neighbours."""
    audio_seconds = job["seconds"] * job["batch_size"]
    for system, runs in results.items():
        seconds = statistics.median(run["seconds"] for run in runs)
        share = statistics.median(
            gflop_per_second * audio_seconds / run["seconds"] / run["matrix rate"] for run in runs
        )
        values = (audio_seconds / seconds, gflop_per_second * audio_seconds / seconds)
        memory = max(run["memory"] for run in runs)
        warm_up = statistics.median(run["warm-up"] for run in runs)
        where = (job["stage"], system, f"{job['seconds']:g}", job["batch_size"], job["dtype"], job["mode"])
        print(
            ROW.format(*where, f"{values[0]:.2f}x", f"{values[1]:.0f}", f"{share:.0%}", f"{memory:.0f}")
            + f"{seconds:9.2f}{warm_up:9.2f}",
            flush=True,
        )
    if "published" in results:
        pairs = list(zip(results["published"], results["ours"], strict=True))
        speed = sorted(theirs["seconds"] / our["seconds"] for theirs, our in pairs)
        memory = statistics.median(our["memory"] / theirs["memory"] for theirs, our in pairs)
        print(
            f"  -> speed ours / published: median {statistics.median(speed):.2f} (from {speed[0]:.2f} to "
            f"{speed[-1]:.2f}); peak memory ours / published: {memory:.2f}",
            flush=True,
        )


def main(config: BenchmarkConfig) -> None:
    """Measure all combinations."""
    with tempfile.TemporaryDirectory() as folder:
        codec = random_codec(config)
        codec.save_pretrained(Path(folder) / "codec")
        torch.save({"gen_state_dict": codec.to_original_state_dict()}, Path(folder) / "published.pt")
        # the cost of the algorithm as published, whatever cheaper way we find to compute it
        costs = gigaflops(Path(folder) / "codec") if config.model_config else {"encode": 47.0, "decode": 313.0}
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {config.device}")
        print(
            ROW.format("stage", "system", "s", "batch", "dtype", "mode", "rate", "GFLOP/s", "of matmul", "MB")
            + f"{'seconds':>9}{'warm-up':>9}"
        )
        combinations = product(config.seconds, config.batch_sizes, config.dtypes, config.modes, config.stages)
        for seconds, batch_size, dtype, mode, stage in combinations:
            job: dict[str, Any] = {
                "seconds": seconds,
                "batch_size": batch_size,
                "dtype": dtype,
                "mode": mode,
                "stage": stage,
            }
            job |= {"device": config.device, "folder": f"{folder}/codec", "checkpoint": f"{folder}/published.pt"}
            job["published"] = str(config.published)
            systems = ["published", "ours"] if config.published else ["ours"]
            results: dict[str, list[dict[str, float]]] = {system: [] for system in systems}
            for _ in range(config.repeats):
                for system in systems:
                    results[system].append(in_new_process(job | {"system": system}))
            report(job, results, costs[stage])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        print(json.dumps(run_job(json.loads(sys.argv[2]))))
    else:
        set_parsing_settings(docstring_parse_attribute_docstrings=True)
        main(auto_cli(BenchmarkConfig, as_positional=False))
