"""Train the codec on a folder of audio, or on WebDataset shards of it.

    accelerate launch scripts/train_autoencoder.py --config scripts/configs/autoencoder_small.yaml \
        --data_dir data/train --validation_dir data/test --output_dir outputs/codec

To fine-tune a codec on other music so that its latents stay what they are:

    accelerate launch scripts/train_autoencoder.py --config scripts/configs/autoencoder_finetune.yaml \
        --init_from outputs/music2latent --freeze_encoder true \
        --data_dir data/train --validation_dir data/test --output_dir outputs/my_codec

The same command continues a run that was stopped. The exported codec is ``output_dir/autoencoder`` (safetensors and
config.json, averaged weights). Watch it with ``tensorboard --logdir outputs/codec/logs``.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from jsonargparse import auto_cli, set_parsing_settings
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoencoder import Music2LatentAutoencoder
from autoencoder.consistency import GapSchedule, NoiseDensity
from autoencoder.data import RandomCrops
from autoencoder.data_order import PositionedItems
from autoencoder.figures import spectrogram_figure
from autoencoder.metrics import level_difference, log_mel_correlation, log_mel_distance, multi_resolution_stft_distance
from autoencoder.objective import ConsistencyObjective
from autoencoder.optimization import trained_parameters
from autoencoder.processes import process_state
from autoencoder.random_numbers import BatchDraws
from autoencoder.recordings import Recordings, open_recordings, read_recording
from autoencoder.training import Task, TrainingConfig, Validation, fit

CROP_FRAMES = 64
VALIDATION_DRAWS, VALIDATION_BATCH = 4, 4  # crops and noises per held-out file, and how many go together
MAX_VALIDATION_CROPS = 16  # held-out files that the validation loss is measured on


@dataclass(frozen=True, kw_only=True)
class AutoencoderTrainingConfig(TrainingConfig):
    """One training of the codec."""

    data_dir: str | Path
    """Folder searched recursively for audio files at the codec's sample rate, or WebDataset shards of such: a folder
    of .tar files, their path, pattern, URL or pipe."""
    validation_dir: str | Path
    """Held-out audio, in the same forms."""
    shard_cache: Path | None = None
    """Where shards that are not local are kept; output_dir/shards if not given."""
    validation_seconds: float = 5.0
    """Only the start of each held-out file is used."""
    num_validation_files: int = 4
    """The first so many held-out files are used."""
    gain_db: float = 0.0
    """Crops are made louder or quieter by up to so many dB."""
    mix_probability: float = 0.0
    """Part of the crops to which a crop of another recording is added."""
    noise_log_mean: float = -1.1
    """Centre of the density of noise levels, as the logarithm of sigma."""
    noise_log_std: float = 2.0
    """Its width. A short training needs the high levels, where decoding starts, more often: try 1.0 and 2.5."""
    spectral_weight: float = 0.0
    """Weight of a spectral distance to the clean crop, beside the consistency loss: 0 as published, some hundreds in
    trainings that are too short for consistency to carry the truth up to the noise level where decoding starts."""
    magnitude_weight: float = 0.0
    """Weight of the log magnitudes that are read from the denoiser's full-resolution map: 0 as published, some
    hundreds in short trainings, whose encoder learns nothing for long otherwise."""
    magnitude_share: float = 0.0
    """First part of the training with nothing but these magnitudes; its steps cost less than half."""
    freeze_encoder: bool = False
    """Train only the decoder and the denoiser, so that latents stay valid; with --init_from."""
    first_gap: float = 0.1
    """Gap between the two noise levels of a pair at the start, as a part of the noise ramp."""
    last_gap: float = 0.001
    """The same at the end of the training."""
    model: dict[str, Any] = field(default_factory=dict)
    """Arguments of Music2LatentAutoencoder; what is not given is as published."""

    may_change: ClassVar[frozenset[str]] = TrainingConfig.may_change | {
        "data_dir",
        "validation_dir",
        "shard_cache",
        "validation_seconds",
        "num_validation_files",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.freeze_encoder and self.init_from is None:
            raise ValueError("freeze_encoder keeps the encoder of a trained codec; give one with --init_from")
        if not 0 <= self.magnitude_share < 1 or (self.magnitude_share and not self.magnitude_weight):
            raise ValueError(
                "magnitude_share must be from 0 to below 1 and needs a magnitude_weight, "
                f"got {self.magnitude_share} and {self.magnitude_weight}"
            )


def crop_samples(model: Music2LatentAutoencoder) -> int:
    """Samples of a training crop: 64 whole frames, 0.78 s."""
    return model.spectrogram.num_samples(CROP_FRAMES)


def build_model(config: AutoencoderTrainingConfig) -> Music2LatentAutoencoder:
    """New codec, or the one of ``init_from``.

    Raises:
        ValueError: that one has another architecture than the configuration asks for.
    """
    if config.init_from is None:
        return Music2LatentAutoencoder(**config.model)
    model = Music2LatentAutoencoder.from_pretrained(config.init_from)
    different = {
        name: (model.config.get(name), value)
        for name, value in config.model.items()
        if json.dumps(value) != json.dumps(model.config.get(name))
    }
    if different:
        lines = "; ".join(f"{name} is {old} there, {new} here" for name, (old, new) in different.items())
        raise ValueError(f"{config.init_from} has another architecture: {lines}; leave out the model's arguments")
    if config.freeze_encoder:
        model.encoder.requires_grad_(False)
    return model


def gap_schedule(config: AutoencoderTrainingConfig) -> GapSchedule:
    """Gap between the two noise levels of a pair."""
    return GapSchedule(config.first_gap, config.last_gap)


def build_objective(config: AutoencoderTrainingConfig, model: Music2LatentAutoencoder) -> ConsistencyObjective:
    """Loss with the run's settings."""
    return ConsistencyObjective(
        model,
        gap_schedule(config),
        NoiseDensity(model.ramp, config.noise_log_mean, config.noise_log_std),
        spectral_weight=config.spectral_weight,
        magnitude_weight=config.magnitude_weight,
        magnitude_share=config.magnitude_share,
    )


