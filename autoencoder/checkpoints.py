"""Checkpoints of a training run that survive being killed while they are written, and the signal to stop."""

import json
import math
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from accelerate import Accelerator


class Checkpoints:
    """Complete checkpoints of a run, ``folder/step-N``.

    A checkpoint is written under a temporary name and renamed when complete: a killed save is never resumed from.
    """

    def __init__(self, accelerator: Accelerator, folder: Path, model_config: dict[str, Any], num_kept: int) -> None:
        self.accelerator, self.folder, self.num_kept = accelerator, folder, num_kept
        # names with an underscore are diffusers' notes; one is a set, in another order in each process
        public = {name: value for name, value in model_config.items() if not name.startswith("_")}
        self.model_config = json.loads(json.dumps(public, default=str))

    def resume(self) -> int:
        """Load the newest checkpoint, if there is one. Returns the step it had reached.

        Raises:
            ValueError: the checkpoint is of another architecture; the differences are listed.
        """
        found = sorted(self.folder.glob("step-*[0-9]"))
        if not found:
            return 0
        run = json.loads((found[-1] / "run.json").read_text())
        different = {
            key: (run["model"].get(key), self.model_config.get(key))
            for key in run["model"].keys() | self.model_config.keys()
            if run["model"].get(key) != self.model_config.get(key)
        }
        if different:
            lines = "; ".join(f"{key} was {old}, is {new}" for key, (old, new) in sorted(different.items()))
            raise ValueError(
                f"the run in {self.folder.parent} trains another model: {lines}. "
                "Give the old settings to continue it, or another --output_dir to start anew"
            )
        self.accelerator.load_state(str(found[-1]))
        return int(run["step"])

    def save(self, step: int) -> None:
        """Write the state of all processes, then delete the checkpoints that are too old."""
        final = self.folder / f"step-{step:08d}"
        partial = final.with_suffix(".partial")
        if self.accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(partial))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            (partial / "run.json").write_text(json.dumps({"step": step, "model": self.model_config}, indent=1))
            os.sync()  # the rename must not reach the disk before the data
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            for old in sorted(self.folder.glob("step-*[0-9]"))[: -self.num_kept]:
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()


def ignore_stop_signals(_worker: int) -> None:
    """Run in data-loading processes: a signal to the whole group must not end them before the last checkpoint.

    They end with the training process.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


class StopSignal:
    """Turns SIGTERM and SIGINT into a flag, so that the loop can save before it ends; the second one kills.

    The flag is also set ``max_minutes`` after the start, where that is given.
    """

    def __init__(self, max_minutes: float | None = None) -> None:
        self.reason = ""
        self._deadline = math.inf if max_minutes is None else time.monotonic() + 60 * max_minutes
        self._previous = {number: signal.signal(number, self._receive) for number in (signal.SIGTERM, signal.SIGINT)}

    @property
    def received(self) -> bool:
        """Whether to stop; ``reason`` then says why."""
        if not self.reason and time.monotonic() >= self._deadline:
            self.reason = "the time limit"
        return bool(self.reason)

    def _receive(self, *_: object) -> None:
        self.reason = "a signal"
        self.restore()

    def restore(self) -> None:
        """Give the signals back to whoever had them before."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
