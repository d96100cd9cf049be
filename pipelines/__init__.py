"""Text to music: the codec, the transformer and a text encoder as one diffusers pipeline."""

from pipelines.pipeline_music2latent import Music2LatentPipeline

__all__ = ["Music2LatentPipeline"]
