"""One HTML page without any other file: tables with intervals, pictures, spectrograms with players, worst first."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import soundfile
from jaxtyping import Float
from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure
from torch import Tensor

from autoencoder.figures import spectrogram_figure
from pipelines.evaluation.results import Change, EvaluationResult
from pipelines.evaluation.statistics import Estimate

MP3_QUALITY = 0.2  # libsndfile: 0 is best
DPI = 90


@dataclass(frozen=True)
class Example:
    """Audio to look at and listen to, beside each other.

    Attributes:
        title: of the row.
        waveforms: (channels, samples) by name, all with one scale of the spectrogram.
        notes: a line below each of them.
    """

    title: str
    waveforms: Mapping[str, Float[Tensor, "channels samples"]]
    notes: Mapping[str, str] = field(default_factory=dict)


def write_report(
    path: Path,
    result: EvaluationResult,
    *,
    title: str,
    figures: Mapping[str, Figure],
    examples: Sequence[Example],
    sample_rate: int,
    times: Mapping[str, Mapping[str, float]] | None = None,
) -> None:
    """Write the page.

    Args:
        path: of the page.
        result: its tables.
        title: its heading.
        figures: pictures by caption.
        examples: worst cases first.
        sample_rate: Hz of the examples.
        times: what the run measured on this machine, by system and name.
    """
    template = Environment(
        loader=PackageLoader("pipelines.evaluation"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    ).get_template("report.html.j2")
    page = template.render(
        title=title,
        result=result,
        tables=[_table(result, names) for names in _column_groups(result)],
        items=_item_tables(result),
        pictures=[(caption, picture(figure)) for caption, figure in figures.items()],
        examples=[_rendered(example, sample_rate) for example in examples],
        times=times or {},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def markdown_table(result: EvaluationResult, metrics: Sequence[str], digits: int = 3) -> str:
    """A table for a README: one row per system, ``value [low, high]``."""
    shown = [name for name in metrics if any(name in system.estimates for system in result.systems.values())]
    has_rate = any("kbit/s per channel" in system.facts for system in result.systems.values())
    head = ["", *(["kbit/s"] if has_rate else []), *shown]
    lines = [head, ["---"] * len(head)]
    for name, system in result.systems.items():
        rate = system.facts.get("kbit/s per channel")
        cells = [f"{rate:.1f}" if isinstance(rate, float) else ""] if has_rate else []
        cells += [cell(system.estimates.get(metric), digits) for metric in shown]
        lines.append([name, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def metric_table(result: EvaluationResult, metrics: Sequence[str] | None = None, digits: int = 3) -> str:
    """The same the other way round, one row per metric: for few systems and many figures."""
    names = [name for name in metrics or result.metrics if any(name in s.estimates for s in result.systems.values())]
    lines = [["", *result.systems], ["---"] * (len(result.systems) + 1)]
    lines += [
        [name, *(cell(system.estimates.get(name), digits) for system in result.systems.values())] for name in names
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: Estimate | None, digits: int = 3) -> str:
    """``value [low, high]``, empty where nothing was measured."""
    if value is None:
        return ""
    numbers = [f"{number:.{digits}g}" for number in (value.value, value.low, value.high)]
    return f"{numbers[0]} [{numbers[1]}, {numbers[2]}]"


def picture(figure: Figure) -> str:
    """A figure as the address of an embedded PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI, format="png")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def player(waveform: Float[Tensor, "channels samples"], sample_rate: int) -> str:
    """Audio as the address of an embedded MP3 of high quality, which every browser plays."""
    buffer = io.BytesIO()
    samples = waveform.clamp(-1, 1).cpu().numpy().T
    soundfile.write(
        buffer, samples, sample_rate, format="MP3", subtype="MPEG_LAYER_III", compression_level=MP3_QUALITY
    )
    return f"data:audio/mpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def comparison_page(path: Path, changes: Sequence[Change], first: str, second: str, paired: bool) -> None:
    """The comparison of two results as a page."""
    template = Environment(loader=PackageLoader("pipelines.evaluation"), autoescape=True).get_template(
        "comparison.html.j2"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    page = template.render(changes=changes, first=first, second=second, paired=paired)
    path.write_text(page, encoding="utf-8")


def _column_groups(result: EvaluationResult, width: int = 6) -> list[list[str]]:
    """The measured metrics in the order of ``result.metrics``, a few per table."""
    names = [name for name in result.metrics if any(name in system.estimates for system in result.systems.values())]
    return [names[start : start + width] for start in range(0, len(names), width)]


def _table(result: EvaluationResult, names: Sequence[str]) -> dict[str, object]:
    rows = []
    for system, content in result.systems.items():
        facts = "; ".join(
            f"{value:.3g} {name}" if isinstance(value, float) else f"{name}: {value}"
            for name, value in content.facts.items()
        )
        rows.append({"name": system, "facts": facts, "cells": [cell(content.estimates.get(name)) for name in names]})
    heads = [(name, result.metrics[name].better, result.metrics[name].meaning) for name in names]
    return {"heads": heads, "rows": rows}


def _item_tables(result: EvaluationResult) -> list[dict[str, object]]:
    tables: list[dict[str, object]] = []
    for system, content in result.systems.items():
        if content.items:
            names = list(next(iter(content.items.values())))
            rows = [(item, [f"{figures[name]:.3g}" for name in names]) for item, figures in content.items.items()]
            tables.append({"name": system, "heads": names, "rows": rows})
    return tables


def _rendered(example: Example, sample_rate: int) -> dict[str, object]:
    figure = spectrogram_figure(example.waveforms, sample_rate, num_columns=len(example.waveforms))
    players = [
        {"name": name, "address": player(waveform, sample_rate), "note": example.notes.get(name, "")}
        for name, waveform in example.waveforms.items()
    ]
    return {"title": example.title, "picture": picture(figure), "players": players}
