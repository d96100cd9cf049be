"""Training data of the codec: random mono crops of recordings, with augmentation where it is asked for."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import default_collate

from autoencoder.audio import AudioInfo
from autoencoder.recordings import Recordings, read_recording

MIN_RMS = 0.001  # crops quieter than this are drawn again: silence teaches nothing (M2L training recipe)
MAX_DRAWS = 8


class RandomCrops:
    """A random crop of one random channel of each recording.

    A crop is a function of the recording's number and the generator given, so that the data order can be resumed.
    Recordings that cannot be used are left out when the data set is built and listed in ``skipped`` with the reason.

    Args:
        recordings: a folder or shards.
        sample_rate: what every recording must have, in Hz.
        num_samples: of a crop.
        gain_db: crops are made louder or quieter by up to so many dB.
        mix_probability: part of the crops to which a crop of another recording is added, at a level up to 20 dB below.
        max_items: only the first so many usable recordings; all if not given.

    Raises:
        ValueError: no recording can be used.
    """

    def __init__(
        self,
        recordings: Recordings,
        sample_rate: int,
        num_samples: int,
        gain_db: float = 0.0,
        mix_probability: float = 0.0,
        max_items: int | None = None,
    ) -> None:
        self.recordings, self.sample_rate, self.num_samples = recordings, sample_rate, num_samples
        self.gain_db, self.mix_probability = gain_db, mix_probability
        self.skipped: dict[str, str] = dict(recordings.faults)
        self._usable: list[int] = []
        self._lengths: list[int] = []
        for index, info in enumerate(recordings.infos()):
            reason = info if isinstance(info, str) else self._why_not(info)
            if reason or isinstance(info, str):
                self.skipped[recordings.name(index)] = reason
            else:
                self._usable.append(index)
                self._lengths.append(info.num_samples)
        self._usable, self._lengths = self._usable[:max_items], self._lengths[:max_items]
        if not self._usable:
            first = next(f"{name}: {reason}" for name, reason in self.skipped.items())
            raise ValueError(
                f"none of the {len(self.skipped)} recordings can be used; each needs {num_samples} samples "
                f"({num_samples / sample_rate:.2f} s) at {sample_rate} Hz. The first: {first}"
            )

    def __len__(self) -> int:
        return len(self._usable)

    def order(self, generator: torch.Generator) -> Tensor:
        """All items in the order of one epoch."""
        usable = torch.tensor(self._usable)
        return torch.searchsorted(usable, self.recordings.order(usable, generator))

    def draw(self, index: int, generator: torch.Generator) -> dict[str, Tensor]:
        """One crop, ``{"waveform": (samples,)}``.

        Raises:
            ValueError: the recording has become unreadable, or is silent wherever it was tried.
        """
        crop = self._crop(index, generator)
        if self.mix_probability and float(torch.rand((), generator=generator)) < self.mix_probability:
            other = self._crop(int(torch.randint(len(self), (), generator=generator)), generator)
            crop = crop + other * 10 ** (-float(torch.rand((), generator=generator)))
        if self.gain_db:
            crop = crop * 10 ** (self.gain_db / 20 * (2 * float(torch.rand((), generator=generator)) - 1))
        if self.mix_probability or self.gain_db:
            crop = crop / crop.abs().max().clamp(min=1)  # scaled, not clipped
        return {"waveform": crop}

    def collate(self, items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Stack crops to a batch."""
        return default_collate(items)

    def _crop(self, item: int, generator: torch.Generator) -> Float[Tensor, " samples"]:
        index, length = self._usable[item], self._lengths[item]
        for _ in range(MAX_DRAWS):
            start = int(torch.randint(length - self.num_samples + 1, (), generator=generator))
            waveform = read_recording(self.recordings, index, self.sample_rate, start, self.num_samples)
            crop = waveform[int(torch.randint(len(waveform), (), generator=generator))]
            if crop.square().mean().sqrt() >= MIN_RMS:
                return crop
        name = self.recordings.name(index)
        raise ValueError(f"{name}: {MAX_DRAWS} random crops in a row were silent (RMS below {MIN_RMS})")

    def _why_not(self, info: AudioInfo) -> str:
        if info.sample_rate != self.sample_rate:
            return f"{info.sample_rate} Hz; convert it with scripts/prepare_audio.py"
        if info.num_samples < self.num_samples:
            return f"too short ({info.num_samples} samples)"
        return ""
