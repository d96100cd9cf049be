"""The training loop, shared by the two training scripts. One step is one optimiser step, whatever the processes."""

import copy
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, set_seed
from diffusers.models.modeling_utils import ModelMixin
from torch import nn
from tqdm.auto import tqdm

from autoencoder.averaging import AveragedWeights
from autoencoder.checkpoints import Checkpoints, StopSignal
from autoencoder.data_order import Batch, TrainingData
from autoencoder.optimization import batches_from, checkpoint_blocks, compile_networks, make_update
from autoencoder.reporting import Faults, LossMeter, Reporter, Stopwatch, Validation, peak_memory
from autoencoder.training_config import TrainingConfig, learning_rate_at, save_config

__all__ = ["Task", "TrainingConfig", "Validation", "fit", "learning_rate_at"]


@dataclass
class Task:
    """One training: what is trained, on what, and how it is judged and exported."""

    model: ModelMixin
    objective: nn.Module
    """``objective(batch, draws, progress)`` -> (loss per item, position in [0, 1] of its noise level)."""
    optimizer: torch.optim.Optimizer
    dataset: TrainingData
    validate: Callable[[ModelMixin, int], Validation]
    """``validate(model, step)``; the model holds the averaged weights, without sharding, in evaluation mode."""
    export: Callable[[ModelMixin], Path]
    """``export(model)`` with the same model; returns the folder it has written."""


def identity(task: Task, config: TrainingConfig, num_processes: int) -> dict[str, Any]:
    """Settings that a continued run must share with the one that is continued, by name."""
    settings = {name: value for name, value in asdict(config).items() if name not in config.may_change}
    # names with an underscore are diffusers' notes; one is a set, in another order in each process
    model = {f"model.{name}": value for name, value in task.model.config.items() if not name.startswith("_")}
    items_per_step = config.batch_size * config.gradient_accumulation_steps * num_processes
    return settings | model | {"items per step": items_per_step, "items in the data set": len(task.dataset)}


def fit(task: Task, config: TrainingConfig) -> Path | None:
    """Train until ``max_steps``, continuing the run found in ``output_dir``.

    Returns:
        Folder of the exported model, or None when a signal or ``max_minutes`` stopped the run early (a
        checkpoint was written).

    Raises:
        ValueError: ``output_dir`` holds a run with other settings.
        FloatingPointError: too many gradients in a row were not finite.
        OSError: the last checkpoint could not be written.
    """
    accelerator = Accelerator(
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        mixed_precision=config.mixed_precision,
        log_with=None if config.report_to == "none" else config.report_to,
        project_config=ProjectConfiguration(
            project_dir=str(config.output_dir), logging_dir=str(config.output_dir / "logs")
        ),
    )
    set_seed(config.seed)
    config.output_dir.mkdir(parents=True, exist_ok=True)
    run = Run(accelerator, task, config)
    accelerator.init_trackers("training")
    accelerator.print(f"from step {run.step} of {config.max_steps} on {accelerator.device}")
    if accelerator.is_main_process:
        save_config(config)
    finished = run.train()
    exported = run.with_average(task.export) if finished else None
    accelerator.end_training()
    return exported


