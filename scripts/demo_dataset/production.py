"""Making the clips of a data set: many processes, a record of what is done, and the files beside the audio."""

import json
import multiprocessing
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tqdm import tqdm

from scripts.demo_dataset.captions import captions
from scripts.demo_dataset.licensing import credits_text, licence_text
from scripts.demo_dataset.pieces import Job, Performance, Studio, UnusableClipError

BLOCK = 65_536
"""Samples written at once: libsndfile crashes on very long blocks of Vorbis."""
PROGRESS = "progress.jsonl"


@dataclass(frozen=True)
class Order:
    """One clip to be made: where it stands in the plan, and how it is kept."""

    index: int
    job: Job
    split: str
    studio: Studio


@dataclass(frozen=True)
class Result:
    """A clip that was made, or (``row`` is None) the reason why not."""

    index: int
    split: str
    row: dict[str, Any] | None
    reason: str = ""


@dataclass(frozen=True)
class Workshop:
    """How audio and captions of a data set are written."""

    folder: Path
    format: str
    ogg_quality: float
    seed: int

    def make(self, order: Order) -> Result:
        """Make one clip and write its audio."""
        try:
            performance = order.job.perform(order.studio)
        except UnusableClipError as error:
            return Result(order.index, order.split, None, str(error))
        file_name = f"{order.job.name}.{self.format}"
        path = self.folder / order.split / file_name
        write_audio(path, performance.waveform, order.studio.sample_rate, self.ogg_quality)
        return Result(order.index, order.split, self._row(order, performance, file_name))

    def _row(self, order: Order, performance: Performance, file_name: str) -> dict[str, Any]:
        """One line of ``metadata.jsonl``."""
        facts, job = performance.facts, order.job
        texts = captions(facts, np.random.default_rng((self.seed, 5, order.index)))
        return {
            "file_name": file_name,
            "text": texts[0],
            "captions": texts,
            "style": facts.style,
            "instruments": list(facts.instruments),
            "tempo": facts.tempo,
            "first_beat": facts.first_beat,
            "key": facts.key,
            "mode": facts.mode,
            "metre": facts.metre,
            "moods": list(facts.moods),
            "effects": list(facts.effects),
            "source": job.source,
            "piece": job.piece,
            "licence": job.licence,
            "credit": job.credit,
            "seconds": order.studio.seconds,
        }


def write_audio(path: Path, waveform: np.ndarray, sample_rate: int, ogg_quality: float) -> None:
    """Write (samples, channels) as 16-bit WAV or FLAC, or as Ogg Vorbis, by the suffix of ``path``."""
    is_ogg = path.suffix == ".ogg"
    with soundfile.SoundFile(
        path,
        "w",
        samplerate=sample_rate,
        channels=waveform.shape[1],
        subtype="VORBIS" if is_ogg else "PCM_16",
        compression_level=1 - ogg_quality if is_ogg else None,
    ) as file:
        for start in range(0, len(waveform), BLOCK):
            file.write(waveform[start : start + BLOCK])


def read_progress(folder: Path) -> dict[int, Result]:
    """Clips that a stopped run had finished, by their place in the plan; a line cut off at the end is left out."""
    path, results = folder / PROGRESS, {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                result = Result(**json.loads(line))
            except ValueError:
                continue
            results[result.index] = result
    return results


def produce(
    orders: Sequence[Order], workshop: Workshop, num_workers: int, deadline: float
) -> tuple[dict[int, Result], bool]:
    """Make what is not made yet, until ``deadline`` (of ``time.monotonic``).

    Returns:
        All results by their place in the plan, and whether these are all the clips.
    """
    results = read_progress(workshop.folder)
    missing = [order for order in orders if order.index not in results and time.monotonic() < deadline]
    if results:
        print(f"going on: {len(results)} of {len(orders)} clips are there")
    with (
        (workshop.folder / PROGRESS).open("a", encoding="utf-8") as file,
        closing(_run(missing, workshop.make, num_workers)) as made,
        tqdm(total=len(orders), initial=len(results), unit="clip") as bar,
    ):
        for result in made:
            results[result.index] = result
            file.write("\n" + json.dumps(vars(result), ensure_ascii=False))  # first, to end a line that was cut off
            file.flush()
            bar.update()
            if time.monotonic() >= deadline:
                break
    return results, len(results) == len(orders)


def _run(orders: Sequence[Order], make: Callable[[Order], Result], num_workers: int) -> Generator[Result, None, None]:
    if num_workers == 1:
        yield from map(make, orders)
        return
    # Spawned, not forked: a copy of a process with threads (BLAS) can hang.
    executor = ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield from executor.map(make, orders, chunksize=4)
    finally:
        executor.shutdown(cancel_futures=True)


def write_texts(folder: Path, rows: Mapping[str, Sequence[dict[str, Any]]], soundfont: Path | None) -> None:
    """Metadata of each split, credits and licence."""
    for split, lines in rows.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in lines)
        (folder / split / "metadata.jsonl").write_text(text, encoding="utf-8")
    everything = [row for lines in rows.values() for row in lines]
    (folder / "CREDITS.md").write_text(credits_text(everything, soundfont), encoding="utf-8")
    (folder / "LICENSE").write_text(licence_text(row["source"] for row in everything), encoding="utf-8")
