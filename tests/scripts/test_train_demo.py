"""The demo's training: time limits, schedules that follow from the measured speed, and music laid out for it."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from autoencoder import Music2LatentAutoencoder
from latent_diffusion import LatentDiT
from scripts import train_autoencoder
from scripts.demo_dataset.production import PROGRESS, Result, write_audio
from scripts.demo_training import music, stages
from scripts.demo_training.card import model_card
from scripts.demo_training.run import DemoTrainingConfig, Run
from scripts.demo_training.timed import Progress, measured_seconds_per_step, saved_steps, train_for
from scripts.make_demo_dataset import DemoConfig, clip_lengths, growing_folder
from scripts.train_demo import STAGES, main
from tests.scripts.conftest import WEIGHTS, codec_config

ROOT = Path(__file__).resolve().parents[2]
TRAINING = """
import json, pathlib, sys, time
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
folder = pathlib.Path(options["--output_dir"]) / "checkpoints"
end = time.monotonic() + 60 * float(options["--max_minutes"])
step = max((int(path.name[5:]) for path in folder.glob("step-*")), default=0)
while step < int(options["--max_steps"]) and time.monotonic() < end:
    time.sleep(0.02)
    step += 1
    if step % int(options["--checkpoint_every"]) == 0 or step == int(options["--max_steps"]):
        path = folder / f"step-{step:08d}"
        path.mkdir(parents=True)
        (path / "run.json").write_text("{}")
"""
"""Obeys the options of the training scripts, at less than 50 steps a second."""


@pytest.fixture
def training(tmp_path: Path) -> list[str]:
    (tmp_path / "training.py").write_text(TRAINING)
    return [sys.executable, str(tmp_path / "training.py")]


def test_a_training_is_continued_over_calls_to_a_length_that_fits_its_speed(
    training: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    assert not train_for(training, folder, seconds=4.0, limit=30.1, probe_every=200)  # too little to measure the speed
    assert Progress.load(folder).max_steps is None
    assert train_for(training, folder, seconds=4.0, limit=100.0, probe_every=5)
    progress = Progress.load(folder)
    assert progress.seconds_per_step is not None
    assert progress.seconds_per_step >= 0.02
    assert progress.max_steps is not None
    assert progress.max_steps < 4.0 / 0.02
    assert saved_steps(folder)[-1].step == progress.max_steps
    assert not folder.with_name("run_speed").exists()
    assert train_for(["not called again"], folder, seconds=4.0, limit=100.0, probe_every=5)


def test_a_time_limit_stops_a_training_with_a_checkpoint_that_is_continued(chain, tmp_path: Path) -> None:
    stopped = codec_config(chain.music, tmp_path / "run", max_steps=3, max_minutes=1e-9)
    assert train_autoencoder.main(stopped) is None
    assert [one.step for one in saved_steps(tmp_path / "run")] == [1]
    exported = train_autoencoder.main(replace(stopped, max_minutes=None))
    assert exported is not None
    for name, tensor in load_file(exported / WEIGHTS).items():
        assert_close(tensor, load_file(chain.codec / WEIGHTS)[name], rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"max_minutes must be above 0, got 0\.0"):
        replace(stopped, max_minutes=0.0)


def test_a_training_that_fails_is_an_error(tmp_path: Path) -> None:
    failing = [sys.executable, "-c", "raise SystemExit(3)"]
    with pytest.raises(subprocess.CalledProcessError, match="exit status 3"):
        train_for(failing, tmp_path / "run", seconds=4.0, limit=100.0, probe_every=5)


def test_the_speed_leaves_out_start_up_and_the_writing_of_checkpoints(tmp_path: Path) -> None:
    for step, begun in ((20, 1000.0), (40, 1030.0), (60, 1060.0)):  # ten of thirty seconds to write a checkpoint
        folder = tmp_path / f"checkpoints/step-{step:08d}"
        folder.mkdir(parents=True)
        for name, written in (("model.safetensors", begun), ("run.json", begun + 10)):
            (folder / name).write_text("")
            os.utime(folder / name, (written, written))
    assert measured_seconds_per_step(tmp_path) == pytest.approx(1.0)
    shutil.rmtree(tmp_path / "checkpoints/step-00000020")
    shutil.rmtree(tmp_path / "checkpoints/step-00000040")
    with pytest.raises(ValueError, match=r"two checkpoints are needed to tell the speed of .*, found 1"):
        measured_seconds_per_step(tmp_path)


def clip(folder: Path, name: str, piece: str, source: str) -> dict[str, object]:
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).normal(0, 0.1, (8000, 1)).astype(np.float32)
    write_audio(folder / f"{name}.wav", noise, 8000, 0.5)
    row = {"file_name": f"{name}.wav", "captions": ["lofi"], "text": "lofi", "piece": piece, "source": source}
    return row | {"seconds": 1.0}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run whose music is rendered already, with a kit that holds recordings."""
    run = Run(DemoTrainingConfig(work_dir=tmp_path / "work", kit=_kit(tmp_path), delivery_dir=tmp_path / "out"))
    for folder, source, pieces in (
        (run / "rendered", "patterns", "ab"),
        (tmp_path / "kit/recordings", "recordings", "ac"),
    ):
        for split, piece in zip(("train", "test"), pieces, strict=True):
            row = clip(folder / split, f"{source}_{piece}", piece, source)
            (folder / split / "metadata.jsonl").write_text(json.dumps(row) + "\n")
        (folder / "CREDITS.md").write_text(f"{source} by somebody\n")
    return run


def _kit(folder: Path) -> Path:
    (folder / "kit").mkdir()
    return folder / "kit"


