"""Check that the codec can learn: overfit it to a few crops and compare what it decodes with them.

    python scripts/overfit_autoencoder.py --config scripts/configs/autoencoder_test.yaml \
        --data_dir scripts/demo_music/train --output_dir outputs/overfit --max_steps 1200

Each crop is 0.8 s of a file. Prints the distances as it goes and leaves ``curves.png``, ``crops.png`` and
``result.json`` in ``output_dir``. A correlation near 1 with a level near 0 dB says that networks, loss and sampling
fit together; distance alone says little, since a codec that is far too quiet can have a small one.
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from jsonargparse import auto_cli, set_parsing_settings
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.data import default_collate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoencoder import Music2LatentAutoencoder
from autoencoder.audio import find_audio, read_audio
from autoencoder.figures import spectrogram_figure
from autoencoder.metrics import level_difference, log_mel_correlation, log_mel_distance
from autoencoder.noise import place_noise
from autoencoder.training import Task, Validation, fit
from scripts.train_autoencoder import CROP_FRAMES, AutoencoderTrainingConfig, build_objective, crop_samples


@dataclass(frozen=True, kw_only=True)
class OverfitConfig(AutoencoderTrainingConfig):
    """One overfit of the codec."""

    validation_dir: Path = Path()
    """Unused: the crops themselves are what is compared."""
    num_crops: int = 2
    """One crop from each of the first so many files."""
    start_seconds: float = 2.0
    """Where in the files the crops start."""


class FixedCrops:
    """The same few crops, always."""

    def __init__(self, crops: list[Tensor]) -> None:
        self.crops = crops

    def __len__(self) -> int:
        return len(self.crops)

    def order(self, generator: torch.Generator) -> Tensor:
        """In random order."""
        return torch.randperm(len(self), generator=generator)

    def draw(self, index: int, generator: torch.Generator) -> dict[str, Tensor]:
        """One crop."""
        return {"waveform": self.crops[index]}

    def collate(self, items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Stack crops to a batch."""
        return default_collate(items)


def read_crops(config: OverfitConfig, model: Music2LatentAutoencoder) -> list[Tensor]:
    """Mono crops of the training length."""
    rate, num_samples = model.config.sample_rate, crop_samples(model)
    paths = find_audio(Path(config.data_dir))[: config.num_crops]
    return [read_audio(path, rate, round(config.start_seconds * rate), num_samples).mean(0) for path in paths]


def decode_crops(model: Music2LatentAutoencoder, crops: list[Tensor]) -> Tensor:
    """Encode and decode the crops in one step, framed as in training, with noise that training has not seen."""
    x0 = model.spectrogram(torch.stack(crops).to(model.device))
    noise = place_noise(range(len(crops)), model.levels.num_bins, CROP_FRAMES).to(model.device)
    maps = model.make_maps(model.encode_spectrogram(x0))
    return model.spectrogram.inverse(model.decode_spectrogram(noise[None], maps)).cpu()


def measure(model: Music2LatentAutoencoder, crops: list[Tensor]) -> dict[str, float]:
    """Distances between crops and what is decoded, without the faded ends."""
    decoded, overlap = decode_crops(model, crops), model.spectrogram.overlap
    original = torch.stack(crops)[:, overlap:-overlap]
    decoded, rate = decoded[:, overlap:-overlap], model.config.sample_rate
    return {
        "log-mel correlation": log_mel_correlation(decoded, original, rate),
        "log-mel distance": log_mel_distance(decoded, original, rate),
        "level difference (dB)": level_difference(decoded, original),
    }


def draw_curves(history: list[dict[str, float]]) -> Figure:
    """Each measure against the step."""
    names = [name for name in history[0] if name not in ("step", "minutes")]
    figure = Figure(figsize=(10, 2.2 * len(names)), layout="constrained")
    for axes, name in zip(figure.subplots(len(names), squeeze=False)[:, 0], names, strict=True):
        axes.plot([row["step"] for row in history], [row[name] for row in history])
        axes.set(ylabel=name)
        axes.grid(visible=True)
    axes.set(xlabel="step")
    return figure


def main(config: OverfitConfig) -> dict[str, float]:
    """Train and return the last measures."""
    torch.manual_seed(config.seed)
    model = Music2LatentAutoencoder(**config.model)
    crops, history, started = read_crops(config, model), [], time.perf_counter()

    def validate(model: Music2LatentAutoencoder, step: int) -> Validation:
        scalars = measure(model, crops)
        history.append({"step": step, "minutes": (time.perf_counter() - started) / 60} | scalars)
        return Validation(scalars=scalars)

    def finish(model: Music2LatentAutoencoder) -> Path:
        panels: dict[str, Tensor] = {}
        for index, (crop, decoded) in enumerate(zip(crops, decode_crops(model, crops), strict=True)):
            panels |= {f"crop {index}": crop[None], f"crop {index}, decoded in one step": decoded[None]}
        spectrogram_figure(panels, model.config.sample_rate).savefig(config.output_dir / "crops.png")
        draw_curves(history).savefig(config.output_dir / "curves.png")
        (config.output_dir / "result.json").write_text(json.dumps(history, indent=1))
        return config.output_dir

    objective = build_objective(config, model)
    optimizer = torch.optim.RAdam(objective.parameters(), lr=config.learning_rate, betas=(0.9, config.adam_beta2))
    fit(Task(model, objective, optimizer, FixedCrops(crops), validate, finish), config)
    return history[-1]


if __name__ == "__main__":
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    print(main(auto_cli(OverfitConfig, as_positional=False)))
