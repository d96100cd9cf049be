"""What the pipeline returns."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.utils import BaseOutput

from autoencoder.audio import write_audio


@dataclass
class Music2LatentPipelineOutput(BaseOutput):
    """Generated music.

    Attributes:
        audio: (batch, channels, samples), float32 in [-1, 1]; latents with ``output_type="latent"``. The waveforms of
            one prompt follow each other.
        sample_rate: Hz.
    """

    audio: np.ndarray | torch.Tensor
    sample_rate: int

    @property
    def audios(self) -> np.ndarray | torch.Tensor:
        """The same as ``audio``, for code that was written for other pipelines."""
        return self.audio

    def save(self, path: str | Path) -> list[Path]:
        """Write .wav, .flac or .ogg files and return their paths; several pieces are numbered, ``name-0.wav``."""
        path = Path(path)
        audio = torch.as_tensor(self.audio)
        paths = [path] if len(audio) == 1 else [path.with_stem(f"{path.stem}-{index}") for index in range(len(audio))]
        path.parent.mkdir(parents=True, exist_ok=True)
        for waveform, piece_path in zip(audio, paths, strict=True):
            write_audio(piece_path, waveform, self.sample_rate)
        return paths
