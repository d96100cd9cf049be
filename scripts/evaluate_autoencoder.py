"""Evaluate a codec on a folder of audio, beside Opus and the codec's own ceiling: JSON, pictures and an HTML report.

    python scripts/evaluate_autoencoder.py --autoencoder pipelines/demo_model/autoencoder \
        --data_dir scripts/demo_music/test

    python scripts/evaluate_autoencoder.py --compare '[before/results.json, after/results.json]'

Needs ``pip install -e '.[eval]'`` and the weights of the embedding models:
``pip install --no-deps musicnn==0.1.0 basic-pitch==0.4.0``. Without ``--autoencoder`` only the baselines are measured.
Published weights can be judged once convert_music2latent.py has made a codec folder of them.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import auto_cli, set_parsing_settings
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoencoder import Music2LatentAutoencoder
from autoencoder.recordings import Recordings, open_recordings
from pipelines.evaluation.coding import (
    CODING_METRICS,
    FileResult,
    denoising_errors,
    distance_metrics,
    evaluate_waveform,
    noise_level_curve,
    read_excerpt,
    sample_size_note,
    step_curves,
    summarise,
)
from pipelines.evaluation.embeddings import EmbeddingModel, load_embedding
from pipelines.evaluation.figures import curve_figure, overview_figure
from pipelines.evaluation.report import Example, markdown_table
from pipelines.evaluation.results import EvaluationResult
from pipelines.evaluation.systems import Codec, Noise, System, baselines
from scripts.evaluation_run import (
    check_held_out,
    compare_files,
    default_workers,
    measure_all,
    refuse,
    write_evaluation,
)

DEFAULT_RATE = 44_100  # where no codec says otherwise
MIN_SECONDS = 1.0
STEP_METRICS = ("log-mel distance", "SI-SDR (dB)")
RECORDED_SETTINGS = (
    "num_files",
    "seconds",
    "mix_down",
    "num_visqol_files",
    "num_curve_files",
    "held_out_embedding",
    "num_replicates",
    "seed",
)
REPORT_SYSTEMS = ("codec", "Opus 12", "Opus 6")


@dataclass(frozen=True, kw_only=True)
class AutoencoderEvaluationConfig:
    """One evaluation of a codec."""

    autoencoder: Path | None = None
    """Folder of the codec; without it only the baselines are measured."""
    data_dir: str | Path = Path("scripts/demo_music/test")
    """Audio that the codec was not trained on, at its sample rate: a folder, or WebDataset shards."""
    output_dir: Path = Path("outputs/evaluation/autoencoder")
    """Gets results.json, times.json, report.html and PNG pictures."""
    num_files: int = 48
    """So many files, evenly spread over the sorted list."""
    seconds: float = 10.0
    """The middle of each file; shorter files are used whole."""
    mix_down: bool = False
    """Make stereo files mono first."""
    opus_kbps: tuple[float, ...] = (6.0, 8.0, 12.0, 16.0)
    """Bit rates of the Opus baselines, kbit/s per channel."""
    num_inference_steps: tuple[int, ...] = (1, 2, 4)
    """Decoding steps for the curve; one step is what the tables show."""
    num_curve_files: int = 8
    """Files for the curves."""
    num_visqol_files: int = 16
    """Files that ViSQOL judges, 2.5 s each per system."""
    embeddings: tuple[str, ...] = ("musicnn-msd", "basic-pitch")
    """Embedding models of the set distances; see pipelines/evaluation/embeddings.py."""
    held_out_embedding: str | None = "basic-pitch"
    """The one that is never used to select a model; marked in the results."""
    num_replicates: int = 1000
    """Bootstrap samples."""
    num_examples: int = 6
    """Files in the report, the worst log-mel distances of the codec first."""
    seed: int = 0
    """Of the decoding noise and the bootstrap."""
    num_workers: int | None = None
    """Processes, one thread each; one per CPU core if not given, one with CUDA."""
    compare: tuple[Path, Path] | None = None
    """Two results.json to compare instead of evaluating."""


@dataclass
class Bench:
    """What a process needs to evaluate files."""

    codec: Music2LatentAutoencoder | None
    recordings: Recordings
    systems: list[System]
    embeddings: list[EmbeddingModel]
    config: AutoencoderEvaluationConfig

    @property
    def sample_rate(self) -> int:
        """Hz of everything."""
        return self.codec.config.sample_rate if self.codec else DEFAULT_RATE

    @classmethod
    def build(cls, config: AutoencoderEvaluationConfig) -> "Bench":
        """Load all models."""
        codec = None
        if config.autoencoder is not None:
            codec = Music2LatentAutoencoder.from_pretrained(config.autoencoder).eval()
            codec.to("cuda" if torch.cuda.is_available() else "cpu")
        ours: list[System] = [] if codec is None else [Codec(codec)]
        systems = [*ours, *baselines(codec, config.opus_kbps)]
        recordings = open_recordings(config.data_dir, config.output_dir / "shards")
        return cls(codec, recordings, systems, [load_embedding(name) for name in config.embeddings], config)

    def read(self, index: int) -> torch.Tensor:
        """The part of a recording that counts."""
        return read_excerpt(
            self.recordings, index, self.sample_rate, self.config.seconds, mix_down=self.config.mix_down
        )

    def choose(self) -> list[tuple[int, int]]:
        """``num_files`` recordings spread evenly over all, each as (place among the chosen, index)."""
        total = len(self.recordings)
        count = min(self.config.num_files, total)
        return [(place, place * total // count) for place in range(count)]

    def check(self) -> None:
        """Read every recording once, so that a broken one is known before the others have been measured.

        Raises:
            ValueError: some cannot be judged; all of them are named.
        """
        problems = []
        for _, index in self.choose():
            try:
                seconds = self.read(index).shape[-1] / self.sample_rate
            except ValueError as error:
                problems.append(str(error))
                continue
            if seconds < MIN_SECONDS:
                problems.append(f"{self.name(index)} has {seconds:.2f} s; {MIN_SECONDS:g} s is the least")
        refuse(problems)

    def name(self, index: int) -> str:
        """The name of a recording in the results."""
        return str(self.recordings.facts(index)["file_name"])

    def evaluate(self, job: tuple[int, int]) -> tuple[FileResult, dict[int, FileResult], dict[float, float]]:
        """One file: all systems, and for the first files the codec with more steps and at all noise levels."""
        place, index = job
        config, waveform = self.config, self.read(index)

        def measure(systems: Sequence[System], embeddings: Sequence[EmbeddingModel], with_visqol: bool) -> FileResult:
            return evaluate_waveform(
                self.name(index),
                waveform,
                self.sample_rate,
                systems,
                embeddings,
                with_visqol=with_visqol,
                seed=config.seed + place,
            )

        result = measure(self.systems, self.embeddings, place < config.num_visqol_files)
        if self.codec is None or place >= config.num_curve_files:
            return result, {}, {}
        steps = {count: measure([Codec(self.codec, count)], [], False) for count in config.num_inference_steps}
        return result, steps, denoising_errors(self.codec, waveform, config.seed + place)


_bench: Bench | None = None


def _start(config: AutoencoderEvaluationConfig) -> None:
    global _bench
    _bench = Bench.build(config)


def _work(job: tuple[int, int]) -> tuple[FileResult, dict[int, FileResult], dict[float, float]]:
    assert _bench is not None
    return _bench.evaluate(job)


def evaluate_files(config: AutoencoderEvaluationConfig, bench: Bench) -> list[Any]:
    """Results of all recordings."""
    return measure_all(
        _work,
        bench.choose(),
        start=_start,
        arguments=(config,),
        num_workers=config.num_workers or (1 if torch.cuda.is_available() else default_workers()),
        name="files",
    )


def collect(config: AutoencoderEvaluationConfig, bench: Bench, parts: Sequence[Any]) -> EvaluationResult:
    """Figures of all files together."""
    files: list[FileResult] = [part[0] for part in parts]
    names = [model.name for model in bench.embeddings]
    result = EvaluationResult(
        kind="autoencoder",
        settings={
            "data": Path(config.data_dir).name,
            "codec": bench.codec.fingerprint() if bench.codec else "none",
            **{name: getattr(config, name) for name in RECORDED_SETTINGS},
        },
        models={model.name: {"source": model.source, "sha256": model.sha256} for model in bench.embeddings},
        items={file.name: file.content for file in files},
        metrics=CODING_METRICS | distance_metrics(names, config.held_out_embedding),
        systems={
            system.name: summarise(files, system.name, config.num_replicates, config.seed) for system in bench.systems
        },
    )
    result.notes = notes(config, files, names)
    stepped = [(part[1], part[2]) for part in parts if part[1]]
    if stepped:
        by_steps = {
            count: summarise(
                [steps[count] for steps, _ in stepped],
                Codec(bench.codec, count).name,  # type: ignore[arg-type]
                config.num_replicates,
                config.seed,
            )
            for count in config.num_inference_steps
        }
        result.curves = [
            noise_level_curve([errors for _, errors in stepped], config.num_replicates, config.seed),
            *step_curves(by_steps, STEP_METRICS),
        ]
    return result


def notes(config: AutoencoderEvaluationConfig, files: Sequence[FileResult], names: Sequence[str]) -> list[str]:
    """What a reader must know."""
    found = [
        f"{len(files)} files of {Path(config.data_dir).name}, at most {config.seconds:g} s from the middle of each."
    ]
    if len(files) < config.num_files:
        found.append(f"{config.num_files} files were asked for, {len(files)} are there: the intervals are wide.")
    if len(files) > config.num_visqol_files:
        found.append(f"ViSQOL judged the first {config.num_visqol_files} files only.")
    for name in names:
        note = sample_size_note(name, [[file.embeddings[name]["original"] for file in files]])
        found += [note] if note else []
    return found


def times(files: Sequence[FileResult]) -> dict[str, dict[str, float]]:
    """Real-time factors, seconds of audio per second, from medians over the files."""
    table = {}
    for system in files[0].times:
        rows = np.array([file.times[system] for file in files])
        encode, decode = np.median(rows[:, 2] / rows[:, 0]), np.median(rows[:, 2] / rows[:, 1])
        table[system] = {"encode, x real time": float(encode), "decode, x real time": float(decode)}
    return table


def examples(config: AutoencoderEvaluationConfig, bench: Bench, result: EvaluationResult) -> list[Example]:
    """The files that the codec (or else the lowest Opus) codes worst, through some of the systems."""
    judged = bench.systems[0].name if bench.codec else bench.systems[-2].name
    figures = result.systems[judged].items
    worst = sorted(figures, key=lambda name: -figures[name]["log-mel distance"])[: config.num_examples]
    shown = [system for system in bench.systems if system.name in REPORT_SYSTEMS]
    rows = []
    for place, index in bench.choose():
        name = bench.name(index)
        if name not in worst:
            continue
        waveform = bench.read(index)
        coded = {system.name: system(waveform, bench.sample_rate, config.seed + place).waveform for system in shown}
        lines = {
            system: ", ".join(
                f"{metric} {result.systems[system].items[name][metric]:.3g}"
                for metric in ("log-mel distance", "ViSQOL")
                if np.isfinite(result.systems[system].items[name][metric])
            )
            for system in coded
        }
        rows.append(Example(name, {"original": waveform, **coded}, lines))
    return sorted(rows, key=lambda row: worst.index(row.title))


def pictures(result: EvaluationResult) -> dict[str, tuple[str, Figure]]:
    """Pictures by file name, with their headings."""
    shown = [*CODING_METRICS, *(name for name in result.metrics if name[:3] in ("FAD", "KAD"))]
    shown = [name for name in shown if name != "log-mel correlation"]
    quality = overview_figure(result, shown, skip=[Noise().name])
    found = {"quality": ("Figures with 95 % intervals (without noise)", quality)}
    if result.curves:
        found["curves"] = ("Quality against noise level and steps", curve_figure(result.curves))
    return found


def main(config: AutoencoderEvaluationConfig) -> Path:
    """Evaluate and write everything, or compare two results. Returns the JSON file."""
    if config.compare:
        return compare_files(*config.compare, config.output_dir)
    check_held_out(config.held_out_embedding, config.embeddings)
    started = time.perf_counter()
    bench = Bench.build(config)
    bench.check()
    parts = evaluate_files(config, bench)
    result = collect(config, bench, parts)
    write_evaluation(
        config.output_dir,
        result,
        title=f"Codec on {Path(config.data_dir).name}",
        figures=pictures(result),
        examples=examples(config, bench, result),
        sample_rate=bench.sample_rate,
        times=times([part[0] for part in parts]),
        total_seconds=time.perf_counter() - started,
    )
    print(markdown_table(result, [name for name in result.metrics if name != "log-mel correlation"]))
    return config.output_dir / "results.json"


if __name__ == "__main__":
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    main(auto_cli(AutoencoderEvaluationConfig, as_positional=False))
