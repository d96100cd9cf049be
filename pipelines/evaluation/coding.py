"""Evaluation of codecs on files: figures of each file, distances between sets, curves."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from autoencoder import Music2LatentAutoencoder
from autoencoder.metrics import reconstruction_metrics
from autoencoder.recordings import Recordings, read_recording
from pipelines.evaluation.distances import frechet_estimate, kernel_estimate
from pipelines.evaluation.embeddings import EmbeddingModel
from pipelines.evaluation.listening import loudness, side_level, visqol
from pipelines.evaluation.results import Curve, Metric, SystemResult, content_hash
from pipelines.evaluation.statistics import Estimate, bootstrap_weights, mean_estimate
from pipelines.evaluation.systems import System

MIN_ITEMS = 4  # for a distance between sets
WINDOWS_PER_DIM = 10  # fewer, and even the extrapolated Frechet distance is mostly bias
CURVE_FRAMES = 64  # spectrogram frames on which denoising is judged
SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0)

CODING_METRICS = {
    "ViSQOL": Metric("higher", "predicted listening quality, 1 to 4.75 (audio mode, mono mix)"),
    "log-mel distance": Metric("lower", "mean absolute difference of log-mel spectrograms, nepers"),
    "STFT distance": Metric("lower", "spectral convergence plus log-magnitude difference at three resolutions"),
    "SI-SDR (dB)": Metric("higher", "scale-invariant signal to distortion ratio; punishes phases that are redrawn"),
    "log-mel correlation": Metric("higher", "correlation of log-mel spectrograms, blind to level"),
    "level difference (dB)": Metric("zero", "RMS level of the coded audio minus that of the original"),
    "loudness difference (LU)": Metric("zero", "integrated loudness (ITU-R BS.1770) minus that of the original"),
    "side level difference (dB)": Metric("zero", "side against mid energy minus that of the original; stereo only"),
}


@dataclass(frozen=True)
class FileResult:
    """One file through all systems.

    Attributes:
        name: of the file.
        content: hash of the original audio.
        figures: metrics by system.
        kbps: bit rate per channel by system.
        times: seconds of encoding and decoding, and of the audio, by system.
        embeddings: (windows, dim) by embedding model and system; ``"original"`` is the reference.
    """

    name: str
    content: str
    figures: dict[str, dict[str, float]]
    kbps: dict[str, float]
    times: dict[str, tuple[float, float, float]]
    embeddings: dict[str, dict[str, Float[np.ndarray, "windows dim"]]]


def read_excerpt(
    recordings: Recordings, index: int, sample_rate: int, seconds: float, *, mix_down: bool
) -> Float[Tensor, "channels samples"]:
    """The middle of a recording, or all of a shorter one."""
    waveform = read_recording(recordings, index, sample_rate)
    length = min(waveform.shape[-1], round(seconds * sample_rate))
    start = (waveform.shape[-1] - length) // 2
    excerpt = waveform[:, start : start + length]
    return excerpt.mean(0, keepdim=True) if mix_down else excerpt


def coding_metrics(
    estimate: Float[Tensor, "channels samples"],
    reference: Float[Tensor, "channels samples"],
    sample_rate: int,
    *,
    with_visqol: bool,
) -> dict[str, float]:
    """All of ``CODING_METRICS``; NaN where a figure does not apply."""
    return {
        "ViSQOL": visqol(estimate, reference, sample_rate) if with_visqol else float("nan"),
        **reconstruction_metrics(estimate, reference, sample_rate),
        "loudness difference (LU)": loudness(estimate, sample_rate) - loudness(reference, sample_rate),
        "side level difference (dB)": side_level(estimate) - side_level(reference),
    }


def evaluate_waveform(
    name: str,
    waveform: Float[Tensor, "channels samples"],
    sample_rate: int,
    systems: Sequence[System],
    embeddings: Sequence[EmbeddingModel],
    *,
    with_visqol: bool,
    seed: int,
) -> FileResult:
    """Code one waveform with every system and measure what comes back."""
    result = FileResult(name, content_hash(waveform.numpy()), {}, {}, {}, {model.name: {} for model in embeddings})
    for model in embeddings:
        result.embeddings[model.name]["original"] = model(waveform, sample_rate)
    for system in systems:
        coded = system(waveform, sample_rate, seed)
        result.figures[system.name] = coding_metrics(coded.waveform, waveform, sample_rate, with_visqol=with_visqol)
        if coded.kbps is not None:
            result.kbps[system.name] = coded.kbps
        if coded.encode_seconds is not None and coded.decode_seconds is not None:
            seconds = waveform.shape[-1] / sample_rate
            result.times[system.name] = (coded.encode_seconds, coded.decode_seconds, seconds)
        for model in embeddings:
            result.embeddings[model.name][system.name] = model(coded.waveform, sample_rate)
    return result


def summarise(files: Sequence[FileResult], system: str, num_replicates: int, seed: int) -> SystemResult:
    """Means over the files and distances between the sets of originals and coded files, with intervals."""
    weights = bootstrap_weights(len(files), num_replicates, seed)
    items = {file.name: file.figures[system] for file in files}
    result = SystemResult(items=items)
    for metric in CODING_METRICS:
        values = [figures[metric] for figures in items.values()]
        if np.isfinite(values).any():
            result.estimates[metric] = mean_estimate(values, weights)
    rates = [file.kbps[system] for file in files if system in file.kbps]
    if rates:
        result.facts["kbit/s per channel"] = float(np.mean(rates))
    if len(files) >= MIN_ITEMS:
        for model in files[0].embeddings:
            original = [file.embeddings[model]["original"] for file in files]
            coded = [file.embeddings[model][system] for file in files]
            result.estimates |= set_distances(model, original, coded, True, num_replicates, seed)
    return result


def set_distances(
    model: str,
    reference: Sequence[np.ndarray],
    judged: Sequence[np.ndarray],
    paired: bool,
    num_replicates: int,
    seed: int,
) -> dict[str, Estimate]:
    """``FAD model`` and ``KAD model`` of two sets of embeddings."""
    frechet, kernel = (
        function(reference, judged, paired=paired, num_replicates=num_replicates, seed=seed)
        for function in (frechet_estimate, kernel_estimate)
    )
    return {f"FAD {model}": frechet, f"KAD {model}": kernel}


def distance_metrics(names: Sequence[str], held_out: str | None) -> dict[str, Metric]:
    """How to read the set distances; the held-out embedding is named."""
    metrics = {}
    for name in names:
        which = " (held out: never select a model by it)" if name == held_out else ""
        metrics[f"FAD {name}"] = Metric("lower", f"Frechet distance of {name}, extrapolated to infinite sets{which}")
        metrics[f"KAD {name}"] = Metric("lower", f"unbiased kernel distance x 100 of {name}{which}; 0 for equal sets")
    return metrics


def sample_size_note(name: str, sets: Sequence[Sequence[np.ndarray]]) -> str | None:
    """A warning where a set is too small for a Frechet distance, or for any."""
    if (count := min(map(len, sets))) < MIN_ITEMS:
        return f"FAD and KAD {name} are missing: they need {MIN_ITEMS} items on both sides, and one has {count}."
    windows = min(sum(len(item) for item in items) for items in sets)
    dim = sets[0][0].shape[1]
    if windows >= WINDOWS_PER_DIM * dim:
        return None
    return (
        f"FAD {name}: {windows} windows of {dim} dimensions are few (aim at {WINDOWS_PER_DIM * dim}). The sample-size "
        "bias that is left after extrapolation is not in the interval: compare within this table, and trust KAD, "
        "which is unbiased."
    )


@torch.no_grad()
def denoising_errors(
    model: Music2LatentAutoencoder, waveform: Float[Tensor, "channels samples"], seed: int
) -> dict[float, float]:
    """Relative error in dB of the spectrogram denoised from each of ``SIGMAS``, given the item's own latents.

    0 dB is what silence would have; the first channel's middle 64 frames count.
    """
    needed = model.spectrogram.num_samples(CURVE_FRAMES)
    start = max(0, (waveform.shape[-1] - needed) // 2)
    clean = model.spectrogram(waveform[:1, start : start + needed].to(model.device))
    maps = model.make_maps(model.encode_spectrogram(clean))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed)).to(clean)
    errors = {}
    for sigma in SIGMAS:
        denoised = model.denoise(clean + sigma * noise, torch.tensor([sigma], device=clean.device), maps)
        ratio = (denoised - clean).square().sum() / clean.square().sum().clamp(min=1e-12)
        errors[sigma] = 10 * ratio.clamp(min=1e-12).log10().item()
    return errors


def noise_level_curve(errors: Sequence[dict[float, float]], num_replicates: int, seed: int) -> Curve:
    """Denoising error against the noise level, mean over files."""
    weights = bootstrap_weights(len(errors), num_replicates, seed)
    points = [(sigma, mean_estimate([error[sigma] for error in errors], weights)) for sigma in SIGMAS]
    return Curve(
        title="Denoising error against noise level",
        x_label="sigma",
        y_label="relative error of the spectrogram (dB); silence has 0",
        points={"codec": points},
        log_x=True,
    )


def step_curves(results: dict[int, SystemResult], metrics: Sequence[str]) -> list[Curve]:
    """Figures against the number of decoding steps."""
    curves = []
    for metric in metrics:
        points = [(float(steps), result.estimates[metric]) for steps, result in sorted(results.items())]
        curves.append(Curve(f"{metric} against decoding steps", "steps", metric, {"codec": points}, log_x=True))
    return curves
