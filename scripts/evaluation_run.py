"""What the evaluation scripts share: processes that measure, comparing two results, writing them."""

import json
import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from pipelines.evaluation.report import Example, comparison_page, write_report
from pipelines.evaluation.results import EvaluationResult, compare, comparison_table, is_paired

Job = TypeVar("Job")
Answer = TypeVar("Answer")


def measure_all(
    function: Callable[[Job], Answer],
    jobs: Sequence[Job],
    *,
    start: Callable[..., None],
    arguments: tuple[Any, ...],
    num_workers: int,
    name: str,
) -> list[Answer]:
    """Results in the order of the jobs; they do not depend on the number of processes, which have one thread each.

    Args:
        function: of one job; what it needs besides was laid down by ``start`` in its process.
        jobs: all of them.
        start: called once in each process.
        arguments: of ``start``.
        num_workers: processes; with 1 everything happens in this one.
        name: for the progress bar.
    """
    if num_workers == 1:
        start(*arguments)
        return [function(job) for job in tqdm(jobs, desc=name)]
    os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}  # the processes inherit them
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, context, _start_single_threaded, (start, arguments)) as pool:
        first = [pool.submit(function, job).result() for job in jobs[:1]]  # alone: it fills the cache of compiled code
        return [*first, *tqdm(pool.map(function, jobs[1:]), total=len(jobs), initial=len(first), desc=name)]


def _start_single_threaded(start: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    start(*arguments)


def default_workers() -> int:
    """One process per CPU core."""
    return os.cpu_count() or 1


def compare_files(first: Path, second: Path, output_dir: Path) -> Path:
    """Print what differs between two results, with its significance, and write it as comparison.html."""
    one, other = EvaluationResult.load(first), EvaluationResult.load(second)
    changes, paired = compare(one, other), is_paired(one, other)
    print(comparison_table(changes) if changes else "all figures that both have are equal")
    print(f"{'paired' if paired else 'unpaired'} bootstrap, p-values corrected for {len(changes)} comparisons (Holm)")
    page = output_dir / "comparison.html"
    comparison_page(page, changes, str(first), str(second), paired)
    return page


def check_held_out(held_out: str | None, embeddings: Sequence[str]) -> None:
    """The held-out embedding must be one of those that are measured."""
    if held_out is not None and held_out not in embeddings:
        raise ValueError(
            f"held_out_embedding {held_out!r} is not among the embeddings {list(embeddings)}; name one or null"
        )


def refuse(problems: Sequence[str]) -> None:
    """End with all the files that cannot be judged, before the others have cost their time."""
    if problems:
        raise ValueError(
            "\n".join([f"{len(problems)} files cannot be judged; repair them or take them out:", *problems])
        )


def write_evaluation(
    folder: Path,
    result: EvaluationResult,
    *,
    title: str,
    figures: Mapping[str, tuple[str, Figure]],
    examples: Sequence[Example],
    sample_rate: int,
    times: Mapping[str, Mapping[str, float]],
    total_seconds: float,
) -> None:
    """Write results.json, the pictures, report.html and times.json.

    Args:
        folder: where to.
        result: all figures.
        title: of the report.
        figures: pictures by file name, each with its heading in the report.
        examples: for the report.
        sample_rate: of the examples, Hz.
        times: seconds or rates by system; they go beside the results, which are the same at every run.
        total_seconds: of the whole evaluation.
    """
    result.save(folder / "results.json")
    for name, (_, figure) in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=110)
    write_report(
        folder / "report.html",
        result,
        title=title,
        figures=dict(figures.values()),
        examples=examples,
        sample_rate=sample_rate,
        times=times,
    )
    table = {"total seconds": round(total_seconds, 1), "systems": times}
    (folder / "times.json").write_text(json.dumps(table, indent=1) + "\n")
    print(f"report: {folder / 'report.html'}")
