"""Train the same thing in several ways and compare what the held-out data says: a table for an ablation.

    python scripts/compare_recipes.py --training latent_dit --recipe scripts/configs/latent_dit_test.yaml \
        --settings '{data_dir: latents/train, validation_dir: latents/test, autoencoder: codec, max_steps: 300}' \
        --variants '{AdamW: {}, Muon: {optimizer: muon}}' --seeds '[0, 1]' --output_dir outputs/ablation

All runs are made one after the other in one process; given again, the command continues where it was stopped. Leaves
``result.json`` and prints the last validation of every run, and for each variant the mean and spread over the seeds.
"""

import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jsonargparse import auto_cli, set_parsing_settings

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts import train_autoencoder, train_latent_dit

CONFIGS: dict[str, tuple[type, Callable[[Any], Path | None]]] = {
    "autoencoder": (train_autoencoder.AutoencoderTrainingConfig, train_autoencoder.main),
    "latent_dit": (train_latent_dit.LatentDiTTrainingConfig, train_latent_dit.main),
}


@dataclass(frozen=True, kw_only=True)
class ComparisonConfig:
    """One comparison."""

    training: Literal["autoencoder", "latent_dit"]
    """Which of the two trainings."""
    recipe: Path
    """Configuration that all runs start from."""
    output_dir: Path
    """Runs and result."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What all runs change in it, such as data and steps."""
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What each variant changes on top, by its name."""
    seeds: list[int] = field(default_factory=lambda: [0])
    """Each variant is trained with each of these."""


def train(config: ComparisonConfig, name: str, seed: int) -> dict[str, float]:
    """Last validation of one run, which is made or continued where it is not complete."""
    folder = config.output_dir / f"{name.replace('/', '-')}-{seed}"
    kind, main = CONFIGS[config.training]
    settings = config.settings | config.variants[name] | {"seed": seed, "output_dir": str(folder)}
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in settings.items()}
    arguments = [f"--{key}={text}" for key, text in texts.items()]
    if main(auto_cli(kind, args=["--config", str(config.recipe), *arguments], as_positional=False)) is None:
        raise SystemExit("stopped by a signal; the same command continues from there")
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    last = next(line for line in reversed(lines) if any(key.startswith("validation/") for key in line))
    return {key.removeprefix("validation/"): value for key, value in last.items() if key.startswith("validation/")}


def main(config: ComparisonConfig) -> dict[str, list[dict[str, float]]]:
    """Train all runs. Returns the last validations by variant, in the order of the seeds."""
    results: dict[str, list[dict[str, float]]] = {}
    for name in config.variants:
        for seed in config.seeds:
            results.setdefault(name, []).append(train(config, name, seed))
            (config.output_dir / "result.json").write_text(json.dumps(results, indent=1))
    for name, runs in results.items():
        for key in runs[0]:
            values = [run[key] for run in runs]
            spread = f" +- {statistics.stdev(values):.4g}" if len(values) > 1 else ""
            print(f"{name}: {key}: {statistics.mean(values):.4g}{spread}")
    return results


if __name__ == "__main__":
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    main(auto_cli(ComparisonConfig, as_positional=False))
