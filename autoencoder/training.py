"""The training loop, shared by the two training scripts. One step is one optimiser step, whatever the processes."""

import json
import math
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, set_seed
from diffusers.models.modeling_utils import ModelMixin
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from autoencoder.checkpoints import Checkpoints, StopSignal, ignore_stop_signals
from autoencoder.data_order import Batch, PositionedItems, Positions, TrainingData, seed_of

NUM_BANDS = 4  # the loss is logged in so many equal parts of the time or noise range


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What both trainings have in common. Every field can be given in the YAML file or on the command line."""

    output_dir: Path
    """Folder for checkpoints, logs and the exported model; a run found there is continued."""
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
    ema_decay: float = 0.9999
    """Upper limit of the decay of the averaged weights, which are what is validated and exported."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """Precision of the network calls; weights stay float32."""
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
    """Any tracker that Accelerate knows."""

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_steps < self.max_steps:
            raise ValueError(f"warmup_steps must be below max_steps, got {self.warmup_steps} and {self.max_steps}")
        counts = ("batch_size", "gradient_accumulation_steps", "log_every", "validate_every", "checkpoint_every")
        for name in (*counts, "checkpoints_to_keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_minutes is not None and self.max_minutes <= 0:
            raise ValueError(f"max_minutes must be above 0, got {self.max_minutes}")


@dataclass
class Validation:
    """What a validation found out, for the tracker."""

    scalars: dict[str, float] = field(default_factory=dict)
    audio: dict[str, tuple[Tensor, int]] = field(default_factory=dict)
    """(samples,) in [-1, 1] and its sample rate."""
    figures: dict[str, Any] = field(default_factory=dict)
    """Matplotlib figures."""


@dataclass
class Task:
    """One training: what is trained, on what, and how it is judged and exported."""

    model: ModelMixin
    objective: nn.Module
    """``objective(batch, generators, progress)`` -> (loss per item, position in [0, 1] of its noise level)."""
    optimizer: torch.optim.Optimizer
    dataset: TrainingData
    validate: Callable[[int], Validation]
    export: Callable[[], Path]
    """Both are called with the averaged weights in the model."""


def learning_rate_at(step: int, config: TrainingConfig) -> float:
    """Linear warm-up, then a cosine down to ``final_learning_rate``; a pure function of the optimiser step."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / (config.max_steps - config.warmup_steps)
    low, high = config.final_learning_rate, config.learning_rate
    return low + (high - low) * (1 + math.cos(math.pi * progress)) / 2


def batches_from(
    step: int, data: TrainingData, config: TrainingConfig, accelerator: Accelerator
) -> Generator[Batch, None, None]:
    """Endless batches on the device, from the first one of ``step`` on."""
    items = PositionedItems(data, config.seed)
    first_batch = step * config.gradient_accumulation_steps
    loader = DataLoader(
        items,
        batch_sampler=Positions(config.batch_size, accelerator.process_index, accelerator.num_processes, first_batch),
        num_workers=config.num_workers,
        collate_fn=items.collate,
        worker_init_fn=ignore_stop_signals,
        pin_memory=accelerator.device.type == "cuda",
    )
    iterator = iter(loader)
    workers = list(getattr(iterator, "_workers", ()))
    try:
        while True:
            positions, batch, skipped = next(iterator)
            yield positions, {k: v.to(accelerator.device, non_blocking=True) for k, v in batch.items()}, skipped
    finally:
        del iterator  # asks the workers to end, then sends SIGTERM, which they ignore
        for worker in workers:
            worker.kill()


def train_step(
    accelerator: Accelerator, task: Task, config: TrainingConfig, batches: Iterator[Batch], step: int
) -> tuple[Tensor, Tensor, Tensor, list[str]]:
    """Make one optimiser step. Returns its items' losses and noise levels, the gradient norm, and what was skipped."""
    for group in task.optimizer.param_groups:
        group["lr"] = learning_rate_at(step, config)
    losses, levels, skipped = [], [], []
    for _ in range(config.gradient_accumulation_steps):
        positions, batch, problems = next(batches)
        generators = [
            torch.Generator(accelerator.device).manual_seed(seed_of(config.seed, position, 2))
            for position in positions
        ]
        with accelerator.accumulate(task.objective):
            loss, level = task.objective(batch, generators, step / config.max_steps)
            accelerator.backward(loss.mean())
            if accelerator.sync_gradients:
                limit = math.inf if config.max_grad_norm is None else config.max_grad_norm
                grad_norm = accelerator.clip_grad_norm_(task.objective.parameters(), limit)
            task.optimizer.step()
            task.optimizer.zero_grad()
        losses.append(loss.detach())
        levels.append(level.detach())
        skipped += problems
    return torch.cat(losses), torch.cat(levels), grad_norm, skipped


def loss_by_band(losses: Tensor, levels: Tensor) -> dict[str, float]:
    """Mean loss of the items in each part of the noise range, for the parts that have items."""
    bands = (levels * NUM_BANDS).long().clamp(0, NUM_BANDS - 1)
    return {
        f"loss/level {band / NUM_BANDS:.2f}-{(band + 1) / NUM_BANDS:.2f}": losses[bands == band].mean().item()
        for band in bands.unique().tolist()
    }


