"""Music2Latent: a consistency autoencoder for music, 44.1 kHz audio <-> 64-channel latents at 10.8 Hz.

Symbols
    x        noisy spectrogram, x0 + sigma * noise
    maps     one conditioning map per level of the denoiser, made from the latents
    sigma    noise level; 80 is (almost) pure noise, 0.002 (almost) clean

Sources
    M2L   Pasini, Lattner, Fazekas 2024, https://arxiv.org/abs/2408.06500
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import AutoencoderMixin, DecoderOutput
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float
from torch import Tensor

from autoencoder.chunking import Windows
from autoencoder.coding import CodingMixin, Generators
from autoencoder.consistency import NoiseRamp, precondition
from autoencoder.conversion import from_original_state_dict, read_original_checkpoint, to_original_state_dict
from autoencoder.networks import Denoiser, Encoder, LatentDecoder, Levels, Maps, Spectrogram
from autoencoder.noise import draw_seeds, place_noise
from autoencoder.sample_buffer import SampleBuffer
from autoencoder.spectrogram import ComplexSpectrogram


class Music2LatentAutoencoder(CodingMixin, ModelMixin, AutoencoderMixin, ConfigMixin):
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
        self._compiled: dict[str, Callable[..., Any]] = {}
        self._compiled_size: int | None = None
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

    def fingerprint(self) -> str:
        """Sixteen hex digits that identify this encoder, and with it the meaning of the latents."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.encoder.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().float().numpy().tobytes())
        return digest.hexdigest()[:16]

    def encode_spectrogram(self, spectrogram: Spectrogram) -> Float[Tensor, "batch latent_channels latent_frames"]:
        """Unit-scaled latents of spectrograms whose frames are a multiple of 8; no padding, gradients flow."""
        encoder = self._network("encoder", spectrogram.shape[-1] // self.levels.frames_per_latent)
        return encoder(spectrogram.to(self.dtype)) / self.config.latents_std

    def make_maps(self, latents: Float[Tensor, "batch latent_channels latent_frames"]) -> list[Tensor]:
        """Conditioning maps of unit-scaled latents, one per level of the denoiser, full resolution first."""
        decoder = self._network("decoder", latents.shape[-1])
        return decoder((latents * self.config.latents_std).to(self.dtype))

    def denoise(self, x: Spectrogram, sigma: Float[Tensor, " levels"], maps: Maps) -> Spectrogram:
        """Estimate of the clean spectrogram, float32; the identity at ``sigma_min`` (EDM preconditioning).

        ``sigma`` holds one noise level per item, or one for all.
        """
        scales = precondition(sigma.float(), self.config.sigma_min, self.config.sigma_data)
        c_skip, c_out, c_in = (scale[:, None, None, None] for scale in scales)
        denoiser = self._network("denoiser", x.shape[-1] // self.levels.frames_per_latent)
        raw = denoiser((c_in * x).to(self.dtype), sigma, maps)
        return c_skip * x + c_out * raw.float()

    def decode_latents(
        self,
        latents: Float[Tensor, "batch latent_channels latent_frames"],
        noise: Float[Tensor, "steps batch 2 bins frames"],
    ) -> Spectrogram:
        """Spectrograms of unit-scaled latents, all in one piece: what one window of ``decode`` computes."""
        return self.decode_spectrogram(noise, self.make_maps(latents))

    def compile_windows(self, windows: Windows | None = None, **options: Any) -> None:
        """Compile the networks for windows of one size; audio of other lengths goes on without compilation.

        All windows of a long piece but the last have one shape. Compiling happens in the first call.

        Args:
            windows: what will be passed to the coding calls.
            options: further arguments of ``torch.compile``.
        """
        self._compiled_size = (windows or Windows()).size
        for name in ("encoder", "decoder", "denoiser"):
            self._compiled[name] = torch.compile(getattr(self, name), dynamic=False, **options)

    def _network(self, name: str, num_latents: int) -> Callable[..., Any]:
        return self._compiled[name] if num_latents == self._compiled_size else getattr(self, name)

    def decode_spectrogram(self, noise: Float[Tensor, "steps batch 2 bins frames"], maps: Maps) -> Spectrogram:
        """Sample in ``len(noise)`` steps down the noise ramp; between two steps noise is added again (CM alg. 1)."""
        positions = torch.linspace(1, 0, len(noise) + 1, device=noise.device)[:-1]
        sigmas = self.ramp.sigma(positions)
        x = sigmas[0] * noise[0]
        for k, sigma in enumerate(sigmas):
            if k > 0:
                x = x + (sigma**2 - self.config.sigma_min**2).sqrt() * noise[k]
            x = self.denoise(x, sigma[None], maps)
        return x

    def forward(
        self,
        sample: Float[Tensor, "batch channels samples"],
        noise: Float[Tensor, "steps items 2 bins frames"] | None = None,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> DecoderOutput | tuple[Tensor]:
        """Encode and decode audio in one differentiable pass; ``sample`` comes back with the same shape."""
        num_latents = self.num_latent_frames(sample.shape[-1])
        buffer = SampleBuffer(self.samples_per_latent, self.spectrogram.overlap)
        buffer.append(sample)
        buffer.end()
        latents = self.encode_spectrogram(self.spectrogram(buffer.window(0, num_latents)))
        if noise is None:
            seeds = draw_seeds(generator, len(sample))
            noise = place_noise(seeds, self.levels.num_bins, num_latents * self.levels.frames_per_latent)[None]
            noise = noise.repeat_interleave(sample.shape[1], dim=1).to(sample.device)
        waveform = self.spectrogram.inverse(self.decode_latents(latents, noise)).view(*sample.shape[:2], -1)
        overlap = self.spectrogram.overlap
        reconstruction = waveform[..., overlap : overlap + sample.shape[-1]]
        return DecoderOutput(sample=reconstruction) if return_dict else (reconstruction,)
