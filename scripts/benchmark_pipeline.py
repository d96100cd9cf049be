"""Measure one call of the pipeline: cold start, time of each stage, time to the first audio, peak memory.

    python scripts/benchmark_pipeline.py --pipeline pipelines/demo_model --seconds 60

Each pass runs in a process of its own. `--untrained` instead of a folder takes models of a preset with random weights,
which cost what trained ones cost:

    python scripts/benchmark_pipeline.py --untrained small --seconds 60

Times of shared machines wander: compare figures of one run only.
"""

import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from jsonargparse import auto_cli, set_parsing_settings

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

PROMPT = "slow piano with rain outside"


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """What is measured."""

    pipeline: Path | None = None
    """Folder of a saved pipeline."""
    untrained: Literal["test", "small", "base"] | None = None
    """Preset of the models instead, with random weights."""
    seconds: float = 60.0
    """Length of the piece."""
    num_inference_steps: int = 25
    """Sampling steps of the transformer."""
    batch_size: int = 1
    """Pieces per call."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where it runs."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Precision of all models."""
    offload: Literal["none", "model", "sequential"] = "none"
    """diffusers' offloading; needs a GPU."""
    compile: bool = False
    """Regional compile of the transformer's blocks; its time is part of the first call."""
    output: Path | None = None
    """JSON file for the figures."""

    def __post_init__(self) -> None:
        if (self.pipeline is None) == (self.untrained is None):
            raise ValueError("give either pipeline, a folder, or untrained, a preset")


def make_untrained(preset: str, folder: Path) -> Path:
    """Save a pipeline of a preset with random weights; its longest window is ten seconds."""
    from diffusers.schedulers import FlowMatchEulerDiscreteScheduler

    from autoencoder import Music2LatentAutoencoder
    from latent_diffusion import LatentDiT
    from latent_diffusion.text import load_text_encoder
    from pipelines import Music2LatentPipeline

    def sizes(name: str) -> dict[str, Any]:
        return yaml.safe_load((ROOT / "scripts" / "configs" / f"{name}_{preset}.yaml").read_text()).get("model", {})

    tokenizer, text_encoder = load_text_encoder()
    codec = Music2LatentAutoencoder(**sizes("autoencoder"))
    transformer = LatentDiT(**(sizes("latent_dit") | {"max_frames": codec.num_latent_frames(10 * 44_100)}))
    parts = codec, transformer, text_encoder, tokenizer, FlowMatchEulerDiscreteScheduler()
    Music2LatentPipeline(*parts).save_pretrained(folder)
    return folder


def load(folder: Path, config: BenchmarkConfig) -> Any:
    """The pipeline as the configuration wants it."""
    from pipelines import Music2LatentPipeline

    pipe = Music2LatentPipeline.from_pretrained(folder, dtype=getattr(torch, config.dtype))
    pipe.set_progress_bar_config(disable=True)
    if config.compile:
        pipe.transformer.compile_repeated_blocks(fullgraph=True)
    if config.offload == "model":
        pipe.enable_model_cpu_offload()
    elif config.offload == "sequential":
        pipe.enable_sequential_cpu_offload()
    else:
        pipe.to(config.device)
    return pipe


def arguments(config: BenchmarkConfig, seconds: float | None = None) -> dict[str, Any]:
    """Of one call."""
    return {
        "audio_length_in_s": seconds or config.seconds,
        "num_inference_steps": config.num_inference_steps,
        "num_waveforms_per_prompt": config.batch_size,
        "generator": torch.Generator().manual_seed(0),
        "output_type": "pt",
    }


def cold_start(folder: Path, config: BenchmarkConfig) -> dict[str, float]:
    """From nothing imported to one second of audio."""
    started = time.perf_counter()
    pipe = load(folder, config)
    loaded = time.perf_counter()
    pipe(PROMPT, **arguments(config, seconds=1.0)).audio.cpu()
    return {"import_and_load": loaded - started, "first_second_of_audio": time.perf_counter() - loaded}


def stages(folder: Path, config: BenchmarkConfig) -> dict[str, float]:
    """Time of the text, of the sampling, of the decoding, and of the whole call; the second call counts."""
    pipe = load(folder, config)
    pipe(PROMPT, **arguments(config, seconds=1.0))
    pipe.prompt_cache.clear()
    marks: dict[str, float] = {}
    started = time.perf_counter()
    pipe.encode_prompt(PROMPT)
    marks["text"] = _now(config) - started
    started = _now(config)
    pipe(PROMPT, **(arguments(config) | {"output_type": "latent"}))
    marks["sampling"] = _now(config) - started
    started = _now(config)
    pipe(PROMPT, **arguments(config)).audio.cpu()
    marks["whole_call"] = _now(config) - started
    marks["decoding"] = marks["whole_call"] - marks["sampling"]
    return marks


def streaming(folder: Path, config: BenchmarkConfig) -> dict[str, float]:
    """Time to the first piece of a stream, to the last, and how long the first one plays."""
    pipe = load(folder, config)
    pipe(PROMPT, **arguments(config, seconds=1.0))
    started, times, lengths = _now(config), [], []
    for piece in pipe.stream(PROMPT, **arguments(config)):
        times.append(_now(config) - started)
        lengths.append(piece.shape[-1] / pipe.sample_rate)
    return {
        "first_audio": times[0],
        "first_audio_lasts": lengths[0],
        "whole_stream": times[-1],
        "first_audio_share": times[0] / times[-1],
        "num_pieces": len(times),
    }


def _now(config: BenchmarkConfig) -> float:
    if config.device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


PASSES: dict[str, Callable[[Path, BenchmarkConfig], dict[str, float]]] = {
    "cold start": cold_start,
    "stages": stages,
    "streaming": streaming,
}


def measure(name: str, folder: Path, config: BenchmarkConfig) -> dict[str, float]:
    """One pass, and the peak memory of its process in MB."""
    figures = PASSES[name](folder, config)
    figures["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if torch.cuda.is_available():
        figures["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return figures


def main(config: BenchmarkConfig) -> dict[str, dict[str, float]]:
    """Measure every pass in a process of its own."""
    context, results = multiprocessing.get_context("spawn"), {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = config.pipeline or make_untrained(str(config.untrained), Path(temporary))
        print(f"{config.device}, {torch.get_num_threads()} threads, torch {torch.__version__}, {config.seconds} s")
        for name in PASSES:
            with ProcessPoolExecutor(1, mp_context=context) as executor:
                results[name] = executor.submit(measure, name, folder, config).result()
            print(f"{name:12}" + "".join(f"  {key} {value:.3f}" for key, value in results[name].items()), flush=True)
    if config.output is not None:
        config.output.write_text(json.dumps(results, indent=2))
    return results


if __name__ == "__main__":
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    main(auto_cli(BenchmarkConfig, as_positional=False))
