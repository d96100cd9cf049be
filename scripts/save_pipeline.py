"""Put a codec, a transformer and a text encoder together as one pipeline folder.

    python scripts/save_pipeline.py --autoencoder outputs/codec/autoencoder --transformer outputs/dit/transformer \
        --output_dir outputs/pipeline

The folder holds everything (safetensors) and is read by ``Music2LatentPipeline.from_pretrained``.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from diffusers.schedulers import FlowMatchEulerDiscreteScheduler
from jsonargparse import auto_cli, set_parsing_settings

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoencoder import Music2LatentAutoencoder
from latent_diffusion import LatentDiT
from latent_diffusion.tempo_prior import TempoPrior
from latent_diffusion.text import DEFAULT_TEXT_ENCODER, load_text_encoder
from pipelines import Music2LatentPipeline


@dataclass(frozen=True, kw_only=True)
class SaveConfig:
    """The parts of one pipeline."""

    autoencoder: Path
    """Folder of the codec."""
    transformer: Path
    """Folder of the transformer."""
    tempo_prior: Path | None = None
    """Folder of the tempo prior; the one beside the transformer, as the training writes it, if not given."""
    output_dir: Path
    """Folder to write."""
    text_encoder: str | None = None
    """Name or folder; the one that the transformer was trained with if not given. The transformer remembers it."""
    include_text_encoder: bool = True
    """Without it the folder is small, and the encoder is loaded by its name when the pipeline is."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Precision of the weights of codec and transformer in the folder; they are loaded as float32 unless asked."""
    max_shard_size: str = "10GB"
    """Larger weights are cut into several files."""


def find_tempo_prior(config: SaveConfig) -> TempoPrior | None:
    """The tempo prior that goes with the transformer, if it has one."""
    if config.tempo_prior is not None:
        return TempoPrior.from_pretrained(config.tempo_prior)
    folder = config.transformer.parent / "tempo_prior"
    return TempoPrior.from_pretrained(folder) if folder.is_dir() else None


def main(config: SaveConfig) -> Path:
    """Write the folder."""
    transformer = LatentDiT.from_pretrained(config.transformer)
    name = config.text_encoder or transformer.config.text_encoder or DEFAULT_TEXT_ENCODER
    tokenizer, text_encoder = load_text_encoder(name) if config.include_text_encoder else (None, None)
    autoencoder = Music2LatentAutoencoder.from_pretrained(config.autoencoder)
    tempo_prior = find_tempo_prior(config)
    parts = (autoencoder, transformer) if tempo_prior is None else (autoencoder, transformer, tempo_prior)
    for part in parts:  # diffusers notes where a part was loaded from: a path of this machine
        part.register_to_config(_name_or_path=config.output_dir.name)
    for part in parts[1:]:  # both depend on the text encoder
        part.register_to_config(text_encoder=name)
    dtype = getattr(torch, config.dtype)
    pipeline = Music2LatentPipeline(
        autoencoder.to(dtype),
        transformer.to(dtype),
        text_encoder,
        tokenizer,
        FlowMatchEulerDiscreteScheduler(),
        tempo_prior=tempo_prior and tempo_prior.to(dtype),
    )
    pipeline.save_pretrained(config.output_dir, max_shard_size=config.max_shard_size)
    for path in config.output_dir.rglob("*.safetensors"):
        path.chmod(0o644)  # safetensors writes 0600, unreadable to colleagues on a shared cluster
    print(f"saved: {config.output_dir}")
    return config.output_dir


if __name__ == "__main__":
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    main(auto_cli(SaveConfig, as_positional=False))
