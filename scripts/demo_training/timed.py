"""A training that has to end by the clock: measure its speed first, then fix the length of its schedules.

The schedules of both trainings are functions of the step and end at ``max_steps``, so a training that is merely
stopped is not a shorter one. The first part of the time goes to steps at the very start of the schedules; the time
between two checkpoints of it tells how many steps fit, and the training is continued with that ``max_steps``.
"""

import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

PROBE_STEPS = 10_000_000
"""Length of the schedules before it is known: their start."""
PROBE_SHARE = 0.1
"""Part of the time after which the speed is looked at for the first time."""
PROBE_ATTEMPTS = 4
"""Each one lasts longer than the one before; compiling the networks may use up the first."""
RESERVE_SHARE = 0.06
"""Part of the time kept for starting again, the last validation and the export."""


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


def measured_seconds_per_step(folder: Path, since: float = 0.0) -> float | None:
    """Seconds per step between the checkpoints written after ``since``; None if there are not two.

    What lies before the first of them (start-up, compilation) does not count, nor does the writing of them.
    """
    saved = [one for one in saved_steps(folder) if one.begun >= since]
    if len(saved) < 2:
        return None
    seconds = sum(later.begun - earlier.ended for earlier, later in pairwise(saved))
    return seconds / (saved[-1].step - saved[0].step)


def train_for(command: Sequence[str], folder: Path, *, seconds: float, limit: float, probe_every: int) -> bool:
    """Go on with a training that may take ``seconds`` over all calls, for at most ``limit`` seconds in this one.

    Args:
        command: the training script with all of its options but length, time limit, output and checkpoints.
        folder: its ``output_dir``.
        seconds: time for the whole training, start-up and export included.
        limit: time left to this call.
        probe_every: steps between checkpoints while the speed is measured.

    Returns:
        Whether the training is finished and its model exported.

    Raises:
        subprocess.CalledProcessError: the training failed.
    """
    progress, began = Progress.load(folder), time.monotonic()

    def left() -> float:
        return limit - (time.monotonic() - began)

    for attempt in range(PROBE_ATTEMPTS):
        if progress.max_steps is None and left() > 0:
            _probe(command, folder, progress, seconds, min((attempt + 1) * PROBE_SHARE * seconds, left()), probe_every)
    if progress.max_steps is not None and not progress.finished and left() > 0:
        _continue(command, folder, progress, left())
    return progress.finished


def _probe(
    command: Sequence[str], folder: Path, progress: Progress, seconds: float, limit: float, probe_every: int
) -> None:
    """Train at the start of the schedules, and fix their length if the speed could be measured."""
    began, started = time.monotonic(), time.time()
    options = ["--max_steps", str(PROBE_STEPS), "--validate_every", str(PROBE_STEPS)]
    _run(command, folder, [*options, "--checkpoint_every", str(probe_every), "--checkpoints_to_keep", "8"], limit)
    progress.seconds_used += time.monotonic() - began
    progress.seconds_per_step = measured_seconds_per_step(folder, since=started)
    if progress.seconds_per_step is not None:
        done = saved_steps(folder)[-1].step
        rest = max(seconds * (1 - RESERVE_SHARE) - progress.seconds_used, 0.0)
        progress.max_steps = done + max(1, round(rest / progress.seconds_per_step))
        print(
            f"{1 / progress.seconds_per_step:.2f} steps/s: the schedules end at step {progress.max_steps}", flush=True
        )
    progress.save(folder)


def _continue(command: Sequence[str], folder: Path, progress: Progress, limit: float) -> None:
    """Train on towards the end of the schedules, and export there."""
    assert progress.max_steps is not None
    assert progress.seconds_per_step is not None
    began = time.monotonic()
    # a call that is killed loses what it did since its last checkpoint: a minute at most
    every = max(1, round(60 / progress.seconds_per_step))
    options = ["--max_steps", str(progress.max_steps), "--checkpoint_every", str(every)]
    _run(command, folder, [*options, "--validate_every", str(max(1, progress.max_steps // 6))], limit)
    progress.seconds_used += time.monotonic() - began
    progress.finished = saved_steps(folder)[-1].step >= progress.max_steps
    progress.save(folder)


def _run(command: Sequence[str], folder: Path, options: Sequence[str], seconds: float) -> None:
    limits = ["--output_dir", str(folder), "--max_minutes", f"{max(seconds, 1) / 60:.4f}"]
    subprocess.run([*command, *options, *limits], check=True)
