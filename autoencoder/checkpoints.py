"""Checkpoints of a training run that survive being killed while they are written, and the signal to stop."""

import json
import math
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError

RUN = "run.json"


class Checkpoints:
    """Complete checkpoints of a run, ``folder/step-N``.

    A checkpoint is written under a temporary name, brought to the disk and renamed: a killed save is never resumed
    from, and neither a killed save nor a full disk touches the checkpoints before it.

    Args:
        identity: settings that must not change within a run, by name.
        num_kept: older checkpoints are deleted.
    """

    def __init__(self, accelerator: Accelerator, folder: Path, identity: Mapping[str, Any], num_kept: int) -> None:
        self.accelerator, self.folder, self.num_kept = accelerator, folder, num_kept
        self.identity = json.loads(json.dumps(dict(identity), default=str))

    def newest(self) -> Path | None:
        """The newest complete checkpoint."""
        return max(self.folder.glob("step-*[0-9]"), default=None)

    def resume(self) -> dict[str, Any]:
        """Load the newest checkpoint. Returns its notes with the ``step`` it had reached; step 0 if there is none.

        Raises:
            ValueError: the run was started with other settings; the differences are listed.
        """
        newest = self.newest()
        if newest is None:
            return {"step": 0}
        run = json.loads((newest / RUN).read_text())
        different = {
            key: (run["identity"].get(key), self.identity.get(key))
            for key in run["identity"].keys() | self.identity.keys()
            if run["identity"].get(key) != self.identity.get(key)
        }
        if different:
            lines = "; ".join(f"{key} was {old}, is {new}" for key, (old, new) in sorted(different.items()))
            raise ValueError(
                f"the run in {self.folder.parent} was started with other settings: {lines}. "
                "Give the old settings to continue it, or another --output_dir to start anew"
            )
        self.accelerator.load_state(str(newest))
        return run

    def save(self, step: int, notes: Mapping[str, Any] | None = None) -> str:
        """Write the state of all processes, then delete the checkpoints that are too old.

        Returns:
            Why it could not be written, on every process; empty if it was. The older ones are left as they were then.
        """
        final = self.folder / f"step-{step:08d}"
        partial = final.with_suffix(".partial")
        if self._on_all(final.exists() and "complete already"):
            return ""
        problem = self._on_all(_attempt(self._make_room, partial))
        problem = problem or self._on_all(_attempt(self.accelerator.save_state, str(partial)))
        content = {"step": step} | dict(notes or {}) | {"identity": self.identity}
        problem = problem or self._on_all(_attempt(self._publish, partial, final, content))
        if problem and self.accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        return problem

    def _on_all(self, problem: str | bool) -> str:
        """The problem, if any process has one; all processes must call this, and it brings them together."""
        flag = torch.tensor(float(bool(problem)), device=self.accelerator.device)
        any_failed = self.accelerator.reduce(flag).item() > 0
        return (str(problem) if problem else "another process failed") if any_failed else ""

    def _make_room(self, partial: Path) -> None:
        if self.accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)

    def _publish(self, partial: Path, final: Path, content: dict[str, Any]) -> None:
        if not self.accelerator.is_main_process:
            return
        (partial / RUN).write_text(json.dumps(content, indent=1))
        flush(partial)
        partial.rename(final)
        flush(self.folder)
        for old in sorted(self.folder.glob("step-*[0-9]"))[: -self.num_kept]:
            doomed = old.with_suffix(".partial")  # so that one that was half deleted does not look complete
            old.rename(doomed)
            shutil.rmtree(doomed)


def _attempt(call: Callable[..., object], *args: object) -> str:
    """Call. Returns why the disk refused, or an empty string."""
    try:
        call(*args)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have their own for a full disk
        return str(error).strip() or repr(error)
    return ""


def flush(folder: Path) -> None:
    """Bring a folder and its files to the disk: a rename must not get there before the data."""
    for path in [*(path for path in folder.rglob("*") if path.is_file()), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


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
