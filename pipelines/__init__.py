"""Text to music: the codec, the transformer and a text encoder as one diffusers pipeline."""

from pathlib import Path

from pipelines.pipeline_music2latent import Music2LatentPipeline

__all__ = ["DEMO_MODEL", "Music2LatentPipeline"]

DEMO_MODEL = Path(__file__).parent / "demo_model"
"""Folder of the bundled model, for ``Music2LatentPipeline.from_pretrained``."""
