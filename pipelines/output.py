"""What the pipeline returns, and how it is written to files."""

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
import torch
from diffusers.guiders import BaseGuidance
from diffusers.utils import BaseOutput
from torch import Tensor

from autoencoder.audio import write_audio
from latent_diffusion.conditions import KEYS, NO_KEY
from pipelines.checks import Arguments

if TYPE_CHECKING:
    from pipelines.parts import Music2LatentParts


@dataclass
class Music2LatentPipelineOutput(BaseOutput):
    """Generated music.

    Attributes:
        audio: (batch, channels, samples), float32 in [-1, 1]; latents with ``output_type="latent"``. The waveforms of
            one prompt follow each other.
        sample_rate: Hz.
        metadata: how each piece was made: prompt, seed, settings, model.
    """

    audio: np.ndarray | torch.Tensor
    sample_rate: int
    metadata: list[dict[str, Any]] | None = None

    @property
    def audios(self) -> np.ndarray | torch.Tensor:
        """The same as ``audio``, for code that was written for other pipelines."""
        return self.audio

    def save(self, path: str | Path) -> list[Path]:
        """Write .wav, .flac or .ogg files and return their paths; several pieces are numbered, ``name-0.wav``.

        The prompt becomes the title, and all of the metadata, as JSON, the comment of the file.
        """
        path = Path(path)
        audio = torch.as_tensor(self.audio)
        paths = [path] if len(audio) == 1 else [path.with_stem(f"{path.stem}-{index}") for index in range(len(audio))]
        path.parent.mkdir(parents=True, exist_ok=True)
        for index, (waveform, piece_path) in enumerate(zip(audio, paths, strict=True)):
            tags = {} if self.metadata is None else _tags(self.metadata[index])
            write_audio(piece_path, waveform, self.sample_rate, tags)
        return paths


def read_metadata(path: str | Path) -> dict[str, Any]:
    """How a file that ``save`` wrote was made.

    Raises:
        ValueError: the file has no such record.
    """
    with soundfile.SoundFile(path) as file:
        comment = file.comment
    try:
        return json.loads(comment)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} holds no record of how it was made, its comment is {comment[:80]!r}") from error


def describe(
    pipe: "Music2LatentParts",
    arguments: Arguments,
    num_samples: int,
    seeds: Sequence[int],
    guider: BaseGuidance,
    conditions: Mapping[str, tuple[Tensor, Tensor]],
    first_beats: Sequence[float | None],
) -> list[dict[str, Any]]:
    """How each waveform of a call is made; ``seed`` is that of the generator, ``index`` the place in the batch.

    ``tempo``, ``key`` and ``first_beat_in_s`` are what the transformer was told, asked for or not; 0 and None are
    nothing.
    """
    repeats, generator = arguments.num_waveforms_per_prompt, arguments.generator
    prompts = _spread(arguments.prompt, len(seeds) // repeats)
    negatives = _spread(arguments.negative_prompt, len(seeds) // repeats)
    shared = {
        "audio_length_in_s": num_samples / pipe.sample_rate,
        "num_inference_steps": arguments.num_inference_steps,
        "guider": type(guider).__name__,
        "scheduler": type(pipe.scheduler).__name__,
        "strength": arguments.strength,
        "loop": arguments.loop,
        "edited": arguments.audio is not None,
        "model": _model_name(str(pipe.name_or_path)),
        "codec_id": pipe.autoencoder.config.codec_id,
        "software": _software(),
    }
    tempos, keys = (conditions[name][0].tolist() for name in ("tempo", "key"))
    settings = {name: value for name, value in guider.config.items() if not name.startswith("_")}
    return [
        {
            "prompt": prompts[index // repeats],
            "negative_prompt": negatives[index // repeats],
            "tempo": tempos[index],
            "key": None if keys[index] == NO_KEY else KEYS[keys[index]],
            "first_beat_in_s": first_beats[index] if tempos[index] else None,
            "seed": _initial_seed(generator, index),
            "index": 0 if isinstance(generator, Sequence) else index,
            **shared,
            "guidance": settings,
        }
        for index in range(len(seeds))
    ]


def _tags(record: dict[str, Any]) -> dict[str, str]:
    title = record["prompt"] or ""
    return {"title": title, "software": record["software"], "comment": json.dumps(record)}


def _spread(value: str | Sequence[str] | None, num_prompts: int) -> list[str | None]:
    if isinstance(value, list | tuple):
        return list(value) if len(value) == num_prompts else list(value) * num_prompts
    return [value] * num_prompts  # type: ignore[list-item]


def _initial_seed(generator: torch.Generator | Sequence[torch.Generator] | None, index: int) -> int:
    if generator is None:
        return torch.initial_seed()
    one = generator[index] if isinstance(generator, Sequence) else generator
    return one.initial_seed()


def _model_name(name: str) -> str:
    """Name on a hub, or the name of a folder without the private path to it."""
    return Path(name).name if Path(name).is_dir() else name


def _software() -> str:
    try:
        return f"music2latent-kit {importlib.metadata.version('music2latent-kit')}"
    except importlib.metadata.PackageNotFoundError:
        return "music2latent-kit"
