"""The demo's music: rendered, joined with recordings, and laid out for both trainings."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from latent_diffusion.text import load_text_encoder
from scripts.demo_dataset.licensing import licence_text
from scripts.demo_dataset.production import read_progress
from scripts.demo_training.run import ROOT, Run
from scripts.make_demo_dataset import growing_folder

SETTINGS = ROOT / "scripts/demo_training/demo_dataset.yaml"
FULL_MINUTES = 1800.0
MIN_MINUTES = 4.0
"""A rehearsal needs a few clips of each source, some of them held out."""
MIN_SECONDS = 90.0
"""A rehearsal on a CPU needs so long for them."""
PROCESSES_OF_A_TRAINING = 6
"""Processors that rendering leaves to a training beside it."""


def render(run: Run) -> bool:
    """Make the data set, or as much of it as fits the time for rendering; the rest is made beside the codec."""
    used = run.report["seconds"].get("render", 0.0)
    budget = 60 * run.config.render_minutes * run.config.scale - used
    budget = budget if run.config.scale == 1 else max(budget, MIN_SECONDS - used)
    began = time.monotonic()
    run.call(*_rendering(run, max(min(budget, run.left), 1.0)))
    run.report["seconds"]["render"] = used + time.monotonic() - began
    return budget <= run.left or (run / "rendered").is_dir()


def start_rendering(run: Run) -> None:
    """Go on in the background, where that is not finished, on the processors that a training leaves."""
    if not (run / "rendered").is_dir() and run.has_gpu:
        command, environment = _rendering(run, run.left)
        spare = max(1, (os.cpu_count() or 1) - PROCESSES_OF_A_TRAINING)
        run.start([*command, "--num_workers", str(spare)], environment)


def finish_rendering(run: Run) -> bool:
    """End what goes on in the background, and lay all of the music out for the transformer."""
    run.end_background()
    if not (run / "rendered").is_dir():
        command, environment = _rendering(run, 0.01)
        run.call([*command, "--finish_early", "true"], environment)
    return (run / "rendered").is_dir() and gather(run)


def _rendering(run: Run, seconds: float) -> tuple[list[str], dict[str, str]]:
    """Command and environment that go on with the data set for so long."""
    options = ["--config", str(SETTINGS), "--output_dir", str(run / "rendered")]
    options += ["--minutes", str(max(FULL_MINUTES * run.config.scale, MIN_MINUTES))]
    options += ["--max_minutes", f"{seconds / 60:.4f}"]
    if scores := run.part("scores.xz"):
        options += ["--scores", str(scores)]
    environment = {}
    if folder := run.part("soundfont"):
        options += ["--soundfont", str(next(folder.glob("*.sf?")))]
    if library := run.part("lib"):
        environment = {"FLUIDSYNTH_LIBRARY": str(library / "libfluidsynth.so.3"), "LD_LIBRARY_PATH": str(library)}
    return run.script("make_demo_dataset.py", *options), environment


def gather(run: Run) -> bool:
    """Join rendered and recorded music, by hard links, in one folder for each split and one for the codec."""
    sources = [run / "rendered", *([folder] if (folder := run.part("recordings")) else [])]
    rows = {split: [row for source in sources for row in _rows(source, split)] for split in ("train", "test")}
    run.note(captions_with_unknown_words=0)
    held_out = {row["piece"] for row in rows["test"]}
    rows["train"] = [row for row in rows["train"] if row["piece"] not in held_out]
    for split in rows:
        rows[split] = _with_known_words(run, rows[split])
        folder = _new_folder(run / "music" / split)
        for row in rows[split]:
            _link(Path(row.pop("path")), folder / row["file_name"])
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows[split])
        (folder / "metadata.jsonl").write_text(text, encoding="utf-8")
    codec_folder = _new_folder(run / "codec_music")
    for row in rows["train"]:
        copies = run.config.recording_weight if row["source"] == "recordings" else 1
        for copy in range(copies):
            _link(run / "music/train" / row["file_name"], codec_folder / f"{copy}_{row['file_name']}")
    everything = rows["train"] + rows["test"]
    credits = [path.read_text(encoding="utf-8") for source in sources if (path := source / "CREDITS.md").is_file()]
    (run / "music/CREDITS.md").write_text("\n".join(credits), encoding="utf-8")
    (run / "music/LICENSE").write_text(licence_text(row["source"] for row in everything), encoding="utf-8")
    hours = {
        f"{split} {source}": sum(row["seconds"] for row in rows[split] if row["source"] == source) / 3600
        for split in rows
        for source in sorted({row["source"] for row in everything})
    }
    run.note(hours={name: round(value, 3) for name, value in hours.items()})
    return True


def _rows(source: Path, split: str) -> list[dict[str, Any]]:
    """Clips of a data set, or of one that is still growing."""
    if source.is_dir():
        path = source / split / "metadata.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        return [row | {"path": str(source / split / row["file_name"])} for row in map(json.loads, lines)]
    folder = growing_folder(source)
    rows = [result.row for result in read_progress(folder).values() if result.row and result.split == split]
    return [row | {"path": str(folder / split / row["file_name"])} for row in rows]


def _with_known_words(run: Run, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out captions with a word that the kit's text encoder does not hold; they are counted in the report."""
    folder = run.part("text_encoder")
    if folder is None:
        return rows
    tokenizer, encoder = load_text_encoder(str(folder))
    is_known = encoder.get_input_embeddings().weight.abs().sum(1) > 0
    left_out = 0
    for row in rows:
        known = [text for text in row["captions"] if bool(is_known[tokenizer(text).input_ids].all())]
        left_out += len(row["captions"]) - len(known)
        row["captions"] = known
    run.note(captions_with_unknown_words=run.report["captions_with_unknown_words"] + left_out)
    return [row | {"text": row["captions"][0]} for row in rows if row["captions"]]


def _new_folder(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, as the kit may be on
        shutil.copy(source, target)
