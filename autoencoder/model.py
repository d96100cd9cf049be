"""Music2Latent: a consistency autoencoder for music, 44.1 kHz audio <-> 64-channel latents at 10.8 Hz.

Symbols
    x        noisy spectrogram, x0 + sigma * noise
    maps     one conditioning map per level of the denoiser, made from the latents
    sigma    noise level; 80 is (almost) pure noise, 0.002 (almost) clean

Sources
    M2L   Pasini, Lattner, Fazekas 2024, https://arxiv.org/abs/2408.06500
"""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import AutoencoderMixin, DecoderOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from autoencoder.consistency import NoiseRamp, per_item, precondition
from autoencoder.conversion import from_original_state_dict, read_original_checkpoint, to_original_state_dict
from autoencoder.networks import Denoiser, Encoder, LatentDecoder, Levels, Maps, Spectrogram
from autoencoder.noise import draw_seeds, place_noise
from autoencoder.spectrogram import ComplexSpectrogram

Generators = torch.Generator | Sequence[torch.Generator] | None


class Music2LatentAutoencoder(ModelMixin, AutoencoderMixin, ConfigMixin):
    """Consistency autoencoder. The defaults are the published architecture (58 M parameters).

    Every channel of the audio is coded on its own, with decoding noise shared by the channels of an item.

    Args:
        sample_rate: Hz of the audio; not checked against tensors, which carry no rate.
        n_fft: samples in one spectrogram frame.
        hop_length: samples between frames.
        alpha: exponent of the amplitude compression.
        beta: factor of the amplitude compression.
        channels: width of each resolution level, full resolution first.
        frequency_factors: reduction of the frequency bins from each level to the next.
        time_factors: the same for the frames.
        attention_heads: heads of the frequency attention at each level; 0 for none.
        num_denoiser_blocks: residual blocks per level on each side of the denoiser.
        bottleneck_channels: width of the one-dimensional part around the latents.
        num_bottleneck_blocks: its residual blocks, in the encoder and in the latent decoder each.
        latent_channels: channels of the latents of one audio channel.
        embedding_dim: width of the noise-level embedding.
        latents_std: raw latents, in [-1, 1], are divided by this to have about unit deviation on music.
        sigma_min: lowest noise level, where the denoiser is the identity.
        sigma_max: highest noise level, where decoding starts.
        rho: exponent of the noise ramp.
        sigma_data: standard deviation of the compressed spectrogram that the preconditioning assumes.
        codec_id: fingerprint of the encoder, written when a training ends; latents of another encoder do not fit.
    """

    _supports_gradient_checkpointing = False
    _no_split_modules = ("ResBlock", "GuidedBlock")
    _skip_layerwise_casting_patterns = ("conv_in", "time_embed", "scale_in", "scale_out", "norm")

    @register_to_config
    def __init__(
        self,
        sample_rate: int = 44_100,
        n_fft: int = 2048,
        hop_length: int = 512,
        alpha: float = 0.65,
        beta: float = 0.34,
        channels: Sequence[int] = (64, 128, 256, 256, 256),
        frequency_factors: Sequence[int] = (4, 2, 2, 2),
        time_factors: Sequence[int] = (1, 2, 2, 2),
        attention_heads: Sequence[int] = (0, 0, 4, 4, 4),
        num_denoiser_blocks: int = 2,
        bottleneck_channels: int = 512,
        num_bottleneck_blocks: int = 4,
        latent_channels: int = 64,
        embedding_dim: int = 256,
        latents_std: float = 0.06,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        rho: float = 7.0,
        sigma_data: float = 0.5,
        codec_id: str | None = None,
    ) -> None:
        super().__init__()
        levels = Levels(
            num_bins=n_fft // 2,
            channels=tuple(channels),
            factors=tuple(zip(frequency_factors, time_factors, strict=True)),
            num_heads=tuple(attention_heads),
        )
        self.levels = levels
        self.spectrogram = ComplexSpectrogram(n_fft, hop_length, alpha, beta)
        self.ramp = NoiseRamp(sigma_min, sigma_max, rho)
        self.encoder = Encoder(levels, latent_channels, bottleneck_channels, num_bottleneck_blocks)
        self.decoder = LatentDecoder(levels, latent_channels, bottleneck_channels, num_bottleneck_blocks)
        self.denoiser = Denoiser(levels, embedding_dim, num_denoiser_blocks)
        self.use_slicing = False  # AutoencoderMixin's switches
        self.use_tiling = False

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """Load as every diffusers model, but strictly: missing, unexpected or misshapen weights are an error.

        diffusers only warns of missing weights and leaves them without storage, to fail at the first call.

        Raises:
            ValueError: there is no such folder, or weights are missing or unexpected; they are named.
        """
        if isinstance(args[0], Path) and not args[0].is_dir():  # text that is no folder may name a model on a hub
            raise ValueError(f"there is no folder {args[0]}; expected one with config.json and safetensors weights")
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        problems = {name: info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[name]}
        if problems:
            raise ValueError(f"the weights in {args[0]} do not fit the architecture in its config.json: {problems}")
        # weights mapped from a file lie at odd addresses, where sums are made in another order than in the saved model
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
        return (model, info) if output_loading_info else model

    @classmethod
    def from_original_checkpoint(cls, path: str | Path, use_ema: bool = False) -> "Music2LatentAutoencoder":
        """Load a checkpoint in the published layout, ``{"gen_state_dict": ...}``, into the published architecture.

        The weights published by the authors are licensed CC BY-NC 4.0 (no commercial use), whatever our licence says.

        Args:
            path: file that ``torch.save`` wrote.
            use_ema: take the averaged weights, which training checkpoints hold as well.

        Raises:
            ValueError: the file cannot be read, has not the entries that are asked for, or a tensor is missing,
                unexpected or of another shape.
        """
        state = read_original_checkpoint(path, use_ema)
        model = cls()
        model.load_state_dict(from_original_state_dict(state, model))
        model.register_to_config(codec_id=model.fingerprint())
        return model.eval()

    def to_original_state_dict(self) -> dict[str, Tensor]:
        """The weights under the published names, in their order; the published layers without a use are zeros."""
        return to_original_state_dict(self)

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

    def fingerprint(self) -> str:
        """Sixteen hex digits that identify this encoder, and with it the meaning of the latents."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.encoder.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().float().numpy().tobytes())
        return digest.hexdigest()[:16]

    @apply_forward_hook
    @torch.no_grad()
    def encode(self, waveform: Tensor) -> Float[Tensor, "batch latent_channels latent_frames"]:
        """Latents of audio of any length, about unit-scaled; the channels' latents follow each other.

        Args:
            waveform: floating-point audio (batch, channels, samples) in [-1, 1] at ``config.sample_rate``.

        Raises:
            TypeError: the waveform is not floating-point.
            ValueError: it is not (batch, channels, samples), is empty, or holds NaN or infinity.
        """
        self._check_waveform(waveform)
        return rearrange(self._encode(waveform), "(b c) l t -> b (c l) t", c=waveform.shape[1])

    @apply_forward_hook
    @torch.no_grad()
    def extract_features(self, waveform: Tensor) -> Float[Tensor, "batch channels features latent_frames"]:
        """Wide features in front of the bottleneck, for downstream tasks; 8,192 per latent frame as published.

        Raises:
            TypeError: as for ``encode``.
            ValueError: as for ``encode``.
        """
        self._check_waveform(waveform)
        features = self.encoder.features(self._padded_spectrogram(waveform))
        return rearrange(features, "(b c) f t -> b c f t", c=waveform.shape[1])

    @apply_forward_hook
    @torch.no_grad()
    def decode(
        self,
        latents: Tensor,
        num_samples: int | None = None,
        num_inference_steps: int = 1,
        generator: Generators = None,
        noise: Float[Tensor, "steps items 2 bins frames"] | None = None,
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

        Raises:
            ValueError: the latents' channels are no multiple of ``latent_channels``, they are too short for
                ``num_samples``, or there are no steps.
        """
        self._check_latents(latents, num_samples, num_inference_steps)
        if noise is None:
            noise = self._draw_noise(latents, generator, num_inference_steps)
        return self._decode(latents, noise, num_samples)

    def encode_spectrogram(self, spectrogram: Spectrogram) -> Float[Tensor, "batch latent_channels latent_frames"]:
        """Unit-scaled latents of spectrograms whose frames are a multiple of 8; no padding, gradients flow."""
        return self.encoder(spectrogram.to(self.dtype)) / self.config.latents_std

    def make_maps(self, latents: Float[Tensor, "batch latent_channels latent_frames"]) -> list[Tensor]:
        """Conditioning maps of unit-scaled latents, one per level of the denoiser, full resolution first."""
        return self.decoder((latents * self.config.latents_std).to(self.dtype))

    def denoise(self, x: Spectrogram, sigma: Float[Tensor, " batch"], maps: Maps) -> Spectrogram:
        """Estimate of the clean spectrogram, float32; the identity at ``sigma_min`` (EDM preconditioning)."""
        scales = precondition(sigma.float(), self.config.sigma_min, self.config.sigma_data)
        c_skip, c_out, c_in = (per_item(scale, x) for scale in scales)
        raw = self.denoiser((c_in * x).to(self.dtype), sigma, maps)
        return c_skip * x + c_out * raw.float()

    def decode_spectrogram(self, noise: Float[Tensor, "steps batch 2 bins frames"], maps: Maps) -> Spectrogram:
        """Sample in ``len(noise)`` steps down the noise ramp; between two steps noise is added again (CM alg. 1)."""
        positions = torch.linspace(1, 0, len(noise) + 1, device=noise.device)[:-1]
        sigmas = self.ramp.sigma(positions)
        x = sigmas[0] * noise[0]
        for k, sigma in enumerate(sigmas):
            if k > 0:
                x = x + (sigma**2 - self.config.sigma_min**2).sqrt() * noise[k]
            x = self.denoise(x, sigma.expand(noise.shape[1]), maps)
        return x

    def forward(
        self,
        sample: Float[Tensor, "batch channels samples"],
        noise: Float[Tensor, "steps items 2 bins frames"] | None = None,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> DecoderOutput | tuple[Tensor]:
        """Encode and decode audio in one differentiable pass; ``sample`` comes back with the same shape."""
        latents = rearrange(self._encode(sample), "(b c) l t -> b (c l) t", c=sample.shape[1])
        if noise is None:
            noise = self._draw_noise(latents, generator, num_steps=1)
        reconstruction = self._decode(latents, noise, sample.shape[-1])
        return DecoderOutput(sample=reconstruction) if return_dict else (reconstruction,)

    def _padded_spectrogram(
        self, waveform: Float[Tensor, "batch channels samples"]
    ) -> Float[Tensor, "items 2 bins frames"]:
        """Spectrogram of all channels, padded so that every sample lies under the full number of frames.

        The padding is a reflection, as often as needed: a cut to silence would dominate the first and last latents.
        """
        overlap, num_samples = self.spectrogram.overlap, waveform.shape[-1]
        end = self.num_latent_frames(num_samples) * self.samples_per_latent
        period = max(2 * (num_samples - 1), 1)
        place = torch.arange(-overlap, end, device=waveform.device) % period
        return self.spectrogram(waveform.flatten(0, 1)[:, torch.minimum(place, period - place)])

    def _encode(self, waveform: Float[Tensor, "batch channels samples"]) -> Float[Tensor, "items l t"]:
        return self.encode_spectrogram(self._padded_spectrogram(waveform))

    def _draw_noise(
        self, latents: Tensor, generator: Generators, num_steps: int
    ) -> Float[Tensor, "steps items 2 bins frames"]:
        """Decoding noise for latents, shared by the channels of an item."""
        num_frames, seeds = latents.shape[-1] * self.levels.frames_per_latent, draw_seeds(generator, len(latents))
        steps = [place_noise(seeds, self.levels.num_bins, num_frames, step=step) for step in range(num_steps)]
        return torch.stack(steps).repeat_interleave(latents.shape[1] // self.config.latent_channels, dim=1)

    def _decode(
        self, latents: Tensor, noise: Tensor, num_samples: int | None
    ) -> Float[Tensor, "batch channels samples"]:
        items = rearrange(latents, "b (c l) t -> (b c) l t", l=self.config.latent_channels)
        spectrogram = self.decode_spectrogram(noise.to(latents.device), self.make_maps(items))
        waveform = self.spectrogram.inverse(spectrogram).unflatten(0, (len(latents), -1))
        overlap = self.spectrogram.overlap
        if num_samples is None:
            num_samples = waveform.shape[-1] - 2 * overlap
        return waveform[..., overlap : overlap + num_samples]

    def _check_waveform(self, waveform: Tensor) -> None:
        if not waveform.is_floating_point():
            raise TypeError(
                f"the waveform must be floating-point in [-1, 1], got {waveform.dtype}; "
                "divide 16-bit integers by 32768 first"
            )
        if waveform.ndim != 3 or waveform.numel() == 0:
            raise ValueError(
                f"the waveform must be (batch, channels, samples) and not empty, got {tuple(waveform.shape)}; "
                "for one mono file use waveform[None, None]"
            )
        if not waveform.isfinite().all():
            bad = (~waveform.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
            raise ValueError(f"the waveform must be finite, but items {bad} of the batch hold NaN or infinity")

    def _check_latents(self, latents: Tensor, num_samples: int | None, num_inference_steps: int) -> None:
        latent_channels = self.config.latent_channels
        if latents.ndim != 3 or latents.numel() == 0 or latents.shape[1] % latent_channels:
            raise ValueError(
                f"latents must be (batch, channels * {latent_channels}, latent_frames) and not empty, "
                f"got {tuple(latents.shape)}"
            )
        longest = latents.shape[-1] * self.samples_per_latent - self.spectrogram.overlap
        if num_samples is not None and not 0 < num_samples <= longest:
            raise ValueError(
                f"{latents.shape[-1]} latent frames cover at most {longest} samples, got num_samples={num_samples}; "
                "that many samples need num_latent_frames(num_samples) frames"
            )
        if num_inference_steps < 1:
            raise ValueError(f"num_inference_steps must be at least 1, got {num_inference_steps}")
