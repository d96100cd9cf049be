"""Long audio in bounded memory: overlapping windows over a stream, and one join for what they give.

Everything counts in latent frames. Window k starts at ``k * (size - 2 * context)`` and takes ``size`` frames; the last
one ends with the piece and takes what is left, but at least ``size // 4`` frames. The networks see a window's outer
``context`` frames without their surroundings, so these are given up: neighbours are joined in the middle of what they
share, over a short cross-fade. A piece of at most ``size`` frames is one window and has no joins.

A stream and a whole piece run through the same code, so that both give the same result, sample by sample.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Windows:
    """How a piece is divided; in latent frames of 93 ms (4096 samples at 44.1 kHz).

    A stream's output lags its input by at most ``size`` frames. The defaults and ``LOW_LATENCY`` were chosen by
    measurement (docs/experiments.md).
    """

    size: int = 128
    """Frames computed together: 11.9 s."""
    context: int = 6
    """Frames at each inner end of a window that only serve as surroundings."""
    fade: int = 2
    """Frames over which two windows are cross-faded, around the middle of what they share."""

    def __post_init__(self) -> None:
        if not (0 <= self.fade <= 2 * self.context < self.size and self.fade % 2 == 0):
            raise ValueError(
                "windows need an even fade of at most 2 * context frames, and 2 * context below size, "
                f"got size={self.size}, context={self.context}, fade={self.fade}"
            )

    @property
    def hop(self) -> int:
        """Frames from one window to the next."""
        return self.size - 2 * self.context


LOW_LATENCY = Windows(size=24, context=4, fade=2)


class Divider:
    """Places of the windows, (start, stop), of a stream whose length is known only at its end."""

    def __init__(self, windows: Windows) -> None:
        self.windows = windows
        self.start = 0  # of the next window
        self._stop = 0  # of the last window given

    def complete(self, available: int) -> Iterator[tuple[int, int]]:
        """Windows that lie within the first ``available`` frames and were not given before."""
        while self.start + self.windows.size <= available:
            self._stop = self.start + self.windows.size
            yield self.start, self._stop
            self.start += self.windows.hop

    def rest(self, total: int) -> Iterator[tuple[int, int]]:
        """What is left when the stream has ended after ``total`` frames."""
        yield from self.complete(total)
        if self._stop < total:
            yield self.first_needed(total), total

    def first_needed(self, total: int) -> int:
        """Frames before this one are of no further use, if the stream had ``total`` frames so far."""
        return max(0, min(self.start, total - self.windows.size // 4))


class Joiner:
    """Joins the outputs of successive windows, which have ``rate`` frames per latent frame."""

    def __init__(self, windows: Windows, rate: int) -> None:
        self.margin = (windows.context * rate) + windows.fade * rate // 2
        self.fade = windows.fade * rate
        self.done = 0  # frames given out
        self.tail: Tensor | None = None  # of the last window: what the next one may change

    def push(self, output: Float[Tensor, "batch *channels frames"], start: int) -> Tensor:
        """Frames that are final once the window that begins at output frame ``start`` is known; may be empty."""
        if self.tail is not None:
            output = output[..., self.done - start :]
            if self.fade:
                weight = (torch.arange(self.fade, device=output.device, dtype=output.dtype) + 0.5) / self.fade
                faded = self.tail[..., : self.fade].lerp(output[..., : self.fade], weight)
                output = torch.cat([faded, output[..., self.fade :]], dim=-1)
        final = max(0, output.shape[-1] - self.margin)
        self.tail = output[..., final:].clone()  # a view would keep the whole window in memory
        self.done += final
        return output[..., :final]

    def finish(self) -> Tensor:
        """The end of the last window."""
        assert self.tail is not None  # a piece has at least one window
        return self.tail
