"""Settings that both trainings share, and the learning rate that follows from them."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Literal

import yaml


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What both trainings have in common. Every field can be given in the YAML file or on the command line."""

    output_dir: Path
    """Folder for checkpoints, logs and the exported model; a run found there is continued."""
    init_from: Path | None = None
    """Exported model whose weights a new run starts from; it brings its architecture along."""
    max_steps: int
    """Optimiser steps; the schedules end with them, so a run that is stopped early is not a shorter run."""
    max_minutes: float | None = None
    """Save a checkpoint and end after this time, counted from the first step; the same command continues."""
    batch_size: int = 16
    """Items per process and micro-batch."""
    gradient_accumulation_steps: int = 1
    """Micro-batches per optimiser step."""
    learning_rate: float = 1e-4
    """Peak of the learning rate."""
    final_learning_rate: float = 1e-6
    """Where the cosine after the warm-up ends."""
    warmup_steps: int = 10_000
    """Steps of the linear warm-up."""
    adam_beta2: float = 0.999
    """Memory of the squared gradients. Short runs need less: RAdam holds the first 2 / (1 - beta2) steps back."""
    max_grad_norm: float | None = None
    """Gradients are scaled down to this norm; not clipped if not given."""
    max_bad_updates: int = 10
    """An update whose gradient is not finite is left out; so many in a row end the run."""
    ema_decay: float = 0.9999
    """Upper limit of the decay of the averaged weights, which are what is validated and exported."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """Precision of the network calls; weights stay float32."""
    gradient_checkpointing: bool = False
    """Compute the blocks twice instead of keeping what is inside of them: less memory, more time."""
    compile: bool = False
    """Compile the networks with torch.compile: the first steps take minutes, the others less."""
    seed: int = 0
    """Fixes data order, crops and noise."""
    num_workers: int = 2
    """Data-loading processes per training process."""
    log_every: int = 10
    """Steps between log entries."""
    validate_every: int = 1000
    """Steps between validations."""
    checkpoint_every: int = 1000
    """Steps between checkpoints."""
    checkpoints_to_keep: int = 2
    """Older checkpoints are deleted."""
    report_to: str = "tensorboard"
    """Any tracker that Accelerate knows, or none. log.jsonl and panels are written in any case."""

    may_change: ClassVar[frozenset[str]] = frozenset(
        {"output_dir", "init_from", "batch_size", "gradient_accumulation_steps", "max_bad_updates", "compile"}
        | {"gradient_checkpointing", "num_workers", "log_every", "validate_every", "checkpoint_every", "report_to"}
        | {"checkpoints_to_keep", "max_minutes", "model"}
    )
    """Settings that may differ when a run is continued; of the batch only the product over all processes counts."""

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_steps < self.max_steps:
            raise ValueError(f"warmup_steps must be below max_steps, got {self.warmup_steps} and {self.max_steps}")
        counts = ("batch_size", "gradient_accumulation_steps", "log_every", "validate_every", "checkpoint_every")
        for name in (*counts, "checkpoints_to_keep", "max_bad_updates"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_minutes is not None and self.max_minutes <= 0:
            raise ValueError(f"max_minutes must be above 0, got {self.max_minutes}")


def learning_rate_at(step: int, config: TrainingConfig) -> float:
    """Linear warm-up, then a cosine down to ``final_learning_rate``; a pure function of the optimiser step."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / (config.max_steps - config.warmup_steps)
    low, high = config.final_learning_rate, config.learning_rate
    return low + (high - low) * (1 + math.cos(math.pi * progress)) / 2


def save_config(config: TrainingConfig) -> None:
    """Write ``output_dir/config.yaml``: given as ``--config`` it repeats the run."""
    values = json.loads(json.dumps(asdict(config), default=str))
    (config.output_dir / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
