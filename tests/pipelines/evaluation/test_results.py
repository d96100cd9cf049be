"""Results survive saving, and comparing two of them finds what changed and only that."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.evaluation.report import markdown_table, metric_table
from pipelines.evaluation.results import Curve, EvaluationResult, Metric, SystemResult, compare, is_paired
from pipelines.evaluation.statistics import bootstrap_weights, mean_estimate


def result(gain: float = 0.0, kind: str = "autoencoder", sha256: str = "a", num_items: int = 20) -> EvaluationResult:
    """A codec that is better by ``gain``, beside a baseline that is not."""
    generator = np.random.default_rng(0)
    difficulty, weights = generator.normal(0, 3, size=num_items), bootstrap_weights(num_items, 300, 0)
    noise = np.random.default_rng(1).normal(0, 0.05, size=num_items)
    estimates = {
        "quality": mean_estimate(difficulty + gain + (noise if gain else 0), weights),
        "distance": mean_estimate(5 - difficulty - gain, weights),
    }
    baseline = {"quality": mean_estimate(difficulty - 1, weights)}
    return EvaluationResult(
        kind=kind,
        settings={"seed": 0, "path": Path("music")},
        models={"musicnn": {"source": "wheel", "sha256": sha256}},
        items={str(index): "content" for index in range(num_items)},
        metrics={"quality": Metric("higher", "how good"), "distance": Metric("lower", "how far")},
        systems={
            "codec": SystemResult(estimates, {"0": {"quality": 1.0, "distance": float("nan")}}, {"kbit/s": 11.0}),
            "baseline": SystemResult(baseline),
        },
        curves=[Curve("quality", "steps", "dB", {"codec": [(1.0, estimates["quality"])]})],
    )


def test_a_saved_result_is_the_same_and_saves_to_the_same_bytes(tmp_path: Path) -> None:
    result().save(tmp_path / "a.json")
    loaded = EvaluationResult.load(tmp_path / "a.json")
    loaded.save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert loaded.systems["codec"].estimates["quality"].num_items == 20
    assert np.isnan(loaded.systems["codec"].items["0"]["distance"])
    assert loaded.metrics["distance"].better == "lower"
    assert loaded.curves[0].points["codec"][0][1].value == pytest.approx(
        result().curves[0].points["codec"][0][1].value
    )


def test_a_comparison_finds_the_change_that_hides_in_the_spread() -> None:
    before, after = result(), result(gain=0.3)
    spread = before.systems["codec"].estimates["quality"]
    assert spread.high - spread.low > 1
    changes = {(change.system, change.metric): change for change in compare(before, after)}
    assert set(changes) == {("codec", "quality"), ("codec", "distance")}  # the baseline is equal: no row
    assert changes["codec", "quality"].verdict == "better"
    assert changes["codec", "quality"].change.low > 0.2
    assert changes["codec", "distance"].verdict == "better"
    assert [change.verdict for change in compare(after, before)] == ["worse", "worse"]
    assert is_paired(before, after)
    assert not is_paired(before, result(num_items=10))


def test_noise_is_no_significant_change() -> None:
    before, after = result(), result()
    weights = bootstrap_weights(20, 300, 0)
    values = np.random.default_rng(5).normal(0, 3, size=20)
    after.systems["codec"].estimates["quality"] = mean_estimate(values, weights)
    assert [change.verdict for change in compare(before, after)] == ["no significant change"]


def test_unlike_results_are_not_compared(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'autoencoder' with one of 'probes'"):
        compare(result(), result(kind="probes"))
    with pytest.raises(ValueError, match="different weights of musicnn"):
        compare(result(), result(sha256="b"))
    one, other = result(), result()
    one.settings["reference"], other.settings["reference"] = "a", "b"
    with pytest.raises(ValueError, match="against different references"):
        compare(one, other)
    other = result()
    other.systems = {"another": other.systems["codec"]}
    with pytest.raises(ValueError, match="share no figure: one has the systems codec, baseline, the other another"):
        compare(result(), other)
    assert compare(result(), result()) == []
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ValueError, match=r"not the results\.json of an evaluation"):
        EvaluationResult.load(tmp_path / "x.json")


def test_tables_show_intervals() -> None:
    table = markdown_table(result(), ["quality", "distance"]).splitlines()
    assert table[0] == "|  | quality | distance |"
    assert table[2].startswith("| codec | ")
    assert table[3].endswith(" |  |")  # the baseline has no distance
    assert metric_table(result()).splitlines()[0] == "|  | codec | baseline |"
