"""Train several configurations of the codec for the same time each, and compare them on held-out music.

    python scripts/compare_codecs.py --candidates scripts/demo_training/codec_candidates.yaml --seconds 120 \
        --data_dir scripts/demo_music/train --validation_dir scripts/demo_music/test --output_dir outputs/compare

A candidate is a name with options of train_autoencoder.py that differ from ``--base``. The schedules of each are made
to end with its time (see demo_training/timed.py). Besides the distances of what it decodes, the table has the relative
error of its denoiser at four noise levels, where 1 is silence: a codec that does not yet decode can be told from
another by it. A run that was stopped is continued by the same command.
"""

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import auto_cli, set_parsing_settings

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from autoencoder import Music2LatentAutoencoder
from autoencoder.audio import find_audio, read_audio
from autoencoder.metrics import level_difference, log_mel_correlation, log_mel_distance, multi_resolution_stft_distance
from scripts.demo_training.timed import Progress, train_for

SIGMAS = (0.1, 0.5, 2.0, 80.0)


@dataclass(frozen=True, kw_only=True)
class ComparisonConfig:
    """One comparison."""

    candidates: Path
    """YAML file: name of each candidate, and its options of train_autoencoder.py."""
    data_dir: Path
    """Music to train on."""
    validation_dir: Path
    """Held-out music."""
    output_dir: Path
    """A folder for each candidate, and comparison.json."""
    base: Path = ROOT / "scripts/configs/autoencoder_demo.yaml"
    """What all candidates share."""
    seconds: float = 120.0
    """Time for each candidate, start-up included."""
    num_files: int = 4
    """Held-out files to compare on."""
    num_seconds: float = 5.0
    """Seconds of each."""


def candidate_options(config: ComparisonConfig) -> dict[str, dict[str, Any]]:
    """Options of each candidate, those that all share included; a ``model`` replaces the shared one."""
    shared = yaml.safe_load(config.base.read_text())
    candidates = yaml.safe_load(config.candidates.read_text())
    if not isinstance(candidates, dict) or not all(isinstance(options, dict) for options in candidates.values()):
        raise ValueError(f"{config.candidates} must map names to options of train_autoencoder.py, got {candidates!r}")
    return {str(name): shared | options for name, options in candidates.items()}


def train(name: str, options: dict[str, Any], config: ComparisonConfig) -> Path:
    """Train one candidate. Returns the folder of its codec."""
    folder = config.output_dir / name
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "options.yaml"
        path.write_text(yaml.safe_dump(options | {"num_validation_files": 1}))
        command = [sys.executable, str(ROOT / "scripts/train_autoencoder.py"), "--config", str(path)]
        command += ["--data_dir", str(config.data_dir), "--validation_dir", str(config.validation_dir)]
        train_for(command, folder, seconds=config.seconds, limit=10 * config.seconds, probe_every=2)
    return folder / "autoencoder"


@torch.no_grad()
def denoising_errors(model: Music2LatentAutoencoder, waveform: torch.Tensor) -> dict[str, float]:
    """Error of the denoiser at each noise level, relative to the music's energy."""
    usable = waveform.shape[-1] - model.spectrogram.overlap
    frames = usable // model.spectrogram.hop_length // 8 * 8
    x0 = model.spectrogram(waveform[:1, : model.spectrogram.num_samples(frames)])
    maps = model.make_maps(model.encode_spectrogram(x0))
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    errors = {}
    for sigma in SIGMAS:
        estimate = model.denoise(x0 + sigma * noise, torch.tensor([sigma]), maps)
        errors[f"error at {sigma:g}"] = ((estimate - x0).norm() / x0.norm()).item()
    return errors


def judge(folder: Path, config: ComparisonConfig) -> dict[str, float]:
    """Means over the held-out files."""
    model = Music2LatentAutoencoder.from_pretrained(folder).eval()
    sample_rate, rows = model.config.sample_rate, []
    for path in find_audio(config.validation_dir)[: config.num_files]:
        waveform = read_audio(path, sample_rate)[:1, : round(config.num_seconds * sample_rate)]
        seeded = torch.Generator().manual_seed(0)
        coded = model.decode(model.encode(waveform[None]), num_samples=waveform.shape[-1], generator=seeded)[0]
        rows.append(
            {
                "log-mel distance": log_mel_distance(coded, waveform, sample_rate),
                "log-mel correlation": log_mel_correlation(coded, waveform, sample_rate),
                "STFT distance": multi_resolution_stft_distance(coded, waveform),
                "level (dB)": level_difference(coded, waveform),
                **denoising_errors(model, waveform),
            }
        )
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}


def main(config: ComparisonConfig) -> dict[str, dict[str, float]]:
    """Train and judge all candidates. Returns the table, best log-mel distance first."""
    table: dict[str, dict[str, float]] = {}
    for name, options in candidate_options(config).items():
        values = judge(train(name, options, config), config)
        table[name] = values | {"steps": float(Progress.load(config.output_dir / name).max_steps or 0)}
        (config.output_dir / "comparison.json").write_text(json.dumps(table, indent=1) + "\n")
    columns = list(next(iter(table.values())))
    print("| candidate | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1))
    for name, values in sorted(table.items(), key=lambda item: item[1]["log-mel distance"]):
        print(f"| {name} | " + " | ".join(f"{values[column]:.3g}" for column in columns) + " |")
    return table


if __name__ == "__main__":
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    main(auto_cli(ComparisonConfig, as_positional=False))