def test_music_that_is_still_rendered_is_laid_out_as_far_as_it_is(run: Run) -> None:
    (run / "rendered").rename(growing_folder(run / "rendered"))
    folder = growing_folder(run / "rendered")
    rows = [json.loads((folder / split / "metadata.jsonl").read_text()) for split in ("train", "test")]
    results = [Result(0, "train", rows[0]), Result(1, "test", rows[1]), Result(2, "train", None, "silent")]
    lines = [json.dumps(vars(result)) for result in results]
    (folder / PROGRESS).write_text("\n".join([*lines, '{"index": 3, "spl']))
    assert music.gather(run)
    assert (run / "music/train/patterns_a.wav").is_file()
    assert (run / "music/test/patterns_b.wav").is_file()


def test_what_runs_in_the_background_is_ended_with_its_children(run: Run) -> None:
    run.start(["sh", "-c", "sleep 60 & echo $!; wait"], {})
    log = run / "background.log"
    deadline = time.monotonic() + 10
    while not log.read_text().strip() and time.monotonic() < deadline:
        time.sleep(0.01)
    run.end_background()
    assert run.background is None
    child = Path(f"/proc/{log.read_text().strip()}/cmdline")
    while child.is_file() and child.read_text() and time.monotonic() < deadline:  # a zombie has none
        time.sleep(0.01)
    assert not (child.is_file() and child.read_text())


def test_recordings_count_more_in_the_training_of_the_codec(run: Run) -> None:
    assert music.gather(run)
    names = sorted(path.name for path in (run / "codec_music").iterdir())
    assert names == ["0_patterns_a.wav", *(f"{copy}_recordings_a.wav" for copy in range(3))]
    assert sorted(path.name for path in (run / "music/train").glob("*.wav")) == ["patterns_a.wav", "recordings_a.wav"]
    assert "patterns by somebody" in (run / "music/CREDITS.md").read_text()
    assert "CC-BY-SA-4.0" in (run / "music/LICENSE").read_text()


def test_a_piece_that_is_held_out_anywhere_is_trained_on_nowhere(run: Run) -> None:
    path = run / "rendered/test/metadata.jsonl"
    path.write_text(path.read_text().replace('"piece": "b"', '"piece": "a"'))
    music.gather(run)
    assert (run / "music/train/metadata.jsonl").read_text() == ""
    assert run.report["hours"]["train patterns"] == 0


def test_what_is_finished_is_delivered_in_pieces_that_can_be_joined(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "PIECE_BYTES", 1000)
    stages.deliver(run)
    out = run.config.delivery_dir
    assert out is not None
    assert [path.name for path in out.iterdir()] == ["report.json"]
    (run / "codec/autoencoder").mkdir(parents=True)
    weights = np.random.default_rng(0).bytes(3000)
    (run / "codec/autoencoder/weights").write_bytes(weights)
    stages.deliver(run)
    pieces = sorted(out.glob("demo_model.tar.*"))
    assert max(piece.stat().st_size for piece in pieces) <= 1000
    joined = out / "joined.tar"
    joined.write_bytes(b"".join(piece.read_bytes() for piece in pieces))
    with tarfile.open(joined) as archive:
        assert archive.extractfile("codec/autoencoder/weights").read() == weights


def test_a_call_without_time_left_begins_no_stage(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert not main(DemoTrainingConfig(work_dir=tmp_path / "work", minutes=0.05))
    assert f"before the stage {next(iter(STAGES))!r}; the same command continues" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": 0.0}, r"scale must be above 0, got 0\.0"),
        ({"minutes": -1.0}, r"minutes must be above 0, got -1\.0"),
        ({"recording_weight": 0}, "recording_weight must be at least 1, got 0"),
        ({"kit": Path("nowhere")}, "there is no folder nowhere; unpack demo_kit.tar.xz there"),
    ],
)
def test_a_wrong_config_says_what_is_wrong(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DemoTrainingConfig(**change)


def test_the_card_states_hours_minutes_and_steps() -> None:
    report = {"hours": {"train patterns": 1.5}, "seconds": {"codec": 90.0}, "codec_steps": 700, "hardware": "one GPU"}
    card = model_card(report)
    for line in ("| train patterns | 1.50 |", "| codec | 1.5 | 700 |", "Hardware: one GPU.", "Not measured yet."):
        assert line in card


def test_the_demo_codec_is_within_its_budget() -> None:
    settings = yaml.safe_load((ROOT / "scripts/configs/autoencoder_demo.yaml").read_text())
    with torch.device("meta"), torch.no_grad():
        model = Music2LatentAutoencoder(**settings["model"])
        latents, noise = torch.empty(1, 64, 8), torch.empty(1, 2, 1024, 64)
        with FlopCounterMode(display=False) as counter:
            model.denoiser(noise, torch.ones(1), model.make_maps(latents))
    seconds = 8 / model.latent_rate
    assert model.latent_rate == pytest.approx(10.77, abs=0.01)
    assert sum(parameter.numel() for parameter in model.parameters()) < 8e6
    assert counter.get_total_flops() / seconds < 30e9


def test_the_demo_transformer_has_about_15_million_parameters() -> None:
    settings = yaml.safe_load((ROOT / "scripts/configs/latent_dit_demo.yaml").read_text())
    with torch.device("meta"):
        model = LatentDiT(in_channels=64, cross_attention_dim=384, **settings["model"])
    assert 14e6 < model.num_parameters() < 16e6


def test_the_settings_of_the_demo_music_are_options_of_its_script(tmp_path: Path) -> None:
    settings = yaml.safe_load(music.SETTINGS.read_text())
    sequences = {name: tuple(value) for name, value in settings.items() if isinstance(value, list)}
    config = DemoConfig(output_dir=tmp_path, **(settings | sequences))
    assert max(clip_lengths(config)) == 30
    assert config.minutes == music.FULL_MINUTES
