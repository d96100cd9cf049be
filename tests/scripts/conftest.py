"""The chain of scripts with tiny models, made once, and configurations for parts of it."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from scripts import encode_dataset, generate, save_pipeline, train_autoencoder, train_latent_dit
from scripts.encode_dataset import EncodingConfig
from scripts.save_pipeline import SaveConfig
from scripts.train_autoencoder import AutoencoderTrainingConfig
from scripts.train_latent_dit import LatentDiTTrainingConfig
from tests.conftest import TINY_CODEC, TINY_DIT, write_music

WEIGHTS = "diffusion_pytorch_model.safetensors"
QUICK = {"max_steps": 3, "warmup_steps": 1, "batch_size": 2, "learning_rate": 1e-2, "num_workers": 0, "log_every": 2}
DIT = {name: value for name, value in TINY_DIT.items() if name != "cross_attention_dim"}


def codec_config(music: Path, output_dir: Path, **changes) -> AutoencoderTrainingConfig:
    settings = {"validation_seconds": 0.5, "num_validation_files": 1, "model": TINY_CODEC}
    folders = {"data_dir": music / "train", "validation_dir": music / "test", "output_dir": output_dir}
    return AutoencoderTrainingConfig(**(QUICK | settings | folders | changes))


def encoding_config(music: Path, autoencoder: Path, output_dir: Path, **changes) -> EncodingConfig:
    return EncodingConfig(**({"data_dir": music, "autoencoder": autoencoder, "output_dir": output_dir} | changes))


def dit_config(
    latents: Path, autoencoder: Path, encoder: Path, output_dir: Path, **changes
) -> LatentDiTTrainingConfig:
    settings = {"max_seconds": 0.5, "validation_prompts": ["low sine"], "num_validation_clips": 1, "model": DIT}
    folders = {"data_dir": latents / "train", "validation_dir": latents / "test", "output_dir": output_dir}
    parts = {"autoencoder": autoencoder, "text_encoder": str(encoder)}
    return LatentDiTTrainingConfig(**(QUICK | settings | folders | parts | changes))


@pytest.fixture(scope="session")
def chain(tmp_path_factory, text_encoder_dir):
    """Folders of everything that the scripts make, one after the other."""
    root = tmp_path_factory.mktemp("chain")
    music = write_music(root / "music")
    codec = train_autoencoder.main(codec_config(music, root / "codec"))
    for split in ("train", "test"):
        encode_dataset.main(encoding_config(music / split, codec, root / "latents" / split, items_per_shard=3))
    transformer = train_latent_dit.main(dit_config(root / "latents", codec, text_encoder_dir, root / "dit"))
    pipeline = save_pipeline.main(SaveConfig(autoencoder=codec, transformer=transformer, output_dir=root / "pipeline"))
    audio = generate.main("low sine", pipeline=pipeline, output=root / "out" / "low.wav", audio_length_in_s=0.3)
    return SimpleNamespace(
        root=root,
        music=music,
        codec=codec,
        latents=root / "latents",
        transformer=transformer,
        pipeline=pipeline,
        audio=audio,
    )
