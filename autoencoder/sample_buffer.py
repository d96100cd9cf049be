"""The samples of an audio stream that windows still need."""

import torch
from jaxtyping import Float
from torch import Tensor

from autoencoder.chunking import Divider


class SampleBuffer:
    """The samples of a stream that are still needed, mirrored at its ends.

    The padding is a reflection, as often as needed: a cut to silence would dominate the first and last latents.
    """

    def __init__(self, samples_per_latent: int, overlap: int) -> None:
        self.samples_per_latent, self.overlap = samples_per_latent, overlap
        self.kept: Tensor | None = None
        self.first = 0  # place of the first kept sample
        self.num_samples = 0
        self.num_pieces = 0
        self.has_ended = False

    @property
    def num_channels(self) -> int:
        return self._kept().shape[1]

    @property
    def num_items(self) -> int:
        return self._kept().shape[0] * self.num_channels

    @property
    def device(self) -> torch.device:
        return self._kept().device

    def append(self, piece: Tensor) -> None:
        if self.kept is not None:
            check_alike(piece, self.kept, self.num_pieces)
        self.kept = piece if self.kept is None else torch.cat([self.kept, piece], dim=-1)
        self.num_samples += piece.shape[-1]
        self.num_pieces += 1

    def end(self) -> None:
        if self.kept is None:
            raise ValueError("the stream holds no audio; at least one piece is needed")
        self.has_ended = True

    def forget(self, divider: Divider) -> None:
        """Drop what lies before everything that can still be asked for."""
        num_latents = self.num_samples // self.samples_per_latent
        needed = max(0, divider.first_needed(num_latents) * self.samples_per_latent - self.overlap)
        self.kept, self.first = self._kept()[..., needed - self.first :], needed

    def window(self, start: int, stop: int) -> Float[Tensor, "items samples"]:
        """Samples under the frames of latents ``start`` to ``stop``, of all items and channels."""
        place = torch.arange(
            start * self.samples_per_latent - self.overlap, stop * self.samples_per_latent, device=self.device
        )
        if self.has_ended:
            period = max(2 * (self.num_samples - 1), 1)
            place = place % period
            place = torch.minimum(place, period - place)
        return self._kept().flatten(0, 1)[:, place.abs() - self.first]

    def _kept(self) -> Tensor:
        assert self.kept is not None
        return self.kept


def check_alike(piece: Tensor, first: Tensor, index: int) -> None:
    """Pieces of a stream, audio or latents, must agree in batch size and channels."""
    if piece.shape[:2] != first.shape[:2]:
        raise ValueError(
            f"all pieces of a stream must have the same batch size and channels: the first has "
            f"{tuple(first.shape[:2])}, piece {index} has {tuple(piece.shape[:2])}"
        )