def held_out_waveforms(
    config: AutoencoderTrainingConfig, recordings: Recordings, sample_rate: int
) -> dict[str, Tensor]:
    """Start of each held-out file, (channels, samples) by its name below the folder."""
    num_samples = round(config.validation_seconds * sample_rate)
    indices = range(min(config.num_validation_files, len(recordings)))
    waveforms = {}
    for index in indices:
        name = str(recordings.facts(index)["file_name"])
        waveforms[name] = read_recording(recordings, index, sample_rate)[:, :num_samples]
    return waveforms


def validate(model: Music2LatentAutoencoder, waveforms: dict[str, Tensor]) -> Validation:
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


def validation_loss(objective: ConsistencyObjective, crops: RandomCrops) -> float:
    """Mean loss on held-out crops at the last gap; crops, noise and levels are the same at every call."""
    device, losses, items = objective.model.device, [], PositionedItems(crops, seed=0)
    for start in range(0, len(crops) * VALIDATION_DRAWS, VALIDATION_BATCH):
        positions, batch, _ = items.collate([items[start + offset] for offset in range(VALIDATION_BATCH)])
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        losses.append(objective(batch, BatchDraws(1, positions, device), progress=1.0)[0])
    return torch.cat(losses).mean().item()


def main(config: AutoencoderTrainingConfig) -> Path | None:
    """Train, or continue training, and export. Returns the exported folder, None if a signal stopped the run."""
    torch.manual_seed(config.seed)
    model = build_model(config)
    sample_rate, num_samples = model.config.sample_rate, crop_samples(model)
    cache = config.shard_cache or config.output_dir / "shards"
    with process_state().main_process_first():  # looking through shards writes their indices
        recordings, held_out = (open_recordings(folder, cache) for folder in (config.data_dir, config.validation_dir))
    dataset = RandomCrops(recordings, sample_rate, num_samples, config.gain_db, config.mix_probability)
    for name, reason in dataset.skipped.items():
        print(f"left out: {name}: {reason}")
    print(f"{len(dataset)} files to train on, {len(dataset.skipped)} left out")
    waveforms = held_out_waveforms(config, held_out, sample_rate)
    held_out_crops = RandomCrops(held_out, sample_rate, num_samples, max_items=MAX_VALIDATION_CROPS)

    def validate_all(model: Music2LatentAutoencoder, step: int) -> Validation:
        result = validate(model, waveforms)
        result.scalars["loss"] = validation_loss(ConsistencyObjective(model, gap_schedule(config)), held_out_crops)
        return result

    def export(model: Music2LatentAutoencoder) -> Path:
        folder = config.output_dir / "autoencoder"
        model.register_to_config(codec_id=model.fingerprint())
        model.save_pretrained(folder)
        return folder

    objective = build_objective(config, model)
    parameters = trained_parameters(objective)
    task = Task(
        model=model,
        objective=objective,
        optimizer=torch.optim.RAdam(parameters, lr=config.learning_rate, betas=(0.9, config.adam_beta2), foreach=True),
        dataset=dataset,
        validate=validate_all,
        export=export,
    )
    exported = fit(task, config)
    if exported:
        print(f"exported: {exported}")
    return exported


if __name__ == "__main__":
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    main(auto_cli(AutoencoderTrainingConfig, as_positional=False))
