"""Coding of audio of any length: the public calls of the codec around its networks.

Every call works through windows (``autoencoder.chunking``), so that memory does not grow with the length of a piece.
The whole-piece calls collect what the streaming ones yield.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, islice
from typing import Any

import torch
from diffusers.utils.accelerate_utils import apply_forward_hook
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from autoencoder.chunking import Divider, Joiner, Windows
from autoencoder.noise import draw_seeds, place_noise
from autoencoder.sample_buffer import SampleBuffer, check_alike
from autoencoder.spectrogram import OverlapAdd

Generators = torch.Generator | Sequence[torch.Generator] | None
Noise = Callable[[int, int], Tensor]
"""(first frame, number of frames) -> unit noise (steps, items, 2, bins, frames)."""

ITEMS_AT_ONCE = 8  # windows of one channel that an accelerator works on together; a CPU is fastest with one


class CodingMixin:
    """``encode`` and ``decode`` of whole pieces and of streams, for Music2LatentAutoencoder."""

    config: Any
    spectrogram: Any
    levels: Any
    encoder: Any
    encode_spectrogram: Callable[[Tensor], Tensor]
    decode_latents: Callable[[Tensor, Tensor], Tensor]

    @property
    def samples_per_latent(self) -> int:
        """Audio samples per latent frame: 4096."""
        return self.spectrogram.hop_length * self.levels.frames_per_latent

    @property
    def latent_rate(self) -> float:
        """Latent frames per second: 10.77 at 44.1 kHz."""
        return self.config.sample_rate / self.samples_per_latent

    def num_latent_frames(self, num_samples: int) -> int:
        """Latent frames that ``encode`` makes of so many samples, and that ``decode`` needs for them."""
        return math.ceil((num_samples + self.spectrogram.overlap) / self.samples_per_latent)

    @apply_forward_hook
    def encode(
        self, waveform: Tensor, sample_rate: int | None = None, windows: Windows | None = None
    ) -> Float[Tensor, "batch latent_channels latent_frames"]:
        """Latents of audio of any length; the channels' latents follow each other.

        With the published weights they are about unit-scaled on music.

        Args:
            waveform: floating-point audio (batch, channels, samples) in [-1, 1] at ``config.sample_rate``.
            sample_rate: Hz of the waveform; only checked, so that audio of another rate is refused.
            windows: how long audio is divided.

        Raises:
            TypeError: the waveform is not floating-point.
            ValueError: it is not (batch, channels, samples), is empty, holds NaN or infinity, or ``sample_rate`` is
                not that of the model.
        """
        self._check_sample_rate(sample_rate)
        return torch.cat(list(self._stream_encode([waveform], self.encode_spectrogram, windows)), dim=-1)

    @apply_forward_hook
    def stream_encode(self, waveform: Iterable[Tensor], windows: Windows | None = None) -> Iterator[Tensor]:
        """Latents of audio that comes in pieces (batch, channels, samples); joined, exactly what ``encode`` gives.

        A window's latents are yielded as soon as its last sample is there.

        Raises:
            TypeError: as for ``encode``.
            ValueError: as for ``encode``, or a piece has another batch size or other channels than the first.
        """
        yield from self._stream_encode(waveform, self.encode_spectrogram, windows)

    @apply_forward_hook
    def extract_features(
        self, waveform: Tensor, windows: Windows | None = None
    ) -> Float[Tensor, "batch channels features latent_frames"]:
        """Wide features in front of the bottleneck, for downstream tasks; 8,192 per latent frame as published.

        Raises:
            TypeError: as for ``encode``.
            ValueError: as for ``encode``.
        """
        features = torch.cat(list(self._stream_encode([waveform], self.encoder.features, windows)), dim=-1)
        return rearrange(features, "b (c f) t -> b c f t", c=waveform.shape[1])

    @apply_forward_hook
    def decode(
        self,
        latents: Tensor,
        num_samples: int | None = None,
        num_inference_steps: int = 1,
        generator: Generators = None,
        noise: Float[Tensor, "steps items 2 bins frames"] | None = None,
        windows: Windows | None = None,
    ) -> Float[Tensor, "batch channels samples"]:
        """Audio of latents, float32 in [-1, 1].

        Args:
            latents: output of ``encode``, or of a generator that was trained on such:
                (batch, channels * latent_channels, latent_frames).
            num_samples: samples wanted; all that the latents cover if not given.
            num_inference_steps: 1 is what the model is made for.
            generator: makes the result repeatable; a list gives each item its own. The noise depends only on the
                item's seed and on the place in the piece.
            noise: unit noise instead, one (items, 2, bins, frames) per step; an item is one channel of the batch.
            windows: how long latents are divided.

        Raises:
            ValueError: the latents' channels are no multiple of ``latent_channels``, they are too short for
                ``num_samples``, or there are no steps.
        """
        self._check_latents(latents, num_inference_steps)
        longest = latents.shape[-1] * self.samples_per_latent - self.spectrogram.overlap
        if num_samples is not None and num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got {num_samples}; None gives all that is covered")
        if num_samples is not None and num_samples > longest:
            raise ValueError(
                f"{latents.shape[-1]} latent frames cover at most {longest} samples, got num_samples={num_samples}; "
                "that many samples need num_latent_frames(num_samples) frames"
            )
        draw = self._noise_of(latents, generator, num_inference_steps) if noise is None else given_noise(noise)
        num_channels = latents.shape[1] // self.config.latent_channels
        num_samples = longest if num_samples is None else num_samples
        waveform = torch.empty(len(latents), num_channels, num_samples, device=latents.device)
        done = 0
        for piece in self._stream_decode([latents], draw, windows):
            if done >= num_samples:
                break
            waveform[..., done : done + piece.shape[-1]] = piece[..., : num_samples - done]
            done += piece.shape[-1]
        return waveform

    @apply_forward_hook
    def stream_decode(
        self,
        latents: Iterable[Tensor],
        num_samples: int | None = None,
        num_inference_steps: int = 1,
        generator: Generators = None,
        windows: Windows | None = None,
    ) -> Iterator[Tensor]:
        """Audio of latents that come in pieces of any lengths; joined, exactly what ``decode`` gives.

        A piece (batch, channels, samples) is yielded as soon as a window of latents is complete.

        Args:
            latents: pieces (batch, channels * latent_channels, latent_frames) of one long sequence.
            num_samples: samples wanted; all that the latents cover if not given.
            num_inference_steps: as for ``decode``.
            generator: as for ``decode``.
            windows: how the stream is divided; ``LOW_LATENCY`` yields its first audio sooner.

        Raises:
            ValueError: as for ``decode``; that the latents are too short for ``num_samples`` shows at their end.
        """
        pieces = iter(latents)
        first = next(pieces, None)
        if first is None:
            raise ValueError("the stream holds no latents; at least one piece is needed")
        self._check_latents(first, num_inference_steps)
        draw, done = self._noise_of(first, generator, num_inference_steps), 0
        for piece in self._stream_decode(self._chain(first, pieces, num_inference_steps), draw, windows):
            wanted = piece if num_samples is None else piece[..., : num_samples - done]
            done += wanted.shape[-1]
            if wanted.shape[-1]:
                yield wanted
        if num_samples is not None and done < num_samples:
            raise ValueError(
                f"the latents of the stream covered {done} samples, fewer than num_samples={num_samples}; "
                "that many samples need num_latent_frames(num_samples) frames"
            )

    def _stream_encode(
        self, pieces: Iterable[Tensor], encode: Callable[[Tensor], Tensor], windows: Windows | None
    ) -> Iterator[Tensor]:
        windows = windows or Windows()
        divider, joiner, buffer = (
            Divider(windows),
            Joiner(windows, rate=1),
            SampleBuffer(self.samples_per_latent, self.spectrogram.overlap),
        )

        def outputs(spans: Iterator[tuple[int, int]]) -> Iterator[Tensor]:
            for group in self._groups(spans, buffer.num_items, buffer.device):
                with torch.no_grad():  # not around a yield, where it would reach into the caller
                    audio = torch.cat([buffer.window(*span) for span in group])
                    encoded = torch.cat([encode(self.spectrogram(items)) for items in self._split(audio)])
                for (start, _), output in zip(group, encoded.chunk(len(group)), strict=True):
                    yield joiner.push(rearrange(output, "(b c) l t -> b (c l) t", c=buffer.num_channels), start)

        for piece in pieces:
            self._check_waveform(piece)
            buffer.append(piece)
            yield from outputs(divider.complete(buffer.num_samples // self.samples_per_latent))
            buffer.forget(divider)
        buffer.end()
        yield from outputs(divider.rest(self.num_latent_frames(buffer.num_samples)))
        yield joiner.finish()

    def _stream_decode(self, pieces: Iterable[Tensor], draw: Noise, windows: Windows | None) -> Iterator[Tensor]:
        windows, rate = windows or Windows(), self.levels.frames_per_latent
        divider, joiner, overlap_add = Divider(windows), Joiner(windows, rate), OverlapAdd(self.spectrogram)
        kept: Tensor | None = None
        first, total = 0, 0

        def outputs(spans: Iterator[tuple[int, int]]) -> Iterator[Tensor]:
            assert kept is not None
            num_items = kept.shape[0] * kept.shape[1] // self.config.latent_channels
            for group in self._groups(spans, num_items, kept.device):
                items = torch.cat([kept[..., start - first : stop - first] for start, stop in group])
                # contiguous: sums over another memory layout are made in another order
                items = rearrange(items, "b (c l) t -> (b c) l t", l=self.config.latent_channels).contiguous()
                noise = torch.cat([draw(start * rate, (stop - start) * rate) for start, stop in group], dim=1)
                pairs = zip(self._split(items), self._split(noise.to(items.device), dim=1), strict=True)
                with torch.no_grad():  # not around a yield, where it would reach into the caller
                    decoded = torch.cat([self.decode_latents(x, unit) for x, unit in pairs])
                for (start, _), output in zip(group, decoded.chunk(len(group)), strict=True):
                    yield overlap_add.push(joiner.push(output, start * rate)).unflatten(0, (kept.shape[0], -1))

        for piece in pieces:
            kept = piece if kept is None else torch.cat([kept, piece], dim=-1)
            total += piece.shape[-1]
            yield from outputs(divider.complete(total))
            needed = divider.first_needed(total)
            kept, first = kept[..., needed - first :], needed
        yield from outputs(divider.rest(total))
        assert kept is not None
        yield overlap_add.push(joiner.finish()).unflatten(0, (kept.shape[0], -1))

    def _noise_of(self, latents: Tensor, generator: Generators, num_steps: int) -> Noise:
        """Noise as a function of place, shared by the channels of an item."""
        seeds, num_channels = draw_seeds(generator, len(latents)), latents.shape[1] // self.config.latent_channels

        def draw(start: int, num_frames: int) -> Tensor:
            steps = [place_noise(seeds, self.levels.num_bins, num_frames, start, step) for step in range(num_steps)]
            return torch.stack(steps).repeat_interleave(num_channels, dim=1)

        return draw

    def _chain(self, first: Tensor, rest: Iterator[Tensor], num_inference_steps: int) -> Iterator[Tensor]:
        yield first
        for index, piece in enumerate(rest, start=1):
            self._check_latents(piece, num_inference_steps)
            check_alike(piece, first, index)
            yield piece

    def _groups(
        self, spans: Iterator[tuple[int, int]], num_items: int, device: torch.device
    ) -> Iterator[list[tuple[int, int]]]:
        """Windows of equal length that are computed together."""
        size = 1 if device.type == "cpu" else max(1, ITEMS_AT_ONCE // num_items)
        for _, alike in groupby(spans, key=lambda span: span[1] - span[0]):
            while group := list(islice(alike, size)):
                yield group

    def _split(self, items: Tensor, dim: int = 0) -> Sequence[Tensor]:
        return items.split(1 if items.device.type == "cpu" else ITEMS_AT_ONCE, dim=dim)

    def _check_sample_rate(self, sample_rate: int | None) -> None:
        if sample_rate not in (None, self.config.sample_rate):
            raise ValueError(
                f"the waveform is at {sample_rate} Hz but the model works at {self.config.sample_rate} Hz; "
                f"convert it first: autoencoder.audio.resample(waveform, {sample_rate}, {self.config.sample_rate})"
            )

    def _check_waveform(self, waveform: Tensor) -> None:
        check_tensor("waveform", waveform)
        if not waveform.is_floating_point():
            raise TypeError(
                f"the waveform must be floating-point in [-1, 1], got {waveform.dtype}; "
                "divide 16-bit integers by 32768 first"
            )
        if waveform.ndim != 3 or waveform.numel() == 0:
            remedies = {
                1: "; for samples waveform[None, None]",
                2: "; for (channels, samples) waveform[None]",
            }
            raise ValueError(
                f"the waveform must be (batch, channels, samples) and not empty, got {tuple(waveform.shape)}"
                f"{remedies.get(waveform.ndim, '')}"
            )
        if not waveform.isfinite().all():
            bad = (~waveform.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
            raise ValueError(
                f"the waveform must be finite, but items {bad} of the batch hold NaN or infinity; "
                "leave them out, or repair them with torch.nan_to_num"
            )

    def _check_latents(self, latents: Tensor, num_inference_steps: int) -> None:
        check_tensor("latents", latents)
        latent_channels = self.config.latent_channels
        if latents.ndim != 3 or latents.numel() == 0 or latents.shape[1] % latent_channels:
            raise ValueError(
                f"latents must be (batch, channels * {latent_channels}, latent_frames) and not empty, "
                f"got {tuple(latents.shape)}"
            )
        if not latents.is_floating_point() or not latents.isfinite().all():
            raise ValueError(
                f"latents must be finite floating-point numbers, got {latents.dtype} or NaN or infinity among them; a "
                "half-precision generator may overflow: try bfloat16 or float32"
            )
        if num_inference_steps < 1:
            raise ValueError(f"num_inference_steps must be at least 1, got {num_inference_steps}")


def check_tensor(name: str, value: Any) -> None:
    """Arrays of other libraries are not taken for tensors.

    Raises:
        TypeError: it is no tensor.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch tensor, got {type(value).__name__}; torch.from_numpy makes one")


def given_noise(noise: Float[Tensor, "steps items 2 bins frames"]) -> Noise:
    """Noise from a tensor that covers the whole piece."""
    return lambda start, num_frames: noise[..., start : start + num_frames]
