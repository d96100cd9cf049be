"""The demo's music: rendered, joined with recordings, and laid out for both trainings."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from latent_diffusion.text import load_text_encoder
from scripts.demo_dataset.licensing import licence_text
from scripts.demo_training.run import ROOT, Run

SETTINGS = ROOT / "scripts/demo_training/demo_dataset.yaml"
FULL_MINUTES = 3600.0
MIN_MINUTES = 4.0
"""A rehearsal needs a few clips of each source, some of them held out."""


def render(run: Run) -> bool:
    """Make the data set, or as much of it as fits the time for rendering."""
    used = run.report["seconds"].get("render", 0.0)
    budget = max(60 * run.config.render_minutes * run.config.scale, 90.0) - used
    allowed = max(min(budget, run.left), 1.0)
    options = ["--config", str(SETTINGS), "--output_dir", str(run / "rendered")]
    options += ["--minutes", str(max(FULL_MINUTES * run.config.scale, MIN_MINUTES))]
    options += ["--max_minutes", f"{allowed / 60:.4f}", "--finish_early", str(budget <= run.left).lower()]
    if scores := run.part("scores.xz"):
        options += ["--scores", str(scores)]
    environment = {}
    if folder := run.part("soundfont"):
        options += ["--soundfont", str(next(folder.glob("*.sf?")))]
    if library := run.part("lib"):
        environment = {"FLUIDSYNTH_LIBRARY": str(library / "libfluidsynth.so.3"), "LD_LIBRARY_PATH": str(library)}
    began = time.monotonic()
    run.call(run.script("make_demo_dataset.py", *options), environment)
    run.report["seconds"]["render"] = used + time.monotonic() - began
    return (run / "rendered").is_dir()


def gather(run: Run) -> bool:
    """Join rendered and recorded music, by hard links, in one folder for each split and one for the codec."""
    sources = [run / "rendered", *([folder] if (folder := run.part("recordings")) else [])]
    rows = {split: [row for source in sources for row in _rows(source / split)] for split in ("train", "test")}
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
    credits = "\n".join((source / "CREDITS.md").read_text(encoding="utf-8") for source in sources)
    (run / "music/CREDITS.md").write_text(credits, encoding="utf-8")
    (run / "music/LICENSE").write_text(licence_text(row["source"] for row in everything), encoding="utf-8")
    hours = {
        f"{split} {source}": sum(row["seconds"] for row in rows[split] if row["source"] == source) / 3600
        for split in rows
        for source in sorted({row["source"] for row in everything})
    }
    run.note(hours={name: round(value, 3) for name, value in hours.items()})
    return True


def _rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines() if folder.is_dir() else []
    return [json.loads(line) | {"path": str(folder / json.loads(line)["file_name"])} for line in lines]


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
    run.note(captions_with_unknown_words=run.report.get("captions_with_unknown_words", 0) + left_out)
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
