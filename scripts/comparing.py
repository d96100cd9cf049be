"""What the evaluation scripts share: comparing two results and writing times."""

import json
from collections.abc import Mapping
from pathlib import Path

from pipelines.evaluation.report import comparison_page
from pipelines.evaluation.results import EvaluationResult, compare, comparison_table, is_paired


def compare_files(first: Path, second: Path, output_dir: Path) -> Path:
    """Print what differs between two results, with its significance, and write it as comparison.html."""
    one, other = EvaluationResult.load(first), EvaluationResult.load(second)
    changes, paired = compare(one, other), is_paired(one, other)
    print(comparison_table(changes))
    print(f"{'paired' if paired else 'unpaired'} bootstrap, p-values corrected for {len(changes)} comparisons (Holm)")
    page = output_dir / "comparison.html"
    comparison_page(page, changes, str(first), str(second), paired)
    return page


def write_times(path: Path, measured: Mapping[str, Mapping[str, float]], total_seconds: float) -> None:
    """Times go beside the results, which are the same at every run."""
    path.write_text(json.dumps({"total seconds": round(total_seconds, 1), "systems": measured}, indent=1) + "\n")
