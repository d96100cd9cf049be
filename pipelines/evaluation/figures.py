"""Pictures of an evaluation: figures with their intervals, and curves. Needs matplotlib."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from pipelines.evaluation.results import Curve, EvaluationResult
from pipelines.evaluation.statistics import Estimate

ARROWS = {"higher": "higher is better", "lower": "lower is better", "zero": "zero is best", "none": ""}
COLUMNS = 4


def overview_figure(result: EvaluationResult, metrics: Sequence[str], skip: Sequence[str] = ()) -> Figure:
    """One panel per metric: a dot with its 95 % interval for each system.

    Args:
        result: of an evaluation.
        metrics: those to show; ones that no system has are left out.
        skip: systems to leave out, such as noise, whose figures would squeeze the others together.

    Raises:
        ValueError: no system has any of the metrics.
    """
    systems = {name: system for name, system in result.systems.items() if name not in skip}
    shown = [name for name in metrics if any(name in system.estimates for system in systems.values())]
    if not shown:
        raise ValueError(f"none of the metrics {list(metrics)} was measured; expected some of {list(result.metrics)}")
    rows = -(-len(shown) // COLUMNS)
    columns = min(COLUMNS, len(shown))
    figure = Figure(figsize=(3.1 * columns, rows * (0.7 + 0.28 * len(systems))), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes, metric in zip(grid.flat, shown, strict=False):
        for row, (name, system) in enumerate(systems.items()):
            if metric in system.estimates:
                colour = "tab:red" if name.startswith(("codec", "generated")) else "tab:blue"
                _dot(axes, system.estimates[metric], row, colour)
        axes.set_yticks(range(len(systems)), list(systems))
        axes.set_title(metric, fontsize=9)
        axes.set_xlabel(ARROWS[result.metrics[metric].better], fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(axis="x", alpha=0.3)
    grid.flat[0].invert_yaxis()
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    return figure


def curve_figure(curves: Sequence[Curve]) -> Figure:
    """Curves beside each other, with their intervals as bands.

    Raises:
        ValueError: there is none.
    """
    if not curves:
        raise ValueError("there is no curve to draw")
    figure = Figure(figsize=(4.2 * len(curves), 3.0), layout="constrained")
    for axes, curve in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves, strict=True):
        for name, line in curve.points.items():
            x = [point[0] for point in line]
            axes.plot(x, [point[1].value for point in line], marker="o", markersize=3, label=name)
            axes.fill_between(x, [point[1].low for point in line], [point[1].high for point in line], alpha=0.2)
        if curve.log_x:
            axes.set_xscale("log")
        if all(float(number).is_integer() for line in curve.points.values() for number, _ in line):
            ticks = sorted({number for line in curve.points.values() for number, _ in line})
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
        axes.set(title=curve.title, xlabel=curve.x_label)
        axes.set_ylabel(curve.y_label, fontsize=8)
        axes.title.set_fontsize(9)
        axes.grid(alpha=0.3)
        if len(curve.points) > 1:
            axes.legend(fontsize=8)
    return figure


def probe_figure(scores: Mapping[str, Mapping[str, Estimate]], chance: Mapping[str, float]) -> Figure:
    """One panel per task, one dot per kind of feature, chance as a line."""
    figure = Figure(figsize=(3.1 * len(scores), 2.6), layout="constrained")
    for axes, (task, features) in zip(
        figure.subplots(1, len(scores), squeeze=False, sharey=True)[0], scores.items(), strict=True
    ):
        for row, value in enumerate(features.values()):
            _dot(axes, value, row, "tab:red" if row < 2 else "tab:blue")
        axes.axvline(chance[task], color="grey", linestyle="--")
        axes.set_yticks(range(len(features)), list(features))
        axes.set_title(task, fontsize=9)
        axes.tick_params(labelsize=8)
    axes.invert_yaxis()
    return figure


def _dot(axes: object, value: Estimate, row: int, colour: str) -> None:
    axes.plot([value.low, value.high], [row, row], color=colour, linewidth=1.5)  # type: ignore[attr-defined]
    axes.plot([value.value], [row], "o", color=colour, markersize=5)  # type: ignore[attr-defined]
