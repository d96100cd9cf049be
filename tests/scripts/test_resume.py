"""Trainings that are killed, stopped by a signal, or continued with other settings; in processes of their own."""

import contextlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from autoencoder.training import TrainingConfig
from scripts import train_autoencoder, train_latent_dit
from tests.scripts.conftest import WEIGHTS, codec_config, dit_config

TRAININGS = ("codec", "transformer")


def run_in_own_group(main: Callable[[TrainingConfig], Path | None], config: TrainingConfig) -> None:
    """So that a signal to the group reaches the training and its data-loading processes, and nobody else."""
    os.setpgrp()
    multiprocessing.set_start_method("fork", force=True)  # as in a script; this process has inherited another method
    with log_of(config).open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        main(config)


def log_of(config: TrainingConfig) -> Path:
    return config.output_dir.with_suffix(".log")


@pytest.fixture
def configure(chain, text_encoder_dir):
    """Settings of one of the two trainings."""

    def configure(training: str, output_dir: Path, **changes) -> TrainingConfig:
        settings = {"max_steps": 8, "checkpoint_every": 2, "num_workers": 2} | changes
        if training == "codec":
            return codec_config(chain.music, output_dir, **settings)
        return dit_config(chain.latents, chain.codec, text_encoder_dir, output_dir, **settings)

    return configure


@pytest.fixture
def start(new_process):
    """Start a training in another process."""
    processes = []

    def start(config: TrainingConfig) -> BaseProcess:
        script = train_autoencoder if type(config) is train_autoencoder.AutoencoderTrainingConfig else train_latent_dit
        processes.append(new_process.Process(target=run_in_own_group, args=(script.main, config)))
        processes[-1].start()
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.join()


def checkpoints(config: TrainingConfig) -> list[str]:
    return sorted(path.name for path in (config.output_dir / "checkpoints").glob("step-*[0-9]"))


def wait_for_checkpoint(config: TrainingConfig, process: BaseProcess, after: int = 0) -> None:
    """Until there is a checkpoint of a later step than ``after``."""
    deadline = time.monotonic() + 150
    while not any(int(name.removeprefix("step-")) > after for name in checkpoints(config)):
        assert process.is_alive(), f"the training ended with exit code {process.exitcode}"
        assert time.monotonic() < deadline, "no checkpoint within a minute"
        time.sleep(0.001)


def weights(config: TrainingConfig) -> dict:
    return load_file(next(config.output_dir.glob(f"[at]*/{WEIGHTS}")))


def finish(process: BaseProcess) -> None:
    process.join(150)
    assert process.exitcode == 0


def state(folder: Path) -> dict:
    """Everything that a checkpoint holds: weights, optimiser and average."""
    average = torch.load(folder / "custom_checkpoint_0.pkl", weights_only=True)
    optimizer = torch.load(folder / "optimizer.bin", weights_only=True)
    for group in optimizer["param_groups"]:
        group.pop("adjust_lr_fn", None)  # of Muon; a text, which assert_close cannot compare
    return {"weights": load_file(folder / "model.safetensors"), "average": average, "optimizer": optimizer}


