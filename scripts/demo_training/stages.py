"""The stages of the demo's training after its music: codec, latents, transformer, export, evaluation, delivery.

A stage returns whether it is finished; one that is not is called again by the next call of the script.
"""

import io
import shlex
import shutil
import subprocess
import tarfile
import time
from pathlib import Path

import yaml

from latent_diffusion.text import DEFAULT_TEXT_ENCODER
from scripts.demo_training import music
from scripts.demo_training.card import model_card
from scripts.demo_training.run import ROOT, Run
from scripts.demo_training.timed import Progress, train_for
from scripts.save_pipeline import SaveConfig
from scripts.save_pipeline import main as save_pipeline

CODEC_SETTINGS = ROOT / "scripts/configs/autoencoder_demo.yaml"
TRANSFORMER_SETTINGS = ROOT / "scripts/configs/latent_dit_demo.yaml"
MIN_SECONDS = 75.0
"""A training that is scaled down still has to start twice and to make a few steps."""
PIECE_BYTES = 15_000_000
SMALL_VALIDATION = {
    CODEC_SETTINGS: ["--num_validation_files", "1", "--validation_seconds", "1"],
    TRANSFORMER_SETTINGS: ["--num_validation_clips", "2", "--validation_prompts", "[lofi piano beat]"],
}
"""For rehearsals."""


def codec(run: Run) -> bool:
    """Train the codec within its time, or take over the one that was given."""
    if run.config.autoencoder is not None:
        shutil.copytree(run.config.autoencoder, run / "codec/autoencoder", dirs_exist_ok=True)
        return True
    music.start_rendering(run)
    options = ["--data_dir", str(run / "codec_music"), "--validation_dir", str(run / "music/test")]
    command = run.script("train_autoencoder.py", *_scaled(run, CODEC_SETTINGS), *options)
    return _train(run, command, "codec", run.config.codec_minutes)


def encode(run: Run) -> bool:
    """Turn all music into latents."""
    for split in ("train", "test"):
        folder = run / "latents" / split
        if not (folder / "statistics.json").is_file():
            options = ["--data_dir", str(run / "music" / split), "--autoencoder", str(run / "codec/autoencoder")]
            options += ["--output_dir", str(folder), "--mix_down", "true", "--items_per_shard", "250"]
            if not run.call(run.script("encode_dataset.py", *options)):
                return False
    return True


def transformer(run: Run) -> bool:
    """Train the transformer within its time."""
    options = ["--data_dir", str(run / "latents/train"), "--validation_dir", str(run / "latents/test")]
    options += ["--autoencoder", str(run / "codec/autoencoder")]
    options += ["--text_encoder", str(run.part("text_encoder") or DEFAULT_TEXT_ENCODER)]
    command = run.script("train_latent_dit.py", *_scaled(run, TRANSFORMER_SETTINGS), *options)
    return _train(run, command, "dit", run.config.transformer_minutes)


def _scaled(run: Run, settings: Path) -> list[str]:
    """Options of a training, those of a rehearsal scaled down."""
    options = ["--config", str(settings)]
    if run.config.scale < 1:
        values = yaml.safe_load(settings.read_text())
        options += ["--batch_size", str(max(2, round(values["batch_size"] * run.config.scale)))]
        options += ["--warmup_steps", str(max(1, round(values["warmup_steps"] * run.config.scale)))]
        options += ["--num_workers", "0", *SMALL_VALIDATION[settings]]
    if not run.has_gpu:
        options += ["--mixed_precision", "no", "--compile", "false"]
    return options


def _train(run: Run, command: list[str], name: str, minutes: float) -> bool:
    seconds = max(60 * minutes * run.config.scale, MIN_SECONDS)
    probe_every = 50 if run.has_gpu else 1
    finished = train_for(command, run / name, seconds=seconds, limit=run.left, probe_every=probe_every)
    progress = Progress.load(run / name)
    run.report["seconds"][name] = progress.seconds_used
    run.note(**{f"{name}_steps": progress.max_steps, f"{name}_seconds_per_step": progress.seconds_per_step})
    return finished


def export(run: Run) -> bool:
    """Put the pipeline together as it is bundled: half precision, small files, without the text encoder."""
    folder = run / "model"
    shutil.rmtree(folder, ignore_errors=True)
    save_pipeline(
        SaveConfig(
            autoencoder=run / "codec/autoencoder",
            transformer=run / "dit/transformer",
            output_dir=folder,
            text_encoder=DEFAULT_TEXT_ENCODER,
            include_text_encoder=False,
            dtype="float16",
            max_shard_size="15MB",
        )
    )
    shutil.copy(run / "music/CREDITS.md", folder)
    (folder / "README.md").write_text(model_card(run.report), encoding="utf-8")
    return True


def evaluate(run: Run) -> bool:
    """Measure codec and pipeline on held-out music; the results are files in ``work_dir/evaluation``.

    What cannot be measured here (the evaluation's own packages may be missing) does not cost the training's results:
    it is noted with its command, to be run where it can.
    """
    began, failed = time.monotonic(), []
    for command in evaluation_commands(run):
        try:
            if not run.call(command):
                return False
        except subprocess.CalledProcessError:
            failed.append(shlex.join(command[1:]))
            print(f"could not be measured here; elsewhere: python {failed[-1]}")
    run.report["seconds"]["evaluate"] = time.monotonic() - began
    run.note(evaluations_to_do=failed)
    return True


def evaluation_commands(run: Run) -> list[list[str]]:
    """The one place that knows the evaluation scripts."""
    model, test, folder = run / "model", run / "music/test", run / "evaluation"
    codec_options = {"autoencoder": model / "autoencoder", "data_dir": test, "output_dir": folder / "codec"}
    generation_options = {
        "pipeline": model,
        "prompts": test / "metadata.jsonl",
        "reference_dir": test,
        "training_dir": run / "music/train",
        "output_dir": folder / "generation",
    }
    return [
        run.script(name, *(text for key, value in options.items() for text in (f"--{key}", str(value))))
        for name, options in (
            ("evaluate_autoencoder.py", codec_options),
            ("evaluate_generation.py", generation_options),
        )
    ]


def deliver(run: Run) -> None:
    """Put what is finished into ``delivery_dir``: one tar file, cut into pieces that ``cat`` joins again."""
    folder = run.config.delivery_dir
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(run / "report.json", folder)
    for old in folder.glob("demo_model.tar.*"):
        old.unlink()
    # until there is a whole model, the codec, so that a lost machine does not cost its training again
    names = ["model" if (run / "model").is_dir() else "codec/autoencoder", "evaluation"]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in names:
            if (run / name).is_dir():
                archive.add(run / name, arcname=name)
        is_empty = not archive.getmembers()
    data = b"" if is_empty else buffer.getvalue()
    for number, start in enumerate(range(0, len(data), PIECE_BYTES)):
        (folder / f"demo_model.tar.{number:02d}").write_bytes(data[start : start + PIECE_BYTES])
