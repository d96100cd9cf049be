"""Music2Latent: a consistency autoencoder, 44.1 kHz audio <-> 64-channel latents at 10.8 Hz."""

from autoencoder.chunking import LOW_LATENCY, Windows
from autoencoder.model import Music2LatentAutoencoder

__all__ = ["LOW_LATENCY", "Music2LatentAutoencoder", "Windows"]