def save_config(config: TrainingConfig) -> None:
    """Write ``output_dir/config.yaml``: given as ``--config`` it repeats the run."""
    values = json.loads(json.dumps(asdict(config), default=str))
    (config.output_dir / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def fit(task: Task, config: TrainingConfig) -> Path | None:
    """Train until ``max_steps``, continuing the run found in ``output_dir``.

    Returns:
        Folder of the exported model, or None when a signal or ``max_minutes`` stopped the run early (a checkpoint was
        written).

    Raises:
        ValueError: ``output_dir`` holds a run of another architecture.
        FloatingPointError: the loss is no longer finite.
    """
    accelerator = Accelerator(
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        mixed_precision=config.mixed_precision,
        log_with=config.report_to,
        project_config=ProjectConfiguration(
            project_dir=str(config.output_dir), logging_dir=str(config.output_dir / "logs")
        ),
    )
    set_seed(config.seed)
    config.output_dir.mkdir(parents=True, exist_ok=True)
    ema = EMAModel(task.model.parameters(), decay=config.ema_decay)
    task.objective, task.optimizer = accelerator.prepare(task.objective, task.optimizer)
    ema.to(accelerator.device)
    accelerator.register_for_checkpointing(ema)
    folder = config.output_dir / "checkpoints"
    checkpoints = Checkpoints(accelerator, folder, dict(task.model.config), config.checkpoints_to_keep)
    step = checkpoints.resume()
    accelerator.init_trackers("training")
    accelerator.print(f"from step {step} of {config.max_steps} on {accelerator.device}")
    if accelerator.is_main_process:
        save_config(config)
    stop = StopSignal(config.max_minutes)
    try:
        with closing(batches_from(step, task.dataset, config, accelerator)) as batches:
            finished = _loop(accelerator, task, config, ema, checkpoints, batches, step, stop)
    finally:
        stop.restore()
    exported = _with_average(ema, task.model, task.export) if finished and accelerator.is_main_process else None
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return exported


def _loop(
    accelerator: Accelerator,
    task: Task,
    config: TrainingConfig,
    ema: EMAModel,
    checkpoints: Checkpoints,
    batches: Iterator[Batch],
    step: int,
    stop: StopSignal,
) -> bool:
    """Steps until the end (True), a signal or the time limit (False)."""
    num_skipped = 0
    bar = tqdm(total=config.max_steps, initial=step, unit="step", disable=not accelerator.is_main_process)
    while step < config.max_steps:
        started = time.perf_counter()
        losses, levels, grad_norm, skipped = train_step(accelerator, task, config, batches, step)
        ema.step(task.model.parameters())
        step += 1
        bar.update()
        num_skipped += len(skipped)
        for reason in skipped:
            tqdm.write(f"step {step}: skipped: {reason}", file=sys.stderr)
        if step % config.log_every == 0 or step == config.max_steps:
            losses, levels = accelerator.gather((losses, levels))
            _check_finite(losses, step, config)
            items_per_second = len(losses) / (time.perf_counter() - started)
            values = {"loss": losses.mean().item(), "gradient norm": float(grad_norm), "items/s": items_per_second}
            values |= {"learning rate": learning_rate_at(step - 1, config), "ema decay": ema.cur_decay_value}
            accelerator.log(values | {"skipped items": num_skipped} | loss_by_band(losses, levels), step=step)
            bar.set_postfix(loss=f"{values['loss']:.4g}", norm=f"{values['gradient norm']:.3g}")
        if step % config.validate_every == 0 or step == config.max_steps:
            if accelerator.is_main_process:
                _report(accelerator, _with_average(ema, task.model, partial(task.validate, step)), step)
            accelerator.wait_for_everyone()
        if stop.received:
            accelerator.set_trigger()
        stopping = accelerator.check_trigger()
        if stopping or step % config.checkpoint_every == 0 or step == config.max_steps:
            _check_finite(losses, step, config)
            checkpoints.save(step)
        if stopping and step < config.max_steps:
            accelerator.print(f"stopped by {stop.reason} at step {step}; the same command continues from there")
            return False
    bar.close()
    if num_skipped:
        accelerator.print(
            f"{num_skipped} items could not be used and were replaced by others; the log above names them"
        )
    return True


def _check_finite(losses: Tensor, step: int, config: TrainingConfig) -> None:
    if not losses.isfinite().all():
        raise FloatingPointError(
            f"the loss is not finite at step {step}; the last good checkpoint is in "
            f"{config.output_dir / 'checkpoints'}. "
            "A lower --learning_rate or --mixed_precision no are the usual remedies"
        )


def _with_average(ema: EMAModel, model: ModelMixin, call: Callable[[], Any]) -> Any:
    """Call with the averaged weights in the model."""
    ema.store(model.parameters())
    ema.copy_to(model.parameters())
    model.eval()
    try:
        with torch.no_grad():
            return call()
    finally:
        model.train()
        ema.restore(model.parameters())


def _report(accelerator: Accelerator, validation: Validation, step: int) -> None:
    text = ", ".join(f"{name} {value:.4g}" for name, value in validation.scalars.items())
    tqdm.write(f"step {step}: validation: {text}", file=sys.stderr)
    accelerator.log({f"validation/{name}": value for name, value in validation.scalars.items()}, step=step)
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            for name, (samples, sample_rate) in validation.audio.items():
                tracker.writer.add_audio(name, samples, step, sample_rate)
            for name, figure in validation.figures.items():
                tracker.writer.add_figure(name, figure, step)
