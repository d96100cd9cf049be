"""Train the codec on a folder of audio.

    accelerate launch scripts/train_autoencoder.py --config scripts/configs/autoencoder_small.yaml \
        --data_dir my_music/train --validation_dir my_music/test --output_dir outputs/codec

The same command continues a run that was stopped. The exported codec is ``output_dir/autoencoder`` (safetensors and
config.json, averaged weights). Watch it with ``tensorboard --logdir outputs/codec/logs``.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli, set_parsing_settings

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoencoder import Music2LatentAutoencoder
from autoencoder.audio import find_audio, read_audio
from autoencoder.consistency import GapSchedule
from autoencoder.data import RandomCrops
from autoencoder.figures import spectrogram_figure
from autoencoder.metrics import level_difference, log_mel_correlation, log_mel_distance, multi_resolution_stft_distance
from autoencoder.objective import ConsistencyObjective
from autoencoder.training import Task, TrainingConfig, Validation, fit

CROP_FRAMES = 64


@dataclass(frozen=True, kw_only=True)
class AutoencoderTrainingConfig(TrainingConfig):
    """One training of the codec."""

    data_dir: Path
    """Folder searched recursively for audio files at the codec's sample rate."""
    validation_dir: Path
    """Folder of held-out audio files."""
    validation_seconds: float = 5.0
    """Only the start of each held-out file is used."""
    num_validation_files: int = 4
    """The first so many held-out files are used."""
    first_gap: float = 0.1
    """Gap between the two noise levels of a pair at the start, as a part of the noise ramp."""
    last_gap: float = 0.001
    """The same at the end of the training."""
    model: dict[str, Any] = field(default_factory=dict)
    """Arguments of Music2LatentAutoencoder; what is not given is as published."""


def crop_samples(model: Music2LatentAutoencoder) -> int:
    """Samples of a training crop: 64 whole frames, 0.78 s."""
    return model.spectrogram.num_samples(CROP_FRAMES)


def validation_waveforms(config: AutoencoderTrainingConfig, sample_rate: int) -> dict[str, torch.Tensor]:
    """Start of each held-out file, (channels, samples) by file name."""
    paths = find_audio(config.validation_dir)[: config.num_validation_files]
    num_samples = round(config.validation_seconds * sample_rate)
    return {path.name: read_audio(path, sample_rate)[:, :num_samples] for path in paths}


def validate(model: Music2LatentAutoencoder, waveforms: dict[str, torch.Tensor]) -> Validation:
    """Code the held-out files with a fixed seed; distances are means over the files."""
    sample_rate, result, rows = model.config.sample_rate, Validation(), []
    for name, waveform in waveforms.items():
        latents = model.encode(waveform[None].to(model.device))
        seeded = torch.Generator().manual_seed(0)
        coded = model.decode(latents, num_samples=waveform.shape[-1], generator=seeded)[0].cpu()
        rows.append(
            {
                "log-mel distance": log_mel_distance(coded, waveform, sample_rate),
                "log-mel correlation": log_mel_correlation(coded, waveform, sample_rate),
                "STFT distance": multi_resolution_stft_distance(coded, waveform),
                "level difference (dB)": level_difference(coded, waveform),
            }
        )
        result.audio |= {f"{name}/original": (waveform[0], sample_rate), f"{name}/coded": (coded[0], sample_rate)}
        result.figures[name] = spectrogram_figure({"original": waveform, "coded": coded}, sample_rate)
    result.scalars = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
    return result


def main(config: AutoencoderTrainingConfig) -> Path | None:
    """Train, or continue training, and export. Returns the exported folder, None if a signal stopped the run."""
    torch.manual_seed(config.seed)
    model = Music2LatentAutoencoder(**config.model)
    dataset = RandomCrops(find_audio(config.data_dir), model.config.sample_rate, crop_samples(model))
    for path, reason in dataset.skipped.items():
        print(f"left out: {path}: {reason}")
    print(f"{len(dataset)} files to train on, {len(dataset.skipped)} left out")
    waveforms = validation_waveforms(config, model.config.sample_rate)

    def export() -> Path:
        folder = config.output_dir / "autoencoder"
        model.register_to_config(codec_id=model.fingerprint())
        model.save_pretrained(folder)
        return folder

    task = Task(
        model=model,
        objective=ConsistencyObjective(model, GapSchedule(config.first_gap, config.last_gap)),
        optimizer=torch.optim.RAdam(model.parameters(), lr=config.learning_rate, betas=(0.9, config.adam_beta2)),
        dataset=dataset,
        validate=lambda step: validate(model, waveforms),
        export=export,
    )
    exported = fit(task, config)
    if exported:
        print(f"exported: {exported}")
    return exported


if __name__ == "__main__":
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    main(auto_cli(AutoencoderTrainingConfig, as_positional=False))