@pytest.mark.parametrize(("training", "num_kills"), [("codec", 5), ("transformer", 2)])
def test_a_training_killed_at_random_moments_ends_like_an_undisturbed_one(
    training, num_kills, configure, start, tmp_path
):
    settings = {"max_steps": 16 * num_kills, "validate_every": 1000}
    whole = configure(training, tmp_path / "whole", checkpoint_every=1000, **settings)
    killed = configure(training, tmp_path / "killed", **settings)
    undisturbed, chance, reached = start(whole), random.Random(), 0
    for _ in range(num_kills):
        process = start(killed)
        wait_for_checkpoint(killed, process, after=reached)
        time.sleep(chance.uniform(0, 0.1))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        reached = int(checkpoints(killed)[-1].removeprefix("step-"))
    assert not list(killed.output_dir.glob(f"*/{WEIGHTS}"))
    finish(start(killed))
    finish(undisturbed)
    expected = weights(whole)
    for name, tensor in weights(killed).items():
        assert_close(tensor, expected[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("training", "changes"), [("codec", {}), ("transformer", {}), ("transformer", {"optimizer": "muon"})]
)
def test_ten_steps_and_ten_more_are_twenty_bit_for_bit(training, changes, configure, start, tmp_path):
    settings = {"max_steps": 20, "checkpoint_every": 10, "validate_every": 1000} | changes
    whole, halves = (configure(training, tmp_path / name, **settings) for name in ("whole", "halves"))
    finish(start(whole))
    first_half = Path("checkpoints") / "step-00000010"
    shutil.copytree(whole.output_dir / first_half, halves.output_dir / first_half)
    finish(start(halves))
    assert "from step 10 of 20" in log_of(halves).read_text()
    last = Path("checkpoints") / "step-00000020"
    assert_close(state(halves.output_dir / last), state(whole.output_dir / last), rtol=0, atol=0)
    expected = weights(whole)
    for name, tensor in weights(halves).items():
        assert_close(tensor, expected[name], rtol=0, atol=0)


@pytest.mark.parametrize("training", TRAININGS)
def test_the_number_of_data_loading_processes_has_no_influence(training, configure, start, tmp_path):
    alone, helped = (configure(training, tmp_path / str(k), num_workers=k, max_steps=3) for k in (0, 2))
    processes = start(alone), start(helped)
    for process in processes:
        finish(process)
    expected = weights(alone)
    for name, tensor in weights(helped).items():
        assert_close(tensor, expected[name], rtol=0, atol=0)


@pytest.mark.parametrize("whole_group", [False, True])
def test_a_signal_stops_a_training_at_the_step_it_has_reached(configure, start, tmp_path, whole_group):
    config = configure("transformer", tmp_path / "dit", max_steps=100_000, checkpoint_every=3)
    reached = 0
    for _ in range(2):  # the second time, the same command continues what the first has left
        process = start(config)
        wait_for_checkpoint(config, process, after=reached)
        (os.killpg if whole_group else os.kill)(process.pid, signal.SIGTERM)
        finish(process)
        newest = json.loads((config.output_dir / "checkpoints" / checkpoints(config)[-1] / "run.json").read_text())
        assert f"stopped by a signal at step {newest['step']}; the same command" in log_of(config).read_text()
        assert newest["step"] > reached
        reached = newest["step"]
    assert not list(config.output_dir.glob(f"*/{WEIGHTS}"))


def test_a_checkpoint_that_was_not_finished_is_not_continued(configure, tmp_path, capsys):
    config = configure("codec", tmp_path, num_workers=0)
    unfinished = tmp_path / "checkpoints" / "step-00000007.partial"
    unfinished.mkdir(parents=True)
    assert train_autoencoder.main(config)
    assert "from step 0 of 8" in capsys.readouterr().out


def test_only_the_newest_checkpoints_are_kept(configure, tmp_path):
    config = configure("codec", tmp_path, num_workers=0, checkpoints_to_keep=2)
    train_autoencoder.main(config)
    assert checkpoints(config) == ["step-00000006", "step-00000008"]


def test_continuing_with_another_architecture_is_an_error_that_shows_the_difference(configure, tmp_path):
    config = configure("codec", tmp_path, num_workers=0, max_steps=2)
    train_autoencoder.main(config)
    other = configure(
        "codec", tmp_path, num_workers=0, max_steps=2, model=config.model | {"latent_channels": 5, "embedding_dim": 8}
    )
    message = r"started with other settings: model\.embedding_dim was 16, is 8; model\.latent_channels was 4, is 5"
    with pytest.raises(ValueError, match=rf"{message}.* or another --output_dir to start anew"):
        train_autoencoder.main(other)


def test_gradients_that_are_not_finite_stop_the_training_and_leave_no_checkpoint_behind(configure, tmp_path):
    config = configure("transformer", tmp_path, num_workers=0, learning_rate=1e30, max_bad_updates=3)
    message = r"not finite in 3 steps in a row, the last was step \d; the last good checkpoint is in .*checkpoints"
    with pytest.raises(FloatingPointError, match=message):
        train_latent_dit.main(config)
    for name in checkpoints(config):
        for tensor in load_file(config.output_dir / "checkpoints" / name / "model.safetensors").values():
            assert tensor.isfinite().all()


@contextlib.contextmanager
def no_file_larger_than(size: int):
    """As on a full disk, writing fails in the middle of a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_checkpoints_before_it_usable(configure, tmp_path, capsys):
    config = configure("codec", tmp_path / "full", num_workers=0, validate_every=1000)
    whole = configure("codec", tmp_path / "whole", num_workers=0, validate_every=1000)
    train_autoencoder.main(whole)
    shutil.copytree(whole.output_dir / "checkpoints" / "step-00000006", tmp_path / "full/checkpoints/step-00000006")
    with (
        no_file_larger_than(10_000),
        pytest.raises(OSError, match=r"step 8 could not .* step-00000006\. Free"),
    ):
        train_autoencoder.main(config)
    assert "the report could not be written" in capsys.readouterr().err
    assert checkpoints(config) == ["step-00000006"]
    assert not list((config.output_dir / "checkpoints").glob("*.partial"))
    assert train_autoencoder.main(config)
    assert "from step 6 of 8" in capsys.readouterr().out
    assert_close(weights(config), weights(whole), rtol=0, atol=0)


def test_a_training_goes_on_while_the_disk_is_full(configure, tmp_path, capsys):
    config = configure("codec", tmp_path, num_workers=0, max_steps=4, validate_every=1000)
    with no_file_larger_than(10_000), pytest.raises(OSError, match=r"step 4 could not be written .* none yet"):
        train_autoencoder.main(config)
    assert "the checkpoint of step 2 could not be written" in capsys.readouterr().err


def test_continuing_with_other_settings_is_an_error_and_with_other_conveniences_is_not(configure, tmp_path):
    config = configure("codec", tmp_path, num_workers=0, max_steps=2)
    train_autoencoder.main(config)
    with pytest.raises(ValueError, match=r"items per step was 2, is 3; learning_rate was 0\.01, is 0\.02; seed was"):
        train_autoencoder.main(replace(config, seed=1, learning_rate=0.02, batch_size=3))
    assert train_autoencoder.main(replace(config, batch_size=1, gradient_accumulation_steps=2, checkpoints_to_keep=7))