class Run:
    """State of a training between two steps."""

    def __init__(self, accelerator: Accelerator, task: Task, config: TrainingConfig) -> None:
        self.accelerator, self.task, self.config = accelerator, task, config
        torch.backends.cudnn.benchmark = True  # all steps have the same shapes; on CUDA only
        task.model.to(memory_format=torch.channels_last)
        twin = copy.deepcopy(task.model) if accelerator.is_fsdp2 else None
        if config.gradient_checkpointing:
            checkpoint_blocks(task.model)
        if config.compile:
            compile_networks(task.model)
        task.objective, task.optimizer = accelerator.prepare(task.objective, task.optimizer)
        self.average = AveragedWeights(task.model, config.ema_decay, twin)
        accelerator.register_for_checkpointing(self.average)
        self.checkpoints = Checkpoints(
            accelerator,
            config.output_dir / "checkpoints",
            identity(task, config, accelerator.num_processes),
            config.checkpoints_to_keep,
        )
        self.reporter = Reporter(accelerator, config.output_dir)
        self.faults, self.meter, self.clock = Faults(), LossMeter(accelerator.device), Stopwatch()
        notes = self.checkpoints.resume()
        self.step: int = notes["step"]
        self.num_bad: int = notes.get("bad updates in a row", 0)
        if accelerator.is_main_process:
            self.faults.counts.update(notes.get("faults", {}))

    def train(self) -> bool:
        """Steps until the end (True), a signal or the time limit (False)."""
        config, stop = self.config, StopSignal(self.config.max_minutes)
        first_batch = self.step * config.gradient_accumulation_steps
        batches = batches_from(
            first_batch, self.task.dataset, config.seed, config.batch_size, config.num_workers, self.accelerator
        )
        bar = tqdm(
            total=config.max_steps, initial=self.step, unit="step", disable=not self.accelerator.is_main_process
        )
        try:
            with closing(batches), bar:
                while self.step < config.max_steps:
                    self._advance(batches)
                    bar.update()
                    self._report(bar)
                    stopping = self._is_stopping(stop)
                    self._save(stopping)
                    if stopping and self.step < config.max_steps:
                        reason = stop.reason or "a signal in another process"
                        text = f"stopped by {reason} at step {self.step}; the same command continues from there"
                        self.accelerator.print(text)
                        return False
        finally:
            stop.restore()
        if summary := self.faults.of_all_processes(self.accelerator).summary():
            self.accelerator.print(summary)
        return True

    def with_average(self, call: Callable[[ModelMixin], Any]) -> Any:
        """Call with the averaged model, on the main process; every process must come here.

        Validation has other shapes than training, which are not worth compiling.
        """
        with self.average.in_model() as model, torch.compiler.set_stance("force_eager"):
            result = call(model) if self.accelerator.is_main_process else None
        self.accelerator.wait_for_everyone()
        return result

    def _advance(self, batches: Iterator[Batch]) -> None:
        """One optimiser step.

        Raises:
            FloatingPointError: it was one too many without a finite gradient.
        """
        config, task = self.config, self.task
        for group in task.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.step, config)
        self.clock.start()
        update = make_update(
            self.accelerator,
            task.objective,
            task.optimizer,
            batches,
            config.seed,
            self.step / config.max_steps,
            config.max_grad_norm,
        )
        self.step += 1
        self.grad_norm = update.grad_norm
        self.faults.add(update.faults, self.step)
        if update.was_made:
            self.average.update()
            self.meter.add(update.losses, update.levels)
            self.num_bad = 0
        else:
            self.num_bad += 1
            self.faults.add(["the gradient was not finite; the update was left out"], self.step)
        self.clock.stop(update.waited, len(update.losses))
        if self.num_bad >= config.max_bad_updates:
            raise FloatingPointError(
                f"the gradient was not finite in {self.num_bad} steps in a row, the last was step {self.step}; the "
                f"last good checkpoint is in {config.output_dir / 'checkpoints'}. "
                "A lower --learning_rate, a --max_grad_norm or --mixed_precision no are the usual remedies"
            )

    def _report(self, bar: tqdm) -> None:
        config, is_last = self.config, self.step == self.config.max_steps
        if self.step % config.log_every == 0 or is_last:
            values = self.meter.read(self.accelerator)
            values |= {
                "gradient norm": self.grad_norm.item(),
                "learning rate": learning_rate_at(self.step - 1, config),
            }
            values |= {"ema decay": self.average.decay, "peak memory (MiB)": peak_memory(self.accelerator.device)}
            speed = self.clock.read()
            speed["items/s"] *= self.accelerator.num_processes
            self.reporter.log(values | speed | {"faults": self.faults.counts.total()}, self.step)
            bar.set_postfix(loss=f"{values.get('loss', math.nan):.4g}", norm=f"{values['gradient norm']:.3g}")
        if self.step % config.validate_every == 0 or is_last:
            self.with_average(lambda model: self.reporter.validation(self.task.validate(model, self.step), self.step))

    def _is_stopping(self, stop: StopSignal) -> bool:
        """Whether any process was told to stop; several processes ask each other only now and then."""
        if self.accelerator.num_processes == 1:
            return stop.received
        if self.step % self.config.log_every and self.step % self.config.checkpoint_every:
            return False
        if stop.received:
            self.accelerator.set_trigger()
        return bool(self.accelerator.check_trigger())

    def _save(self, stopping: bool) -> None:
        """Write a checkpoint where one is due.

        Raises:
            OSError: it could not be written and there will be no other.
        """
        is_last = self.step == self.config.max_steps
        is_due = self.step % self.config.checkpoint_every == 0 and not self.num_bad
        if not (is_due or is_last or stopping):
            return
        faults = self.faults.of_all_processes(self.accelerator)
        notes = {"bad updates in a row": self.num_bad, "faults": dict(faults.counts)}
        problem = self.checkpoints.save(self.step, notes)
        if not problem:
            return
        newest = self.checkpoints.newest()
        message = (
            f"the checkpoint of step {self.step} could not be written ({problem}); the newest complete one is "
            f"{newest.name if newest else 'none yet'}. Free some space in {self.checkpoints.folder}"
        )
        if is_last or stopping:
            raise OSError(f"{message} and give the same command again")
        tqdm.write(f"{message}; training goes on and tries again at the next checkpoint", file=sys.stderr)
