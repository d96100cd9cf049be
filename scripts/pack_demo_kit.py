"""Pack what scripts/train_demo.sh needs on a GPU machine without a network into one file of less than 64 MiB.

    apt-get install mma libfluidsynth3 fluidr3mono-gm-soundfont singularity-music   # and other packages of recordings
    pip install -e '.[train,demo,dataset]'
    python scripts/pack_demo_kit.py --output_dir demo_kit

writes ``demo_kit/demo_kit.tar.xz``: Python packages that a machine with PyTorch and transformers usually lacks, the
FluidSynth library with what it links to, a soundfont, the notes of grooves and tunes, the text encoder in half
precision with only the words that captions use, and some recorded music. The parts are kept in ``demo_kit/parts``;
what is there already is not made again, so that a run that was stopped goes on.
"""

import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch
from jsonargparse import auto_cli, set_parsing_settings
from tqdm import tqdm

from latent_diffusion.text import load_text_encoder
from scripts.demo_dataset import grooves, recordings, tunes
from scripts.demo_dataset.pieces import UnusableClipError
from scripts.demo_dataset.scores import read_scores, write_scores
from scripts.demo_dataset.synthesis import find_soundfont
from scripts.make_demo_dataset import DemoConfig
from scripts.make_demo_dataset import main as make_demo_dataset

REQUIREMENTS = ("diffusers", "jsonargparse", "pyfluidsynth", "soundfile", "soxr")
DEPENDENCIES = (
    "cffi",
    "docstring-parser",
    "importlib-metadata",
    "importlib-resources",
    "pycparser",
    "typeshed-client",
)
"""Of the requirements; named because pip is told to fetch no others, least of all another torch."""
PLATFORMS = (*(f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 24, 17)), "manylinux2014_x86_64")
EVERYWHERE = re.compile(r"^(lib(c|m|dl|rt|pthread|util|resolv|stdc\+\+|gcc_s)|ld-linux-x86-64)\.so")
"""Libraries that every Linux has, and that must not be another version than the system's."""
NUMBERS = 1000
"""Captions hold tempos and years: every whole number below this is a word."""


@dataclass(frozen=True, kw_only=True)
class KitConfig:
    """One kit."""

    output_dir: Path = Path("demo_kit")
    """Where the kit is made."""
    soundfont: Path = Path("/usr/share/sounds/sf3/FluidR3Mono_GM.sf3")
    """SoundFont 2 or 3 file."""
    python_version: str = "3.12"
    """Of the machine that the kit is for; x86-64 Linux."""
    constraints: Path = ROOT / "constraints.txt"
    """Versions of the Python packages."""
    num_arrangements: int = 2
    """Progressions of each groove."""
    max_scores: int | None = None
    """At most so many arrangements and so many tunes, for a rehearsal."""
    recording_minutes: float = 8.0
    """Recorded music that is packed; 0 for none."""
    recording_packages: tuple[str, ...] = ()
    """Debian packages it comes from; all of the manifest if empty."""
    max_mebibytes: float = 57.5
    """A larger kit is an error: with the repository itself it has to stay below 64."""
    num_workers: int | None = None
    """Processes; one per CPU core if not given."""


def pack_python(config: KitConfig, folder: Path) -> None:
    """Python packages, unpacked, to be put on PYTHONPATH; torch, numpy and transformers are the machine's own."""
    wheels = folder.with_name("wheels")
    wheels.mkdir(exist_ok=True)
    pinned = dict(re.findall(r"^([\w-]+)(==.*)$", config.constraints.read_text(), re.MULTILINE))
    wanted = [f"{name}{pinned.get(name, '')}" for name in (*REQUIREMENTS, *DEPENDENCIES)]
    platforms = [option for platform in PLATFORMS for option in ("--platform", platform)]
    target = ["--python-version", config.python_version, "--implementation", "cp", *platforms]
    pip = [sys.executable, "-m", "pip"]
    fetch = ["download", "--quiet", "--no-deps", "--only-binary=:all:", *target]
    subprocess.run([*pip, *fetch, "--dest", str(wheels), *wanted], check=True)
    install = ["install", "--quiet", "--no-deps", "--no-index", "--no-compile", "--only-binary=:all:", *target]
    subprocess.run([*pip, *install, "--target", str(folder), *map(str, sorted(wheels.glob("*.whl")))], check=True)


def pack_fluidsynth(_config: KitConfig, folder: Path) -> None:
    """The FluidSynth library and everything that it links to."""
    found = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"libfluidsynth\.so\.3 .*=> (\S+)", found)
    if match is None:
        raise FileNotFoundError("libfluidsynth is not installed: apt-get install libfluidsynth3")
    folder.mkdir()
    linked = subprocess.run(["ldd", match.group(1)], capture_output=True, text=True, check=True).stdout
    for name, path in [("libfluidsynth.so.3", match.group(1)), *re.findall(r"(\S+) => (/\S+)", linked)]:
        if not EVERYWHERE.match(name):
            shutil.copy(Path(path).resolve(), folder / name)


def pack_soundfont(config: KitConfig, path: Path) -> None:
    """The soundfont under its own name, by which its licence is known."""
    path.mkdir()
    soundfont = find_soundfont(config.soundfont)
    shutil.copy(soundfont.resolve(), path / soundfont.name)


