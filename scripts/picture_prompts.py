"""Spectrograms of generated music beside real clips of the same descriptions, as one picture.

python scripts/picture_prompts.py --data_dir scripts/demo_music/test --output outputs/prompts.png
"""

import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import torch
from jsonargparse import auto_cli, set_parsing_settings

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoencoder.audio import read_audio
from autoencoder.figures import spectrogram_figure
from pipelines import DEMO_MODEL, Music2LatentPipeline
from pipelines.evaluation.pieces import read_requests
from pipelines.guidance import DEFAULT_GUIDANCE_SCALE


@dataclass(frozen=True, kw_only=True)
class PictureConfig:
    """What is shown."""

    data_dir: Path
    """Captioned clips (AudioFolder layout) that the pipeline was not trained on."""
    output: Path
    """PNG file."""
    pipeline: Path = DEMO_MODEL
    """Folder of a saved pipeline."""
    indices: tuple[int, ...] = (0, 2, 4, 6)
    """Which lines of the metadata."""
    seconds: float = 8.0
    """Length of the pieces."""
    guidance_scale: float = DEFAULT_GUIDANCE_SCALE
    """Weight of the request."""
    seed: int = 0
    """Of the first piece; the others count on."""


def main(config: PictureConfig) -> Path:
    """Generate, draw and return the picture's path."""
    pipe = Music2LatentPipeline.from_pretrained(config.pipeline)
    pipe.to("cuda" if torch.cuda.is_available() else "cpu")
    requests, records = read_requests(config.data_dir / "metadata.jsonl")
    panels = {}
    for index in config.indices:
        request, name = requests[index], records[index]["file_name"]
        (audio,) = pipe(
            request.text,
            audio_length_in_s=config.seconds,
            tempo=request.tempo,
            key=request.key,
            guidance_scale=config.guidance_scale,
            generator=torch.Generator().manual_seed(config.seed + index),
            return_dict=False,
        )
        num_samples = round(config.seconds * pipe.sample_rate)
        panels[textwrap.shorten(f"generated: {request.text}", 46, placeholder="...")] = torch.as_tensor(audio)[0]
        panels[f"real: {name}"] = read_audio(config.data_dir / name, pipe.sample_rate)[:, :num_samples]
    config.output.parent.mkdir(parents=True, exist_ok=True)
    spectrogram_figure(panels, pipe.sample_rate, num_columns=2).savefig(config.output, dpi=90)
    print(config.output)
    return config.output


if __name__ == "__main__":
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    main(auto_cli(PictureConfig, as_positional=False))
