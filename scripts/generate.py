"""Text to an audio file and a picture of its spectrogram.

    python scripts/generate.py "lofi piano beat" --pipeline outputs/demo/pipeline --output beat.wav

A list of prompts,
"[a, b]", makes several numbered files. The picture is written beside the audio, with the suffix .png.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from jsonargparse import auto_cli, set_parsing_settings

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoencoder.audio import read_audio
from autoencoder.figures import spectrogram_figure
from pipelines import Music2LatentPipeline


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """What to generate."""

    prompt: str | list[str]
    """Description, or a list of them."""
    pipeline: Path = Path("outputs/demo/pipeline")
    """Folder of a saved pipeline; the default is where `make demo` puts it."""
    output: Path = Path("music.wav")
    """.wav, .flac or .ogg file."""
    audio_length_in_s: float = 10.0
    """Seconds of each piece."""
    negative_prompt: str | None = None
    """What to steer away from."""
    num_inference_steps: int = 25
    """Steps of the scheduler."""
    guidance_scale: float = 4.0
    """Weight of the prompt; 1 for none."""
    tempo: float | None = None
    """Beats per minute."""
    key: str | None = None
    """Such as "F# minor"."""
    seed: int = 0
    """The same seed gives the same music."""


def main(config: GenerateConfig) -> list[Path]:
    """Generate and write the files. Returns the audio files' paths."""
    if not config.pipeline.is_dir():
        raise ValueError(f"there is no pipeline folder {config.pipeline}; `make demo` makes outputs/demo/pipeline")
    pipeline = Music2LatentPipeline.from_pretrained(config.pipeline)
    pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
    started = time.perf_counter()
    prompts = [config.prompt] if isinstance(config.prompt, str) else config.prompt
    output = pipeline(
        prompts,
        negative_prompt=config.negative_prompt,
        audio_length_in_s=config.audio_length_in_s,
        num_inference_steps=config.num_inference_steps,
        guidance_scale=config.guidance_scale,
        tempo=config.tempo,
        key=config.key,
        generator=torch.Generator().manual_seed(config.seed),
    )
    elapsed = time.perf_counter() - started
    paths = output.save(config.output)
    for path, prompt in zip(paths, prompts, strict=True):
        picture = path.with_suffix(".png")
        spectrogram_figure({prompt: read_audio(path, output.sample_rate)}, output.sample_rate).savefig(
            picture, dpi=120
        )
        print(f"{path} and {picture.name}: {prompt}")
    seconds = len(paths) * config.audio_length_in_s
    print(f"{seconds:.1f} s of music in {elapsed:.1f} s ({seconds / elapsed:.1f}x real time)")
    return paths


if __name__ == "__main__":
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    main(auto_cli(GenerateConfig, as_positional=True))