def _record(source: grooves.Arrangement | tunes.Tune) -> dict[str, Any] | str:
    try:
        return source.to_record()
    except UnusableClipError as error:
        return str(error)


def pack_scores(config: KitConfig, path: Path) -> None:
    """Notes of all grooves and tunes."""
    arrangements = [one for one in grooves.arrangements() if one.number < config.num_arrangements]
    sources: dict[str, Sequence[grooves.Arrangement | tunes.Tune]] = {
        "grooves": arrangements[: config.max_scores],
        "tunes": tunes.find_tunes()[: config.max_scores],
    }
    records: dict[str, list[dict[str, Any]]] = {}
    with ProcessPoolExecutor(
        config.num_workers or os.cpu_count(), mp_context=multiprocessing.get_context("spawn")
    ) as executor:
        for name, entries in sources.items():
            made = list(tqdm(executor.map(_record, entries, chunksize=8), desc=name, total=len(entries)))
            records[name] = [record for record in made if not isinstance(record, str)]
            if len(records[name]) < len(made):
                print(f"left out {len(made) - len(records[name])} of {len(made)} {name}")
    write_scores(path, records)


def pack_recordings(config: KitConfig, folder: Path) -> None:
    """A data set of recordings as Ogg Vorbis."""
    if config.recording_minutes > 0:
        make_demo_dataset(
            DemoConfig(
                output_dir=folder,
                minutes=config.recording_minutes,
                sources=("recordings",),
                packages=config.recording_packages,
                clip_seconds=20.0,
                channels=1,
                format="ogg",
                ogg_quality=0.3,
                test_fraction=0.1,
                num_workers=config.num_workers,
            )
        )


def caption_words(parts: Path) -> set[str]:
    """Every word that a caption of the demo's music can hold, and more: all words of the code that writes captions."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "scripts/demo_dataset").glob("*.py"))]
    texts += [f"{record['style']} {record['description']}" for record in read_scores(parts / "scores.xz", "grooves")]
    for path in sorted((parts / "recordings").glob("*/metadata.jsonl")):
        texts.append(path.read_text(encoding="utf-8"))
    texts.append(recordings.MANIFEST.read_text())
    texts.append(" ".join(map(str, range(NUMBERS))))
    return {word for text in texts for word in re.findall(r"\w+|[^\w\s]", text)}


def pack_text_encoder(_config: KitConfig, folder: Path) -> None:
    """The default text encoder in half precision; rows of words that no caption holds are zero, and cost nothing."""
    tokenizer, encoder = load_text_encoder()
    words = sorted(caption_words(folder.parent))
    used = {token for word in words for token in tokenizer(word).input_ids} | set(tokenizer.all_special_ids)
    table = encoder.get_input_embeddings().weight
    unused = torch.ones(len(table), dtype=torch.bool)
    unused[sorted(used)] = False
    with torch.no_grad():
        table[unused] = 0
    encoder.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print(f"text encoder: {len(used)} of {len(table)} tokens")


PARTS: dict[str, Callable[[KitConfig, Path], None]] = {
    "python": pack_python,
    "lib": pack_fluidsynth,
    "soundfont": pack_soundfont,
    "scores.xz": pack_scores,
    "recordings": pack_recordings,
    "text_encoder": pack_text_encoder,
}
"""In this order: the text encoder needs the words of what comes before it."""


def make_parts(config: KitConfig, parts: Path) -> None:
    """Make the parts that are not there; each under another name first."""
    parts.mkdir(parents=True, exist_ok=True)
    for name, make in PARTS.items():
        if not (parts / name).exists():
            print(f"{name} ...", flush=True)
            growing = parts / f"{name}.growing" if name != "recordings" else parts / name
            if growing.is_dir():
                shutil.rmtree(growing)
            make(config, growing)
            if growing.exists():
                growing.rename(parts / name)


def write_kit(parts: Path, names: Sequence[str], path: Path) -> None:
    """One xz file of the parts, and how large each of them is in it."""
    with tarfile.open(path.with_suffix(".growing"), "w:xz", preset=6) as archive:
        for name in names:
            if (parts / name).exists():
                archive.add(parts / name, arcname=name)
    path.with_suffix(".growing").rename(path)


def main(config: KitConfig) -> Path:
    """Pack. Returns the file.

    Raises:
        ValueError: the kit is larger than ``max_mebibytes``.
    """
    parts = config.output_dir / "parts"
    make_parts(config, parts)
    path = config.output_dir / "demo_kit.tar.xz"
    write_kit(parts, list(PARTS), path)
    sizes = {name: sum(file.stat().st_size for file in _files(parts / name)) for name in PARTS}
    print("unpacked, in MB: " + json.dumps({name: round(size / 1e6, 1) for name, size in sizes.items()}))
    mebibytes = path.stat().st_size / 2**20
    print(f"{path}: {mebibytes:.1f} MiB")
    if mebibytes > config.max_mebibytes:
        raise ValueError(f"{path} has {mebibytes:.1f} MiB, more than {config.max_mebibytes}; pack fewer recordings")
    return path


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]


if __name__ == "__main__":
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    main(auto_cli(KitConfig, as_positional=False))
