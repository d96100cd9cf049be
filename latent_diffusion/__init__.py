"""Text-conditioned latent diffusion: the transformer that turns noise into the latents of a codec."""

from latent_diffusion.transformer import LatentDiT

__all__ = ["LatentDiT"]
