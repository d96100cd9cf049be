"""What can be read from the codec's latents with a linear layer: instruments, tempo class, key, mode, style.

    python scripts/make_demo_dataset.py --output_dir data/probes --minutes 60 --test_fraction 0
    python scripts/probe_latents.py --autoencoder pipelines/demo_model/autoencoder --data_dir data/probes/train

Latents and the wide features in front of the bottleneck are compared with the same encoder before training and with
log-mel spectrograms. The folder is captioned clips (AudioFolder layout) with labels in metadata.jsonl: ``style``,
``tempo``, ``key``, ``mode``, ``instruments``; clips with the same ``piece`` stay on one side of every split.
Needs ``pip install -e '.[eval]'``.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import auto_cli, set_parsing_settings

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoencoder import Music2LatentAutoencoder
from autoencoder.recordings import Recordings, open_recordings
from pipelines.evaluation.coding import read_excerpt
from pipelines.evaluation.figures import probe_figure
from pipelines.evaluation.probes import FEATURES, NUM_FOLDS, clip_vectors, probe, random_encoder, tasks
from pipelines.evaluation.report import markdown_table, write_report
from pipelines.evaluation.results import EvaluationResult, Metric, SystemResult, content_hash
from scripts.evaluation_run import compare_files, default_workers, measure_all


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """One set of probes."""

    autoencoder: Path | None = None
    """Folder of the codec."""
    data_dir: str | Path = Path("scripts/demo_music/train")
    """Captioned clips with labels: a folder with metadata.jsonl, or WebDataset shards."""
    output_dir: Path = Path("outputs/evaluation/probes")
    """Gets results.json, report.html and a PNG picture."""
    seconds: float = 10.0
    """The middle of each clip."""
    num_replicates: int = 1000
    """Bootstrap samples."""
    seed: int = 0
    """Of the folds, the random encoder and the bootstrap."""
    num_workers: int | None = None
    """Processes; one per CPU core if not given, one with CUDA."""
    compare: tuple[Path, Path] | None = None
    """Two results.json to compare instead of probing."""


_state: tuple[ProbeConfig, Recordings, Music2LatentAutoencoder, Music2LatentAutoencoder] | None = None


def _start(config: ProbeConfig) -> None:
    global _state
    model = Music2LatentAutoencoder.from_pretrained(config.autoencoder).eval()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    _state = (config, recordings(config), model.to(device), random_encoder(model, config.seed).to(device))


def _vectors(index: int) -> tuple[str, dict[str, np.ndarray]]:
    assert _state is not None
    config, clips, model, random_model = _state
    sample_rate = model.config.sample_rate
    waveform = read_excerpt(clips, index, sample_rate, config.seconds, mix_down=True)
    return content_hash(waveform.numpy()), clip_vectors(waveform, sample_rate, model, random_model)


def recordings(config: ProbeConfig) -> Recordings:
    """The clips."""
    return open_recordings(config.data_dir, config.output_dir / "shards")


def read_records(clips: Recordings, source: str | Path) -> dict[int, dict[str, Any]]:
    """Labels of the clips that have some, by index.

    Raises:
        ValueError: none has.
    """
    records = {index: clips.facts(index) for index in range(len(clips))}
    labelled = {index: facts for index, facts in records.items() if set(facts) - {"file_name"}}
    if not labelled:
        raise ValueError(f"no clip of {source} has labels; make_demo_dataset.py writes them, into metadata.jsonl")
    return labelled


def collect(
    config: ProbeConfig,
    codec: Music2LatentAutoencoder,
    records: Sequence[dict[str, Any]],
    measured: Sequence[tuple[str, dict[str, np.ndarray]]],
) -> EvaluationResult:
    """Train and judge a probe for each task and kind of feature."""
    found = tasks(records)
    if not found:
        raise ValueError(
            f"the {len(records)} clips of {config.data_dir} have no label with two classes of five clips; add clips"
        )
    groups = [str(record.get("piece", record["file_name"])) for record in records]
    result = EvaluationResult(
        kind="probes",
        settings={
            "data": Path(config.data_dir).name,
            "codec": codec.fingerprint(),
            "seconds": config.seconds,
            "folds": NUM_FOLDS,
            "seed": config.seed,
        },
        items={record["file_name"]: content for record, (content, _) in zip(records, measured, strict=True)},
        systems={name: SystemResult() for name in FEATURES},
    )
    for task in found:
        for name in FEATURES:
            vectors = np.stack([vector[name] for _, vector in measured])
            score, chance = probe(task, vectors, groups, config.num_replicates, config.seed)
            result.systems[name].estimates[task.name] = score
            result.systems[name].facts["dimensions"] = str(vectors.shape[1])
        result.metrics[task.name] = Metric("higher", f"{task.score} of a linear probe; chance is {chance:.3g}")
        result.settings[f"chance, {task.name}"] = chance
    result.notes = [f"{len(records)} clips, {NUM_FOLDS} folds, the clips of a piece on one side."]
    return result


def main(config: ProbeConfig) -> Path:
    """Probe and write everything, or compare two results. Returns the JSON file."""
    if config.compare:
        return compare_files(*config.compare, config.output_dir)
    if config.autoencoder is None:
        raise ValueError("pass --autoencoder, the folder of the codec whose latents are probed")
    records = read_records(recordings(config), config.data_dir)
    measured = measure_all(
        _vectors,
        list(records),
        start=_start,
        arguments=(config,),
        num_workers=config.num_workers or (1 if torch.cuda.is_available() else default_workers()),
        name="clips",
    )
    codec = Music2LatentAutoencoder.from_pretrained(config.autoencoder)
    result = collect(config, codec, list(records.values()), measured)
    result.save(config.output_dir / "results.json")
    scores = {
        task: {name: system.estimates[task] for name, system in result.systems.items()} for task in result.metrics
    }
    chance = {task: result.settings[f"chance, {task}"] for task in result.metrics}
    figure = probe_figure(scores, chance)
    figure.savefig(config.output_dir / "probes.png", dpi=110)
    write_report(
        config.output_dir / "report.html",
        result,
        title=f"Linear probes on {Path(config.data_dir).name}",
        figures={"Scores with 95 % intervals; the dashed line is chance": figure},
        examples=[],
        sample_rate=0,
    )
    print(markdown_table(result, list(result.metrics)))
    print(f"report: {config.output_dir / 'report.html'}")
    return config.output_dir / "results.json"


if __name__ == "__main__":
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    main(auto_cli(ProbeConfig, as_positional=False))
