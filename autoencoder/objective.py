"""The training objective of the codec: the only place of its training that draws random numbers."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoencoder.consistency import GapSchedule, NoiseDensity, consistency_loss
from autoencoder.metrics import multi_resolution_stft_distances
from autoencoder.model import Music2LatentAutoencoder
from autoencoder.networks import MagnitudeHead
from autoencoder.random_numbers import BatchDraws
from autoencoder.spectrogram import log_magnitudes


class ConsistencyObjective(nn.Module):
    """Consistency loss of the whole autoencoder on a batch of crops.

    Args:
        model: what is trained.
        gap: distance of the two noise levels.
        density: distribution of the noise levels; as published if not given.
        spectral_weight: weight of the multi-resolution STFT distance between the estimate, as audio, and the clean
            crop. Consistency brings the truth up from the lowest noise level, hop by hop, and single-step decoding
            starts at the highest: a short training never gets there. The spectral distance asks for the right
            magnitudes at every level at once, and leaves the phases to the noise. 0: the published objective.
        magnitude_weight: weight of the squared error of the log magnitudes that a convolution reads from the
            full-resolution map. It reaches the encoder without noise and without the denoiser in between, so that
            the latents carry the music after some hundred steps. The convolution is not exported.
        magnitude_share: first part of the training in which there is nothing but the magnitudes. The denoiser costs
            most of a step and learns little until the maps say something.

    It is a module so that Accelerate wraps one ``forward`` that holds every network call of a training step: mixed
    precision and gradient synchronisation then cover the encoder as well.
    """

    def __init__(
        self,
        model: Music2LatentAutoencoder,
        gap: GapSchedule,
        density: NoiseDensity | None = None,
        spectral_weight: float = 0.0,
        magnitude_weight: float = 0.0,
        magnitude_share: float = 0.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.gap = gap
        self.density = density or NoiseDensity(model.ramp)
        self.spectral_weight = spectral_weight
        self.magnitude_weight, self.magnitude_share = magnitude_weight, magnitude_share
        self.magnitude_head = MagnitudeHead(model.levels.channels[0]) if magnitude_weight else None
        self._no_split_modules = model._no_split_modules  # what FSDP wraps one by one

    def forward(
        self, batch: dict[str, Tensor], draws: BatchDraws, progress: float
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """One loss per item, and the ramp position of its noisier level.

        Args:
            batch: ``{"waveform": (batch, samples)}``.
            draws: random numbers on the batch's device: an item's noise does not depend on its batch.
            progress: part of the training that is done; it sets the gap.
        """
        model, ramp = self.model, self.model.ramp
        # channels-last is what the convolutions are fast with; everything computed from x0 keeps it
        x0 = model.spectrogram(batch["waveform"]).contiguous(memory_format=torch.channels_last)
        t_high = self.density.t(draws.uniform())
        t_low = (t_high - self.gap(progress)).clamp(min=0)
        # at the very start of the ramp both levels coincide and the weight would be infinite
        t_high = t_high.clamp(min=1e-4)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._trains_encoder()):
            latents = model.encode_spectrogram(x0)
        maps = model.make_maps(latents)
        magnitude_losses = self._magnitude_losses(maps[0], x0)
        if progress < self.magnitude_share:
            # zero times the denoiser: several processes wait for a gradient of every parameter
            return magnitude_losses + 0 * sum(one.sum() for one in model.denoiser.parameters()), t_high
        noise = draws.normal(*x0.shape[1:]).contiguous(memory_format=torch.channels_last)
        losses, estimate = consistency_loss(
            lambda x, sigma: model.denoise(x, sigma, maps), x0, noise, ramp.sigma(t_low), ramp.sigma(t_high)
        )
        if self.spectral_weight:
            inverse = model.spectrogram.inverse
            losses = losses + self.spectral_weight * multi_resolution_stft_distances(inverse(estimate), inverse(x0))
        return losses + magnitude_losses, t_high

    def _magnitude_losses(self, full_map: Tensor, x0: Tensor) -> Float[Tensor, " batch"]:
        if self.magnitude_head is None:
            return x0.new_zeros(len(x0))
        error = self.magnitude_head(full_map).float() - log_magnitudes(x0)
        return self.magnitude_weight * error.square().flatten(1).mean(1)

    def _trains_encoder(self) -> bool:
        return any(parameter.requires_grad for parameter in self.model.encoder.parameters())
