"""Training data of the codec: random mono crops of a folder of audio."""

from collections.abc import Sequence
from pathlib import Path

import soundfile
import torch
from torch import Tensor
from torch.utils.data import default_collate

from autoencoder.audio import read_audio

MIN_RMS = 0.001  # crops quieter than this are drawn again: silence teaches nothing (M2L training recipe)
MAX_DRAWS = 8


class RandomCrops:
    """A random crop of one random channel of each file.

    A crop is a function of the file's index and the generator given, so that the data order can be resumed. Files that
    cannot be used are left out when the data set is built and listed in ``skipped`` with the reason.
    """

    def __init__(self, paths: Sequence[Path], sample_rate: int, num_samples: int) -> None:
        self.sample_rate, self.num_samples = sample_rate, num_samples
        self.files: list[tuple[Path, int]] = []
        self.skipped: dict[Path, str] = {}
        for path in paths:
            reason, length = self._inspect(path)
            if reason:
                self.skipped[path] = reason
            else:
                self.files.append((path, length))
        if not self.files:
            first = next(iter(self.skipped.items()), None)
            raise ValueError(
                f"none of the {len(paths)} audio files can be used; each needs {num_samples} samples "
                f"({num_samples / sample_rate:.2f} s) at {sample_rate} Hz. The first: {first[0]}: {first[1]}"
                if first
                else "the list of audio files is empty"
            )

    def __len__(self) -> int:
        return len(self.files)

    def draw(self, index: int, generator: torch.Generator) -> dict[str, Tensor]:
        """One crop, ``{"waveform": (samples,)}``.

        Raises:
            ValueError: the file has become unreadable, or is silent wherever it was tried.
        """
        path, length = self.files[index]
        for _ in range(MAX_DRAWS):
            start = int(torch.randint(length - self.num_samples + 1, (), generator=generator))
            waveform = read_audio(path, self.sample_rate, start, self.num_samples)
            crop = waveform[int(torch.randint(len(waveform), (), generator=generator))]
            if crop.square().mean().sqrt() >= MIN_RMS:
                return {"waveform": crop}
        raise ValueError(f"{path}: {MAX_DRAWS} random crops in a row were silent (RMS below {MIN_RMS})")

    def collate(self, items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Stack crops to a batch."""
        return default_collate(items)

    def _inspect(self, path: Path) -> tuple[str, int]:
        try:
            info = soundfile.info(path)
        except (soundfile.LibsndfileError, OSError) as error:
            return f"unreadable ({error})", 0
        if info.samplerate != self.sample_rate:
            return f"{info.samplerate} Hz; convert it with scripts/prepare_audio.py", 0
        if info.frames < self.num_samples:
            return f"too short ({info.frames} samples)", 0
        return "", info.frames
