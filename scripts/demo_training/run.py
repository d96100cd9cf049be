"""What the stages of the demo's training share: options, time, folders, and commands that end in time."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class DemoTrainingConfig:
    """One training of the demo; the same options continue it."""

    work_dir: Path = ROOT / "outputs/train_demo"
    """Everything that is made on the way; give the same folder to continue."""
    kit: Path | None = None
    """Unpacked kit of scripts/pack_demo_kit.py; without it, what is installed is used."""
    minutes: float | None = None
    """Time for this call; no limit if not given."""
    scale: float = 1.0
    """Scale of the music, of the time for training and of the batches; 0.01 rehearses everything on a CPU."""
    render_minutes: float = 1.0
    """Time for rendering, over all calls; then the codec is trained on what there is. Beside it, a machine with a GPU
    renders on for the transformer."""
    codec_minutes: float = 14.0
    """Time for training the codec, over all calls."""
    transformer_minutes: float = 6.0
    """Time for training the transformer, over all calls."""
    recording_weight: int = 3
    """How often a recorded clip counts as much as a rendered one in the training of the codec."""
    autoencoder: Path | None = None
    """A codec that is trained already, of an earlier run; no other is trained then."""
    delivery_dir: Path | None = None
    """At the end of each call, what is finished is put here as files of at most 15 MB."""

    def __post_init__(self) -> None:
        for name in ("scale", "render_minutes", "codec_minutes", "transformer_minutes"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.minutes is not None and self.minutes <= 0:
            raise ValueError(f"minutes must be above 0, got {self.minutes}")
        if self.recording_weight < 1:
            raise ValueError(f"recording_weight must be at least 1, got {self.recording_weight}")
        if self.kit is not None and not self.kit.is_dir():
            raise ValueError(f"there is no folder {self.kit}; unpack demo_kit.tar.xz there, or leave --kit out")


@dataclass
class Run:
    """A training under way: its options, its clock and its notes in ``work_dir/report.json``."""

    config: DemoTrainingConfig
    started: float = field(default_factory=time.monotonic)
    report: dict[str, Any] = field(default_factory=dict)
    background: subprocess.Popen | None = None

    def __post_init__(self) -> None:
        self.config.work_dir.mkdir(parents=True, exist_ok=True)
        path = self.config.work_dir / "report.json"
        self.report = json.loads(path.read_text()) if path.is_file() else {"seconds": {}, "done": []}
        self.report["hardware"] = f"{torch.cuda.get_device_name() if self.has_gpu else 'CPU'}, {os.cpu_count()} cores"
        self.note()

    def __truediv__(self, name: str) -> Path:
        """A folder of this run."""
        return self.config.work_dir / name

    @property
    def left(self) -> float:
        """Seconds left to this call."""
        if self.config.minutes is None:
            return float(10**9)
        return 60 * self.config.minutes - (time.monotonic() - self.started)

    @property
    def has_gpu(self) -> bool:
        return torch.cuda.is_available()

    def part(self, name: str) -> Path | None:
        """A part of the kit, where there is a kit that has it."""
        path = None if self.config.kit is None else self.config.kit / name
        return path if path is not None and path.exists() else None

    def note(self, **facts: object) -> None:
        """Write facts into the report."""
        self.report |= facts
        (self / "report.json").write_text(json.dumps(self.report, indent=1) + "\n")

    def script(self, name: str, *options: str) -> list[str]:
        """Command line of one of our scripts."""
        return [sys.executable, str(ROOT / "scripts" / name), *options]

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Run a command in the background, in a process group of its own, at low priority."""
        with (self / "background.log").open("a", encoding="utf-8") as log:
            self.background = subprocess.Popen(
                ["nice", "-n", "10", *command],
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def end_background(self) -> None:
        """End it, with all of its processes, whatever it has reached."""
        if self.background is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.background.pid, signal.SIGKILL)
            self.background.wait()
            self.background = None

    def call(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> bool:
        """Run a command, and end it when this call's time is over. Returns whether it came to its end.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        try:
            subprocess.run(command, check=True, timeout=self.left, env={**os.environ, **(environment or {})})
        except subprocess.TimeoutExpired:
            return False
        return True
