"""One optimiser step of a training: batches on their way to the device, gradients, and the update or its refusal."""

import math
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from accelerate import Accelerator
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

from autoencoder.averaging import whole
from autoencoder.checkpoints import ignore_stop_signals
from autoencoder.data_order import Batch, PositionedItems, Positions, TrainingData, seed_of
from autoencoder.random_numbers import BatchDraws


@dataclass
class Update:
    """What one optimiser step did."""

    losses: Tensor
    """Of this process's items."""
    levels: Tensor
    """Places of the items in the noise range, in [0, 1]."""
    grad_norm: Tensor
    """Before clipping."""
    was_made: bool
    """False if the gradient was not finite, so that the weights were left as they are."""
    faults: list[str]
    """Reasons for which items were replaced by others."""
    waited: float
    """Seconds spent waiting for data."""


def batches_from(
    first_batch: int, data: TrainingData, seed: int, batch_size: int, num_workers: int, accelerator: Accelerator
) -> Generator[Batch, None, None]:
    """Endless batches of this process on its device, from its batch number ``first_batch`` on.

    The next batch is copied to the device while the last one is used.
    """
    items, device = PositionedItems(data, seed), accelerator.device
    loader = DataLoader(
        items,
        batch_sampler=Positions(batch_size, accelerator.process_index, accelerator.num_processes, first_batch),
        num_workers=num_workers,
        collate_fn=items.collate,
        worker_init_fn=ignore_stop_signals,
        pin_memory=device.type == "cuda" and num_workers > 0,
        prefetch_factor=4 if num_workers else None,
    )
    iterator = iter(loader)
    workers = list(getattr(iterator, "_workers", ()))

    def following() -> Batch:
        positions, batch, skipped = next(iterator)
        return positions, {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}, skipped

    try:
        ahead = following() if device.type == "cuda" else None
        while True:
            batch, ahead = (ahead, following()) if ahead else (following(), None)
            yield batch
    finally:
        del iterator  # asks the workers to end, then sends SIGTERM, which they ignore
        for worker in workers:
            worker.kill()


def make_update(
    accelerator: Accelerator,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[Batch],
    seed: int,
    progress: float,
    max_grad_norm: float | None,
) -> Update:
    """Gradients of as many batches as are accumulated, and the update, unless the gradient is not finite."""
    losses, levels, faults, waited = [], [], [], 0.0
    for _ in range(accelerator.gradient_accumulation_steps):
        started = time.perf_counter()
        positions, batch, problems = next(batches)
        waited += time.perf_counter() - started
        draws = BatchDraws(seed_of(seed, 2), positions, accelerator.device)
        with accelerator.accumulate(objective):
            loss, level = objective(batch, draws, progress)
            accelerator.backward(loss.mean())
            if accelerator.sync_gradients:
                limit = math.inf if max_grad_norm is None else max_grad_norm
                grad_norm = whole(accelerator.clip_grad_norm_(objective.parameters(), limit))
                was_made = _apply(accelerator, optimizer, grad_norm)
        losses.append(loss.detach())
        levels.append(level.detach())
        faults += problems
    return Update(torch.cat(losses), torch.cat(levels), grad_norm, was_made, faults, waited)


def _apply(accelerator: Accelerator, optimizer: torch.optim.Optimizer, grad_norm: Tensor) -> bool:
    """Update the weights if the gradient is finite, which is the same on all processes.

    This is the only place of a step where the CPU waits for the device. By then it has nothing else to do: the next
    batch is under way already, and the decision cannot be made later.
    """
    was_made = bool(grad_norm.isfinite())
    if was_made or accelerator.scaler is not None:  # the scaler of fp16 does the same check and must learn of it
        optimizer.step()
    if accelerator.scaler is not None:
        was_made = was_made and not accelerator.optimizer_step_was_skipped
    optimizer.zero_grad()
    return was_made


def checkpoint_blocks(model: ModelMixin) -> None:
    """Trade time for memory: keep only the inputs of the blocks, and compute the blocks again for gradients."""
    if model._supports_gradient_checkpointing:
        model.enable_gradient_checkpointing()
        return
    for module in model.modules():
        if type(module).__name__ in model._no_split_modules:
            module.forward = partial(checkpoint, module.forward, use_reentrant=False)


def compile_networks(model: ModelMixin) -> None:
    """Compile in place: the repeated blocks where the model names them, else each of its networks."""
    if model._repeated_blocks:
        model.compile_repeated_blocks()
        return
    for network in model.children():
        network.compile()


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Parameters that get gradients."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
