"""What the pipeline returns, and how it is written to files."""

import importlib.metadata
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
import torch
from diffusers.utils import BaseOutput

from autoencoder.audio import write_audio
from latent_diffusion.conditions import KEYS, NO_KEY
from pipelines.checks import Arguments

if TYPE_CHECKING:
    from pipelines.parts import Music2LatentParts
    from pipelines.request import Request


AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
MAX_CHANNELS = 2  # of what the pipeline makes; latents have more


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
        """Write .wav, .flac, .ogg or .mp3 files and return their paths; several pieces are numbered, ``name-0.wav``.

        The prompt becomes the title, and all of the metadata, as JSON, the comment of the file.
        """
        path = Path(path)
        if path.suffix.lower() not in AUDIO_SUFFIXES:
            raise ValueError(f"expected a file that ends in {', '.join(AUDIO_SUFFIXES)}, got {path}")
        audio = torch.as_tensor(self.audio)
        if audio.shape[1] > MAX_CHANNELS:
            raise ValueError(
                f"latents {tuple(audio.shape)} cannot be written as audio; decode them first, as the pipeline does "
                'without output_type="latent"'
            )
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
    try:
        with soundfile.SoundFile(path) as file:
            comment = file.comment
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path} holds no record of how it was made: {error}") from error
    try:
        record = json.loads(comment)
    except json.JSONDecodeError:
        record = None
    if not isinstance(record, dict) or "prompt" not in record:
        raise ValueError(f"{path} holds no record of how it was made, its comment is {comment[:80]!r}")
    return record


def describe(
    pipe: "Music2LatentParts", arguments: Arguments, request: "Request", seeds: Sequence[tuple[int | None, int]]
) -> list[dict[str, Any]]:
    """How each waveform of a call is made.

    ``tempo``, ``key`` and ``first_beat_in_s`` are what the transformer was told, asked for or not; 0, "none" and None
    are nothing. ``seed`` and ``index`` are from ``seeds_of_record``.
    """
    repeats = arguments.num_waveforms_per_prompt
    prompts = spread(arguments.prompt, len(seeds) // repeats)
    negatives = spread(arguments.negative_prompt, len(seeds) // repeats)
    shared = {
        "audio_length_in_s": request.seconds,
        "num_inference_steps": arguments.num_inference_steps,
        "guider": type(request.guider).__name__,
        "scheduler": type(pipe.scheduler).__name__,
        "strength": arguments.strength,
        "loop": arguments.loop,
        "edited": arguments.audio is not None,
        "model": _model_name(str(pipe.name_or_path)),
        "codec_id": pipe.autoencoder.config.codec_id,
        "software": _software(),
    }
    tempos, keys = (request.conditions[name][0].tolist() for name in ("tempo", "key"))
    settings = {name: value for name, value in request.guider.config.items() if not name.startswith("_")}
    return [
        {
            "prompt": prompts[row // repeats],
            "negative_prompt": negatives[row // repeats],
            "tempo": tempos[row],
            "key": "none" if keys[row] == NO_KEY else KEYS[keys[row]],
            "first_beat_in_s": request.first_beats[row] if request.beat_tempo[row] else None,
            "seed": seed,
            "index": index,
            **shared,
            "guidance": settings,
        }
        for row, (seed, index) in enumerate(seeds)
    ]


def fresh_generators(num_waveforms: int) -> list[torch.Generator]:
    """One for each waveform of a call without a generator, seeded from torch's global one."""
    return [torch.Generator().manual_seed(int(torch.randint(2**62, ()))) for _ in range(num_waveforms)]


def seeds_of_record(
    generator: torch.Generator | Sequence[torch.Generator], num_waveforms: int
) -> list[tuple[int | None, int]]:
    """Seed of each waveform's generator, and how many waveforms took their numbers from it before.

    None for a generator that was used before the call: its seed alone does not lead to the waveform.
    """
    generators = generator if isinstance(generator, Sequence) else [generator] * num_waveforms
    seeds = {one: _fresh_seed(one) for one in generators}
    used: Counter[torch.Generator] = Counter()
    places = []
    for one in generators:
        places.append((seeds[one], used[one]))
        used[one] += 1
    return places


def _fresh_seed(generator: torch.Generator) -> int | None:
    seed = generator.initial_seed()
    fresh = torch.Generator(generator.device).manual_seed(seed)
    return seed if torch.equal(generator.get_state(), fresh.get_state()) else None


def _tags(record: dict[str, Any]) -> dict[str, str]:
    title = record["prompt"] or ""
    return {"title": title, "software": record["software"], "comment": json.dumps(record, default=str)}


def spread(value: Any, num_prompts: int) -> list[Any]:
    """One value, alone or in a list, or a list of one for each prompt, as the latter."""
    if isinstance(value, list | tuple):
        return list(value) if len(value) == num_prompts else list(value) * num_prompts
    return [value] * num_prompts


def _model_name(name: str) -> str:
    """Name on a hub, or the name of a folder without the private path to it."""
    return Path(name).name if Path(name).is_dir() else name


def _software() -> str:
    try:
        return f"music2latent-kit {importlib.metadata.version('music2latent-kit')}"
    except importlib.metadata.PackageNotFoundError:
        return "music2latent-kit"
