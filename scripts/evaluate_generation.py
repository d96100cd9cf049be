"""Evaluate a pipeline on prompts, beside real clips: quality, agreement with the request, novelty, seams, cost.

    python scripts/evaluate_generation.py --pipeline pipelines/demo_model

    python scripts/evaluate_generation.py --audio_dir pieces_of_another_generator --reference_dir data/train

    python scripts/evaluate_generation.py --compare '[before/results.json, after/results.json]'

A prompt file is JSON lines with ``text`` and, optionally, ``tempo``, ``key`` and ``instruments``, such as the
metadata.jsonl of captioned clips (AudioFolder layout); those clips are then measured like the pieces, as the ceiling.
``--audio_dir`` judges finished pieces in the same layout; their lines may hold ``seconds`` (asked for), ``seams`` (a
list of seconds where edits begin or end) and ``"loop": true``. Needs the extra ``eval``, see evaluate_autoencoder.py.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
import torch
from jsonargparse import auto_cli, set_parsing_settings
from matplotlib.figure import Figure
from tqdm.auto import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoencoder.audio import find_audio, read_audio
from pipelines import Music2LatentPipeline
from pipelines.evaluation.agreement import Request
from pipelines.evaluation.clap import Clap
from pipelines.evaluation.coding import MIN_ITEMS, distance_metrics, sample_size_note, set_distances
from pipelines.evaluation.embeddings import EmbeddingModel, file_hash, load_embedding
from pipelines.evaluation.figures import curve_figure, overview_figure
from pipelines.evaluation.generating import (
    edited_pieces,
    finished_pieces,
    generate_pieces,
    loop_pieces,
    real_pieces,
)
from pipelines.evaluation.pieces import (
    PIECE_METRICS,
    Known,
    Piece,
    PieceResult,
    measure_piece,
    piece_metrics,
    read_requests,
    summarise_pieces,
)
from pipelines.evaluation.report import Example, metric_table
from pipelines.evaluation.results import Curve, EvaluationResult, content_hash
from pipelines.evaluation.statistics import Estimate
from pipelines.guidance import DEFAULT_GUIDANCE_SCALE
from scripts.evaluation_run import (
    check_held_out,
    compare_files,
    default_workers,
    measure_all,
    refuse,
    write_evaluation,
)

RECORDED_SETTINGS = (
    "num_prompts",
    "seeds_per_prompt",
    "audio_length_in_s",
    "num_inference_steps",
    "guidance_scale",
    "numbers",
    "num_edits",
    "held_out_embedding",
    "num_replicates",
    "seed",
)


@dataclass(frozen=True, kw_only=True)
class GenerationEvaluationConfig:
    """One evaluation of a generator."""

    pipeline: Path | None = None
    """Folder of a saved pipeline."""
    audio_dir: Path | None = None
    """Finished pieces with metadata.jsonl instead of a pipeline."""
    prompts: Path = Path("scripts/demo_music/test/metadata.jsonl")
    """Prompt file; clips beside it that it names are measured as well."""
    reference_dir: Path = Path("scripts/demo_music/train")
    """Real clips for the set distances."""
    training_dir: Path | None = Path("scripts/demo_music/train")
    """What the generator was trained on, to find copies."""
    output_dir: Path = Path("outputs/evaluation/generation")
    """Gets results.json, times.json, report.html, PNG pictures and the pieces."""
    num_prompts: int = 24
    """The first so many prompts."""
    seeds_per_prompt: int = 4
    """Pieces of each prompt."""
    audio_length_in_s: float = 10.0
    """Length of the pieces."""
    num_inference_steps: int = 25
    """Sampling steps."""
    guidance_scale: float = DEFAULT_GUIDANCE_SCALE
    """Weight of the request."""
    numbers: Literal["given", "stated", "none"] = "given"
    """Tempo and key of the requests: given beside the text; left to what the text states and suggests; or kept from
    the transformer, which then has the text alone."""
    steps_curve: tuple[int, ...] = (5, 10, 50)
    """Other numbers of steps, for the curve."""
    num_curve_prompts: int = 8
    """The first so many prompts are in the curve, with one piece each."""
    num_edits: int = 8
    """The first so many prompts also get a loop, and an edit: the middle third of their first piece made anew."""
    embeddings: tuple[str, ...] = ("musicnn-msd", "basic-pitch")
    """Embedding models; see pipelines/evaluation/embeddings.py."""
    held_out_embedding: str | None = "basic-pitch"
    """The one that is never used to select a model; marked in the results."""
    clap: str | None = None
    """CLAP model (hub name or folder) for the CLAP score, such as laion/larger_clap_music."""
    num_replicates: int = 1000
    """Bootstrap samples."""
    num_examples: int = 6
    """Prompts in the report, the least typical pieces first."""
    seed: int = 0
    """Of the pieces and of the bootstrap."""
    num_workers: int | None = None
    """Processes that measure; one per CPU core if not given."""
    compare: tuple[Path, Path] | None = None
    """Two results.json to compare instead of evaluating."""


def all_embeddings(config: GenerationEvaluationConfig) -> tuple[str, ...]:
    """The embedding models, with CLAP if it is given."""
    return (*config.embeddings, f"clap:{config.clap}") if config.clap else config.embeddings


_state: tuple[int, list[EmbeddingModel]] | None = None


def _start(sample_rate: int, names: Sequence[str]) -> None:
    global _state
    _state = (sample_rate, [load_embedding(name) for name in names])


def _measure(piece: Piece) -> PieceResult:
    assert _state is not None
    return measure_piece(piece, *_state)


def _embed(path: Path) -> dict[str, np.ndarray]:
    assert _state is not None
    sample_rate, models = _state
    waveform = read_audio(path, sample_rate)
    return {model.name: model(waveform, sample_rate) for model in models}


class Run:
    """One evaluation while it goes on."""

    def __init__(self, config: GenerationEvaluationConfig) -> None:
        self.config = config
        self.times: dict[str, dict[str, float]] = {}
        self.pieces: dict[str, list[Piece]] = {}
        self.steps: dict[int, list[Piece]] = {}
        folders = (config.reference_dir, config.training_dir)
        self.compared = {folder: find_audio(folder) for folder in folders if folder is not None}
        if config.audio_dir is not None:
            self.pieces["generated"], self.requests = finished_pieces(config.audio_dir)
            self.sample_rate = soundfile.info(self.pieces["generated"][0].path).samplerate
            self._check(self.pieces["generated"])
        else:
            assert config.pipeline is not None  # checked when the settings were read
            self.requests, _ = read_requests(config.prompts, config.num_prompts)
            pipe = Music2LatentPipeline.from_pretrained(config.pipeline)
            self.sample_rate = pipe.sample_rate
            real = real_pieces(config.prompts, config.num_prompts)
            self._check(real)
            self._generate(pipe)
            self.pieces["real"] = real

    def _check(self, given: Sequence[Piece]) -> None:
        """Read all files that are given, now and not after the generation.

        Raises:
            ValueError: some cannot be judged; all of them are named.
        """
        problems, paths = [], [*(piece.path for piece in given), *chain.from_iterable(self.compared.values())]
        for path in tqdm(dict.fromkeys(paths), "files"):
            try:
                read_audio(path, self.sample_rate)
            except ValueError as error:
                problems.append(str(error))
        refuse(problems)

    def _generate(self, pipe: Music2LatentPipeline) -> None:
        config = self.config
        pipe.set_progress_bar_config(disable=True)
        pipe.to("cuda" if torch.cuda.is_available() else "cpu")
        asked = self.requests
        if config.numbers == "stated":
            asked = [replace(request, tempo=None, key=None) for request in asked]
        if config.numbers == "none":
            asked = [replace(request, tempo=0.0, key="none") for request in asked]
        for steps in dict.fromkeys((config.num_inference_steps, *config.steps_curve)):
            is_main = steps == config.num_inference_steps
            pieces, seconds = generate_pieces(
                pipe,
                asked if is_main else asked[: config.num_curve_prompts],
                config.output_dir / "audio" / f"{steps}_steps",
                num_pieces=config.seeds_per_prompt if is_main else 1,
                audio_length_in_s=config.audio_length_in_s,
                num_inference_steps=steps,
                guidance_scale=config.guidance_scale,
                seed=config.seed,
            )
            firsts = [piece for piece in pieces if piece.name.endswith("-0")]
            self.steps[steps] = firsts[: config.num_curve_prompts]
            self.times[f"{steps} steps"] = {"seconds per piece": seconds}
            if is_main:
                self.pieces["generated"] = pieces
        self._edit(pipe, asked[: config.num_edits])

    def _edit(self, pipe: Music2LatentPipeline, requests: Sequence[Request]) -> None:
        """Pieces with seams, to hear whether they show."""
        config = self.config
        settings: dict[str, Any] = {"num_inference_steps": config.num_inference_steps}
        settings |= {"guidance_scale": config.guidance_scale, "seed": config.seed}
        firsts = [piece for piece in self.pieces["generated"] if piece.name.endswith("-0")][: len(requests)]
        folder = config.output_dir / "audio"
        self.pieces["edits"] = edited_pieces(pipe, requests, firsts, folder / "edits", **settings)
        self.pieces["loops"] = loop_pieces(pipe, requests, folder / "loops", config.audio_length_in_s, **settings)

    def _map(self, function: Callable[[Any], Any], jobs: Sequence[Any], name: str) -> list[Any]:
        return measure_all(
            function,
            jobs,
            start=_start,
            arguments=(self.sample_rate, all_embeddings(self.config)),
            num_workers=self.config.num_workers or default_workers(),
            name=name,
        )

    def measure(self) -> EvaluationResult:
        """Measure all pieces and summarise."""
        config = self.config
        measured = {name: self._map(_measure, pieces, name) for name, pieces in self.pieces.items() if pieces}
        known, models = self._known()
        names = [model.name for model in models]
        result = EvaluationResult(
            kind="generation",
            settings={name: getattr(config, name) for name in RECORDED_SETTINGS}
            | judged(config, self.compared[config.reference_dir]),
            models={model.name: {"source": model.source, "sha256": model.sha256} for model in models},
            items={str(index): content_hash(repr(request)) for index, request in enumerate(self.requests)},
            metrics=distance_metrics(names, config.held_out_embedding)
            | PIECE_METRICS
            | piece_metrics(names, config.held_out_embedding),
        )
        for name, pieces in measured.items():
            is_reference = any(config.reference_dir in result.piece.path.parents for result in pieces)
            result.systems[name] = summarise_pieces(
                pieces, known, config.num_replicates, config.seed, is_reference=is_reference
            )
            result.systems[name].facts["pieces"] = str(len(pieces))
        result.notes = self._notes(known, measured)
        result.curves = self._curves(known, names)
        return result

    def _known(self) -> tuple[Known, list[EmbeddingModel]]:
        config = self.config
        every = list(dict.fromkeys(chain.from_iterable(self.compared.values())))
        embedded = dict(zip(every, self._map(_embed, every, "reference"), strict=True))
        models = [load_embedding(name) for name in all_embeddings(config)]

        def by_model(folder: Path | None) -> dict[str, list[np.ndarray]]:
            found = self.compared[folder] if folder else []
            return {model.name: [embedded[path][model.name] for path in found] for model in models}

        texts = Clap(config.clap).embed_text([request.text for request in self.requests]) if config.clap else None
        reference, training = by_model(config.reference_dir), by_model(config.training_dir)
        return Known(reference, training, self.requests, texts, f"clap:{config.clap}"), models

    def _notes(self, known: Known, measured: Mapping[str, Sequence[PieceResult]]) -> list[str]:
        pieces = measured["generated"]
        notes = [f"{len(pieces)} pieces for {len(self.requests)} requests; requests are what is resampled."]
        for model, reference in known.reference.items():
            note = sample_size_note(model, [reference, [piece.embeddings[model] for piece in pieces]])
            notes += [note] if note else []
        if "real" in measured:
            notes.append("'real' are the clips that the prompts describe: what the measuring tools find in them.")
            if any(self.config.reference_dir in piece.path.parents for piece in self.pieces["real"]):
                notes.append("These clips are the reference too, so they have no distance from it.")
        return notes

    def _curves(self, known: Known, names: Sequence[str]) -> list[Curve]:
        """Kernel distances against the number of sampling steps, the first piece of each prompt."""
        config = self.config
        if len(self.steps) < 2 or min(len(self.requests), config.num_curve_prompts) < MIN_ITEMS:
            return []
        lines: dict[str, list[tuple[float, Estimate]]] = {name: [] for name in names}
        for steps, pieces in sorted(self.steps.items()):
            found = self._map(_embed, [piece.path for piece in pieces], f"{steps} steps")
            for name in names:
                judged = [embeddings[name] for embeddings in found]
                distances = set_distances(
                    name, known.reference[name], judged, False, config.num_replicates, config.seed
                )
                lines[name].append((float(steps), distances[f"KAD {name}"]))
        return [
            Curve(f"KAD {name} against sampling steps", "steps", f"KAD {name}", {"generated": line}, log_x=True)
            for name, line in lines.items()
        ]

    def examples(self, result: EvaluationResult) -> list[Example]:
        """The least typical pieces first, each beside the clip that its prompt describes."""
        key = next((f"typicality {name}" for name in self.config.embeddings), "")
        items = result.systems["generated"].items
        real = {piece.request: piece for piece in self.pieces.get("real", [])}
        rows: dict[int, Example] = {}
        for piece in sorted(self.pieces["generated"], key=lambda piece: items[piece.name].get(key, 0.0)):
            if piece.request in rows or len(rows) == self.config.num_examples:
                continue
            shown = {"generated": read_audio(piece.path, self.sample_rate)}
            notes = {"generated": f"typicality {items[piece.name][key]:.2f}" if key in items[piece.name] else ""}
            if piece.request in real:
                shown["real"] = read_audio(real[piece.request].path, self.sample_rate)
            rows[piece.request] = Example(self.requests[piece.request].text, shown, notes)
        return list(rows.values())


def judged(config: GenerationEvaluationConfig, reference: Sequence[Path]) -> dict[str, str]:
    """Which pipeline was judged, and by which reference: the first digits of the SHA-256 of weights and of audio."""
    hashes = {"reference": file_hash(*reference)[:16]}
    if config.pipeline is not None:
        hashes["pipeline"] = file_hash(*sorted(config.pipeline.rglob("*.safetensors")))[:16]
    return hashes


def pictures(result: EvaluationResult) -> dict[str, tuple[str, Figure]]:
    """Pictures by file name, with their headings."""
    shown = [name for name in result.metrics if name.startswith(("FAD", "KAD")) or name.endswith("gain")]
    found = {}
    if any(name in system.estimates for name in shown for system in result.systems.values()):  # few pieces have none
        found["quality"] = ("Distances and agreement with 95 % intervals", overview_figure(result, shown))
    if result.curves:
        found["curves"] = ("Quality against sampling steps", curve_figure(result.curves))
    return found


def main(config: GenerationEvaluationConfig) -> Path:
    """Evaluate and write everything, or compare two results. Returns the JSON file."""
    if config.compare:
        return compare_files(*config.compare, config.output_dir)
    if (config.pipeline is None) == (config.audio_dir is None):
        raise ValueError("pass either --pipeline, a folder of save_pipeline.py, or --audio_dir with finished pieces")
    for name in ("pipeline", "audio_dir", "reference_dir", "training_dir"):  # now, and not after the generation
        folder = getattr(config, name)
        if folder is not None and not folder.is_dir():
            raise ValueError(f"there is no folder {folder}; --{name} needs one")
    if config.pipeline is not None and not (config.pipeline / "model_index.json").is_file():
        raise ValueError(f"{config.pipeline} holds no pipeline (no model_index.json); save_pipeline.py writes one")
    check_held_out(config.held_out_embedding, config.embeddings)
    started = time.perf_counter()
    run = Run(config)
    result = run.measure()
    write_evaluation(
        config.output_dir,
        result,
        title=f"Generated music, {len(run.requests)} requests",
        figures=pictures(result),
        examples=run.examples(result),
        sample_rate=run.sample_rate,
        times=run.times,
        total_seconds=time.perf_counter() - started,
    )
    print(metric_table(result))
    return config.output_dir / "results.json"


if __name__ == "__main__":
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    main(auto_cli(GenerationEvaluationConfig, as_positional=False))
