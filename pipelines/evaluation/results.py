"""What an evaluation found, as JSON: every figure with its interval, what it was computed on and with which models.

The same command with the same seed writes the same bytes; times, which never repeat, go to a file of their own.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipelines.evaluation.statistics import Estimate, difference, holm

SIGNIFICANT_DIGITS = 6
Better = Literal["higher", "lower", "zero", "none"]


@dataclass(frozen=True)
class Metric:
    """How a figure is to be read.

    Attributes:
        better: whether higher or lower is better, or nearer to zero, or neither.
        meaning: one sentence with unit and range.
    """

    better: Better
    meaning: str


@dataclass
class SystemResult:
    """Figures of one codec, baseline or set of pieces.

    Attributes:
        estimates: by metric.
        items: figures of each item, by item and metric; NaN where an item has none.
        facts: what is known without measuring, such as bit rates.
    """

    estimates: dict[str, Estimate] = field(default_factory=dict)
    items: dict[str, dict[str, float]] = field(default_factory=dict)
    facts: dict[str, float | str] = field(default_factory=dict)


@dataclass
class Curve:
    """A figure against a number.

    Attributes:
        title: of the picture.
        x_label: what is varied.
        y_label: the metric, with unit.
        points: lines by name, each a list of (x, estimate).
        log_x: whether x is best drawn on a logarithmic axis.
    """

    title: str
    x_label: str
    y_label: str
    points: dict[str, list[tuple[float, Estimate]]]
    log_x: bool = False


@dataclass
class EvaluationResult:
    """A whole evaluation.

    Attributes:
        kind: ``"autoencoder"``, ``"generation"`` or ``"probes"``; only like with like is compared.
        settings: of the run.
        models: source and SHA-256 of every model that measured.
        items: hash of each item's content, so that two results know whether they saw the same.
        metrics: how to read the figures.
        systems: figures by system.
        curves: figures against noise level and number of steps.
        notes: what a reader must know: items left out, too few windows, and so on.
    """

    kind: str
    settings: dict[str, Any]
    models: dict[str, dict[str, str]] = field(default_factory=dict)
    items: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, Metric] = field(default_factory=dict)
    systems: dict[str, SystemResult] = field(default_factory=dict)
    curves: list[Curve] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write as JSON, numbers with six significant digits, NaN as null."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(_plain(asdict(self)), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "EvaluationResult":
        """Read what ``save`` wrote.

        Raises:
            ValueError: the file is no result of an evaluation.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            content["metrics"] = {name: Metric(**metric) for name, metric in content["metrics"].items()}
            content["systems"] = {name: _system(system) for name, system in content["systems"].items()}
            content["curves"] = [Curve(**{**curve, "points": _points(curve["points"])}) for curve in content["curves"]]
            return cls(**content)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not the results.json of an evaluation: {error!r}") from error


@dataclass(frozen=True)
class Change:
    """One figure in two results.

    Attributes:
        system: whose.
        metric: which.
        first: in the first result.
        second: in the second.
        change: second minus first, with interval.
        p_value: of no change, corrected for the number of comparisons (Holm).
        verdict: ``"better"``, ``"worse"``, ``"changed"`` or ``"no significant change"``.
    """

    system: str
    metric: str
    first: float
    second: float
    change: Estimate
    p_value: float
    verdict: str


def compare(first: EvaluationResult, second: EvaluationResult, level: float = 0.05) -> list[Change]:
    """Every figure that both results have and that is not equal, with the significance of its difference.

    On the same items, with the same seed, the bootstrap is paired: both saw the same resampled items.

    Raises:
        ValueError: the results are of different kinds, references, numbers of replicates or embedding weights, or
            share no figure.
    """
    if first.kind != second.kind:
        raise ValueError(f"cannot compare an evaluation of kind {first.kind!r} with one of {second.kind!r}")
    references = {result.settings["reference"] for result in (first, second) if "reference" in result.settings}
    if len(references) > 1:
        raise ValueError("the results were measured against different references; evaluate both with the same one")
    for name in first.models.keys() & second.models.keys():
        if first.models[name]["sha256"] != second.models[name]["sha256"]:
            raise ValueError(
                f"the results were measured with different weights of {name}; evaluate both with the same"
            )
    pairs = [
        (system, metric, first.systems[system].estimates[metric], second.systems[system].estimates[metric])
        for system in first.systems
        if system in second.systems
        for metric in first.systems[system].estimates
        if metric in second.systems[system].estimates
    ]
    if not pairs:
        raise ValueError(
            f"the results share no figure: one has the systems {', '.join(first.systems)}, the other "
            f"{', '.join(second.systems)}"
        )
    pairs = [pair for pair in pairs if pair[2].value != pair[3].value]
    tested = [difference(one, other) for _, _, one, other in pairs]
    corrected = holm([p_value for _, p_value in tested])
    changes = []
    for (system, metric, one, other), (change, _), p_value in zip(pairs, tested, corrected, strict=True):
        verdict = _verdict(first.metrics[metric].better, one.value, other.value, p_value < level)
        changes.append(Change(system, metric, one.value, other.value, change, p_value, verdict))
    return changes


def is_paired(first: EvaluationResult, second: EvaluationResult) -> bool:
    """Whether both saw the same items with the same resampling."""
    return first.items == second.items and first.settings.get("seed") == second.settings.get("seed")


def comparison_table(changes: Sequence[Change]) -> str:
    """The changes as text, one line each."""
    lines = [
        f"{'system':22}{'metric':32}{'first':>11}{'second':>11}{'change':>11}  {'95 % interval':24}{'p':>8}  verdict"
    ]
    for row in changes:
        bounds = f"[{row.change.low:.4g}, {row.change.high:.4g}]"
        lines.append(
            f"{row.system:22}{row.metric:32}{row.first:>11.4g}{row.second:>11.4g}{row.change.value:>+11.4g}  "
            f"{bounds:24}{row.p_value:>8.3g}  {row.verdict}"
        )
    return "\n".join(lines)


def content_hash(values: np.ndarray | str) -> str:
    """Sixteen hex digits of the content of audio or text."""
    data = values.encode() if isinstance(values, str) else np.ascontiguousarray(values).tobytes()
    return hashlib.sha256(data).hexdigest()[:16]


def _verdict(better: Better, first: float, second: float, is_significant: bool) -> str:
    if not is_significant:
        return "no significant change"
    if better == "none":
        return "changed"
    gains = {"higher": second - first, "lower": first - second, "zero": abs(first) - abs(second)}
    return "better" if gains[better] > 0 else "worse"


def _system(content: Mapping[str, Any]) -> SystemResult:
    items = {name: {key: _number(value) for key, value in item.items()} for name, item in content["items"].items()}
    estimates = {name: _estimate(value) for name, value in content["estimates"].items()}
    return SystemResult(estimates, items, dict(content["facts"]))


def _points(content: Mapping[str, Any]) -> dict[str, list[tuple[float, Estimate]]]:
    return {name: [(x, _estimate(value)) for x, value in line] for name, line in content.items()}


def _estimate(content: Mapping[str, Any]) -> Estimate:
    numbers = {name: _number(content[name]) for name in ("value", "low", "high")}
    replicates = tuple(_number(value) for value in content["replicates"])
    return Estimate(**numbers, num_items=content["num_items"], replicates=replicates)


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _plain(value: Any) -> Any:
    """Values that JSON knows, rounded."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.{SIGNIFICANT_DIGITS}g}") if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value
