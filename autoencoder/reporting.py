"""What a training tells while it runs: losses by noise level, speed, faults, and panels of audio and pictures."""

import json
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from tqdm.auto import tqdm

from autoencoder.audio import write_audio

NUM_BANDS = 4  # the loss is logged in so many equal parts of the time or noise range
MAX_NAMES = 10_000  # faults with a name of their own; more are only counted


@dataclass
class Validation:
    """What a validation found out, for the tracker."""

    scalars: dict[str, float] = field(default_factory=dict)
    audio: dict[str, tuple[Tensor, int]] = field(default_factory=dict)
    """(samples,) in [-1, 1] and its sample rate."""
    figures: dict[str, Any] = field(default_factory=dict)
    """Matplotlib figures."""


class LossMeter:
    """Mean losses since the last reading, over all and by noise level, kept on the device: no step waits for them."""

    def __init__(self, device: torch.device) -> None:
        self._totals = torch.zeros(2, NUM_BANDS, device=device)  # sums, then counts

    def add(self, losses: Tensor, levels: Tensor) -> None:
        """Count items' losses at their places in the noise range, in [0, 1]."""
        bands = (levels * NUM_BANDS).long().clamp(0, NUM_BANDS - 1)
        self._totals.index_add_(1, bands, torch.stack([losses.float(), torch.ones_like(losses.float())]))

    def read(self, accelerator: Accelerator) -> dict[str, float]:
        """Means over the items of all processes, and start again. Empty if there were none."""
        sums, counts = accelerator.reduce(self._totals, "sum").cpu()
        self._totals = torch.zeros_like(self._totals)
        if not counts.any():
            return {}
        values = {"loss": (sums.sum() / counts.sum()).item()}
        for band in counts.nonzero().flatten().tolist():
            name = f"loss/level {band / NUM_BANDS:.2f}-{(band + 1) / NUM_BANDS:.2f}"
            values[name] = (sums[band] / counts[band]).item()
        return values


class Stopwatch:
    """Time spent in steps and in waiting for data since the last reading; validation and saving do not count."""

    def __init__(self) -> None:
        self.started, self.busy, self.waited, self.num_items = time.perf_counter(), 0.0, 0.0, 0

    def start(self) -> None:
        """Begin a step."""
        self.started = time.perf_counter()

    def stop(self, waited: float, num_items: int) -> None:
        """End a step that waited so many seconds for its data."""
        self.busy += time.perf_counter() - self.started
        self.waited += waited
        self.num_items += num_items

    def read(self) -> dict[str, float]:
        """Speed of this process, and start again."""
        values = {"items/s": self.num_items / self.busy, "data wait": self.waited / self.busy}
        self.busy, self.waited, self.num_items = 0.0, 0.0, 0
        return values


class Faults:
    """What could not be used, by its message: said once, counted always."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, reasons: Iterable[str], step: int) -> None:
        """Count faults of a step; a new one is printed."""
        for reason in reasons:
            if reason not in self.counts and len(self.counts) >= MAX_NAMES:
                reason = "others"
            if reason not in self.counts:
                tqdm.write(f"step {step}: skipped: {reason}", file=sys.stderr)
            self.counts[reason] += 1

    def of_all_processes(self, accelerator: Accelerator) -> "Faults":
        """Sum over the processes; every process must call this."""
        total = Faults()
        for counts in gather_object([dict(self.counts)]) if accelerator.num_processes > 1 else [self.counts]:
            total.counts.update(counts)
        return total

    def summary(self) -> str:
        """All faults, the most frequent first; empty if there were none."""
        if not self.counts:
            return ""
        lines = [f"  {count} times: {reason}" for reason, count in self.counts.most_common()]
        return "\n".join([f"{self.counts.total()} items or updates could not be used:", *lines])


def peak_memory(device: torch.device) -> float:
    """Peak memory in MiB: of the device, or of this process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Reporter:
    """Writes to the trackers, to ``log.jsonl`` (one JSON object a line) and to ``panels/``; main process only."""

    def __init__(self, accelerator: Accelerator, folder: Path) -> None:
        self.accelerator, self.folder = accelerator, folder

    def log(self, values: dict[str, float], step: int) -> None:
        """One entry."""
        with self._disk_may_be_full(step):
            self.accelerator.log(values, step=step)
            if self.accelerator.is_main_process:
                with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"step": step} | values) + "\n")

    def validation(self, result: Validation, step: int) -> None:
        """Numbers, audio and pictures of a validation."""
        text = ", ".join(f"{name} {value:.4g}" for name, value in result.scalars.items())
        tqdm.write(f"step {step}: validation: {text}", file=sys.stderr)
        self.log({f"validation/{name}": value for name, value in result.scalars.items()}, step)
        with self._disk_may_be_full(step):
            self._write_panels(result, step)

    @contextmanager
    def _disk_may_be_full(self, step: int) -> Iterator[None]:
        """A report that cannot be written is said to be missing; training goes on."""
        try:
            yield
        except (OSError, RuntimeError) as error:  # soundfile's errors are RuntimeErrors
            tqdm.write(f"step {step}: the report could not be written: {error}", file=sys.stderr)

    def _write_panels(self, result: Validation, step: int) -> None:
        panels = self.folder / "panels" / f"step-{step:08d}"
        if result.audio or result.figures:
            panels.mkdir(parents=True, exist_ok=True)
        for name, (samples, sample_rate) in result.audio.items():
            write_audio(panels / f"{_file_name(name)}.wav", samples[None].float().clamp(-1, 1), sample_rate)
        for name, figure in result.figures.items():
            figure.savefig(panels / f"{_file_name(name)}.png")
        for tracker in self.accelerator.trackers:
            if tracker.name == "tensorboard":
                for name, (samples, sample_rate) in result.audio.items():
                    tracker.writer.add_audio(name, samples, step, sample_rate)
                for name, figure in result.figures.items():
                    tracker.writer.add_figure(name, figure, step)


def _file_name(name: str) -> str:
    """A panel's name as a short file name."""
    return "".join(letter if letter.isalnum() or letter in " .-_" else "-" for letter in name)[:80]
