"""Music2Latent: a consistency autoencoder, 44.1 kHz audio <-> 64-channel latents at 10.8 Hz."""

from autoencoder.model import Music2LatentAutoencoder

__all__ = ["Music2LatentAutoencoder"]
