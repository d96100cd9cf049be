"""A training that has to end by the clock: measure its speed first, then fix the length of its schedules.

The schedules of both trainings are functions of the step and end at ``max_steps``, so a training that is merely
stopped is not a shorter one. A few steps in a folder of their own tell the speed; what is compiled for them is kept by
PyTorch on the disk, so that little is lost.
"""

import json
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

RESERVE_SHARE = 0.06
"""Part of the time kept for the last validation and the export; the second start gets what the first one took."""
START_SECONDS = 30.0
"""A call ends this much earlier: the time limit of a training counts from its first step, after imports and data."""
NUM_PROBES = 4
"""Checkpoints between which the speed is measured."""


@dataclass
class Progress:
    """What is known of a timed training between two calls; ``schedule.json`` in its output folder."""

    seconds_used: float = 0.0
    max_steps: int | None = None
    seconds_per_step: float | None = None
    finished: bool = False

    @classmethod
    def load(cls, folder: Path) -> "Progress":
        """What was saved, or a new one."""
        path = folder / "schedule.json"
        return cls(**json.loads(path.read_text())) if path.is_file() else cls()

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "schedule.json").write_text(json.dumps(asdict(self), indent=1) + "\n")


class Saved(NamedTuple):
    """A checkpoint: its step, and when its first and its last file were written (seconds since the epoch)."""

    step: int
    begun: float
    ended: float


def saved_steps(folder: Path) -> list[Saved]:
    """The checkpoints of a run, oldest first."""
    found = []
    for path in sorted((folder / "checkpoints").glob("step-*[0-9]")):
        written = [file.stat().st_mtime for file in path.rglob("*") if file.is_file()]
        found.append(Saved(int(path.name.removeprefix("step-")), min(written), max(written)))
    return found


def measured_seconds_per_step(folder: Path) -> float:
    """Seconds per step between the checkpoints of a run.

    What lies before the first of them (start-up, compilation) does not count, nor does the writing of them.

    Raises:
        ValueError: there are not two checkpoints.
    """
    saved = saved_steps(folder)
    if len(saved) < 2:
        raise ValueError(f"two checkpoints are needed to tell the speed of {folder}, found {len(saved)}")
    seconds = sum(later.begun - earlier.ended for earlier, later in pairwise(saved))
    return seconds / (saved[-1].step - saved[0].step)


def train_for(command: Sequence[str], folder: Path, *, seconds: float, limit: float, probe_every: int) -> bool:
    """Go on with a training that may take ``seconds`` over all calls, for at most ``limit`` seconds in this one.

    Args:
        command: the training script with all of its options but length, time limit, output and checkpoints.
        folder: its ``output_dir``.
        seconds: time for the whole training, start-up and export included.
        limit: time left to this call.
        probe_every: steps between the checkpoints by which the speed is measured.

    Returns:
        Whether the training is finished and its model exported.

    Raises:
        subprocess.CalledProcessError: the training failed.
    """
    progress, began = Progress.load(folder), time.monotonic()
    if progress.max_steps is None and limit > START_SECONDS:
        _probe(command, folder, progress, seconds, limit - START_SECONDS, probe_every)
    left = limit - (time.monotonic() - began)
    if progress.max_steps is not None and not progress.finished and left > START_SECONDS:
        _continue(command, folder, progress, left - START_SECONDS)
    return progress.finished


def _probe(
    command: Sequence[str], folder: Path, progress: Progress, seconds: float, limit: float, probe_every: int
) -> None:
    """Measure the speed in a folder that is thrown away, and fix the length of the schedules by it."""
    began, clock, scratch = time.monotonic(), time.time(), folder.with_name(f"{folder.name}_speed")
    shutil.rmtree(scratch, ignore_errors=True)
    steps = NUM_PROBES * probe_every
    options = ["--max_steps", str(steps), "--warmup_steps", "1", "--validate_every", str(steps)]
    options += ["--checkpoint_every", str(probe_every), "--checkpoints_to_keep", str(NUM_PROBES)]
    _run(command, scratch, options, limit)
    progress.seconds_used += time.monotonic() - began
    if len(saved_steps(scratch)) == NUM_PROBES:
        progress.seconds_per_step = measured_seconds_per_step(scratch)
        start = saved_steps(scratch)[0].begun - clock - probe_every * progress.seconds_per_step
        rest = max(seconds * (1 - RESERVE_SHARE) - progress.seconds_used - start, 0.0)
        progress.max_steps = max(NUM_PROBES, round(rest / progress.seconds_per_step))
        print(
            f"{1 / progress.seconds_per_step:.2f} steps/s: the schedules end at step {progress.max_steps}", flush=True
        )
    progress.save(folder)
    shutil.rmtree(scratch, ignore_errors=True)


def _continue(command: Sequence[str], folder: Path, progress: Progress, limit: float) -> None:
    """Train on towards the end of the schedules, and export there."""
    assert progress.max_steps is not None
    assert progress.seconds_per_step is not None
    began = time.monotonic()
    # a call that is killed loses what it did since its last checkpoint: a minute at most
    every = max(1, round(60 / progress.seconds_per_step))
    options = ["--max_steps", str(progress.max_steps), "--checkpoint_every", str(every)]
    _run(command, folder, [*options, "--validate_every", str(progress.max_steps)], limit)
    progress.seconds_used += time.monotonic() - began
    saved = saved_steps(folder)
    progress.finished = bool(saved) and saved[-1].step >= progress.max_steps
    progress.save(folder)


def _run(command: Sequence[str], folder: Path, options: Sequence[str], seconds: float) -> None:
    limits = ["--output_dir", str(folder), "--max_minutes", f"{max(seconds, 1) / 60:.4f}"]
    subprocess.run([*command, *options, *limits], check=True)
