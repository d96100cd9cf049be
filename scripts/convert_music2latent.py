"""Convert a checkpoint in the published Music2Latent layout to a codec folder, or a codec folder back.

    python scripts/convert_music2latent.py --checkpoint music2latent.pt --output_dir outputs/music2latent
    python scripts/convert_music2latent.py --checkpoint training_checkpoint.pt --use_ema true --output_dir outputs/ema
    python scripts/convert_music2latent.py --autoencoder outputs/codec/autoencoder --output_dir outputs/original

The first two write a folder that ``Music2LatentAutoencoder.from_pretrained`` reads (safetensors and config.json), the
last one ``music2latent.pt`` with ``{"gen_state_dict": ...}``. Each folder gets a README.md with the licence: the
weights published by the authors are CC BY-NC 4.0 in any format. Nothing is downloaded and nothing is overwritten.
"""

import inspect
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from jsonargparse import auto_cli, set_parsing_settings

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoencoder import Music2LatentAutoencoder

CHECKPOINT = "music2latent.pt"
LICENCE = (
    "The weights published by the authors of Music2Latent are licensed CC BY-NC 4.0 "
    "(https://creativecommons.org/licenses/by-nc/4.0): no commercial use, and attribution. "
    "Converted or trained further, they stay non-commercial."
)
SOURCE = (
    'Music2Latent: Pasini, Lattner, Fazekas, "Music2Latent: Consistency Autoencoders for Latent Audio Compression", '
    "ISMIR 2024, https://arxiv.org/abs/2408.06500."
)


@dataclass(frozen=True, kw_only=True)
class ConversionConfig:
    """One conversion, of either a checkpoint or a codec folder."""

    output_dir: Path
    """Folder to write; it must not hold anything yet."""
    checkpoint: Path | None = None
    """File in the published layout, to become a codec folder."""
    autoencoder: Path | None = None
    """Codec folder, to become a file in the published layout."""
    use_ema: bool = False
    """Take the averaged weights of a training checkpoint."""

    def __post_init__(self) -> None:
        if (self.checkpoint is None) == (self.autoencoder is None):
            raise ValueError(
                "one of checkpoint (to make a codec folder) and autoencoder (to make a checkpoint) must be given, "
                f"got checkpoint={self.checkpoint}, autoencoder={self.autoencoder}"
            )
        if self.use_ema and self.checkpoint is None:
            raise ValueError("use_ema chooses among the weights of a checkpoint; a codec folder holds only one set")


def from_original(checkpoint: Path, output_dir: Path, use_ema: bool) -> None:
    """Write a codec folder with the weights of a checkpoint in the published layout."""
    model = Music2LatentAutoencoder.from_original_checkpoint(checkpoint, use_ema)
    model.save_pretrained(output_dir)
    for path in output_dir.glob("*.safetensors"):
        path.chmod(0o644)  # safetensors writes 0600, unreadable to colleagues on a shared cluster
    weights = "averaged weights" if use_ema else "weights"
    card = f"""---
license: cc-by-nc-4.0
library_name: diffusers
---

# Music2Latent

Codec for `autoencoder.Music2LatentAutoencoder.from_pretrained`: the {weights} of `{checkpoint.name}`, not changed.
Layers that the published network owns and never uses are left out.

{LICENCE} If these weights are not derived from those, put their own licence here.

{SOURCE}
"""
    (output_dir / "README.md").write_text(card)


def to_original(autoencoder: Path, output_dir: Path) -> None:
    """Write a checkpoint in the published layout with the weights of a codec folder."""
    if not (autoencoder / "config.json").is_file():
        raise ValueError(f"autoencoder must be a codec folder, but there is no config.json in {autoencoder}")
    model = Music2LatentAutoencoder.from_pretrained(autoencoder)
    output_dir.mkdir(parents=True, exist_ok=True)
    torch.save({"gen_state_dict": model.to_original_state_dict()}, output_dir / CHECKPOINT)
    changes = changed_settings(model)
    architecture = "The settings are the published ones."
    if changes:
        architecture = f"Not the published architecture: whatever reads the file must be given the settings {changes}."
        print(architecture)
    card = f"""# Music2Latent, published layout

`{CHECKPOINT}` holds `gen_state_dict`: the weights of the codec `{model.config.codec_id}` under the published names.
Layers that the published network owns and never uses are zeros. {architecture}

{LICENCE} This holds for `{CHECKPOINT}` if its weights are derived from those.

{SOURCE}
"""
    (output_dir / "README.md").write_text(card)


def changed_settings(model: Music2LatentAutoencoder) -> dict[str, object]:
    """Settings of a codec that differ from the published ones."""
    published = inspect.signature(Music2LatentAutoencoder.__init__).parameters
    given = {name: model.config[name] for name in published if name in model.config and name != "codec_id"}
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    return {name: value for name, value in values.items() if value != published[name].default}


def main(config: ConversionConfig) -> Path:
    """Convert. Returns the folder that was written.

    Raises:
        FileExistsError: the output folder is not empty.
        ValueError: the input is not what it should be.
    """
    output_dir = config.output_dir
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise FileExistsError(f"output_dir {output_dir} is not empty; delete it or name another folder")
    if config.checkpoint:
        from_original(config.checkpoint, output_dir, config.use_ema)
    elif config.autoencoder:
        to_original(config.autoencoder, output_dir)
    print(LICENCE)
    print(f"saved: {output_dir}")
    return output_dir


if __name__ == "__main__":
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    main(auto_cli(ConversionConfig, as_positional=False))
