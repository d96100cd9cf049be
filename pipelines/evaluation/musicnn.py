"""musicnn in PyTorch: 200-dimensional embeddings and 50 tags for three seconds of music.

The weights are in the PyPI wheel ``musicnn`` (ISC licence), whose pins keep it from being installed normally:
``pip install --no-deps musicnn==0.1.0``. Nothing of the package is imported; only its two checkpoints are read.

Sources
    P19   Pons and Serra 2019, musicnn: pre-trained convolutional neural networks for music audio tagging,
          https://arxiv.org/abs/1909.06654
    P18   Pons et al. 2018, End-to-end learning for music audio tagging at scale, https://arxiv.org/abs/1711.02520
"""

from pathlib import Path
from typing import Literal

import librosa
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pipelines.evaluation.tensorflow_checkpoint import read_checkpoint

SAMPLE_RATE = 16_000
N_FFT, HOP_LENGTH, NUM_MELS = 512, 256, 96
WINDOW_FRAMES = 187  # 3 s, what the network was trained on
WINDOW_HOP = 94
BATCH = 32
TIMBRE_FILTERS = ((7, 38), (7, 67))  # (frames, mel bands); P18's vertical filters, 90 % and 40 % of the bands
RHYTHM_FILTERS = (128, 64, 32)  # frames; P18's horizontal filters
EPSILON = 1e-3  # of Keras' batch normalisation
Training = Literal["MSD", "MTT"]
"""Million Song Dataset (tags of listeners) or MagnaTagATune (instruments among them)."""

MTT_TAGS = [
    "guitar", "classical", "slow", "techno", "strings", "drums", "electronic", "rock", "fast", "piano", "ambient",
    "beat", "violin", "vocal", "synth", "female", "indian", "opera", "male", "singing", "vocals", "no vocals",
    "harpsichord", "loud", "quiet", "flute", "woman", "male vocal", "no vocal", "pop", "soft", "sitar", "solo", "man",
    "classic", "choir", "voice", "new age", "dance", "male voice", "female vocal", "beats", "harp", "cello",
    "no voice", "weird", "country", "metal", "female voice", "choral",
]  # fmt: skip
"""Names of the MTT network's outputs, in order (Law et al. 2009)."""


class _Filter(nn.Module):
    """Convolution, ReLU, batch normalisation over (batch, channels, frames, bands)."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel)
        self.norm = nn.BatchNorm2d(outputs, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        frames = self.conv.kernel_size[0]
        x = F.pad(x, (0, 0, (frames - 1) // 2, frames // 2))  # "same" over time, as TensorFlow splits an odd rest
        return self.norm(F.relu(self.conv(x)))


class MusiCNN(nn.Module):
    """Musically motivated filters, three residual layers, max and mean pooling over time (P18, P19)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_in = nn.BatchNorm2d(1, eps=EPSILON)
        timbre = [_Filter(1, 204, kernel) for kernel in TIMBRE_FILTERS]
        self.front = nn.ModuleList([*timbre, *(_Filter(1, 51, (frames, 1)) for frames in RHYTHM_FILTERS)])
        self.middle = nn.ModuleList([_Filter(1, 64, (7, 561)), _Filter(1, 64, (7, 64)), _Filter(1, 64, (7, 64))])
        self.norm_pooled = nn.BatchNorm1d(1506, eps=EPSILON)
        self.dense = nn.Linear(1506, 200)
        self.norm_dense = nn.BatchNorm1d(200, eps=EPSILON)
        self.tags = nn.Linear(200, 50)

    @classmethod
    def from_checkpoint(cls, folder: Path) -> "MusiCNN":
        """Load a folder of the musicnn wheel, such as ``musicnn/MSD_musicnn``.

        Raises:
            ValueError: the checkpoint cannot be read.
            RuntimeError: it belongs to another network.
        """
        model = cls().eval()
        model.load_state_dict(_state_dict(read_checkpoint(folder), model))
        return model.requires_grad_(False)

    def forward(
        self, log_mel: Float[Tensor, "batch frames bands"]
    ) -> tuple[Float[Tensor, "batch 200"], Float[Tensor, "batch 50"]]:
        """Embedding and tag probabilities of windows of ``WINDOW_FRAMES`` frames."""
        x = self.norm_in(log_mel[:, None])
        # every filter spans what it needs of the bands; the loudest place on what is left of them counts
        front = torch.cat([layer(x).amax(-1) for layer in self.front], dim=1)
        layers, h = [front], rearrange(front, "b c t -> b 1 t c")
        for index, layer in enumerate(self.middle):
            out = layer(h).squeeze(-1)
            layers.append(out if index == 0 else out + layers[-1])
            h = rearrange(layers[-1], "b c t -> b 1 t c")
        features = torch.cat(layers, dim=1)
        pooled = torch.stack([features.amax(-1), features.mean(-1)], dim=-1).flatten(1)
        embedding = self.norm_dense(F.relu(self.dense(self.norm_pooled(pooled))))
        return embedding, self.tags(embedding).sigmoid()


def musicnn_windows(waveform: Float[Tensor, " samples"]) -> Float[Tensor, "windows frames bands"]:
    """Overlapping log-mel windows of a mono waveform at 16 kHz; audio shorter than 3 s is repeated to fill one."""
    needed = (WINDOW_FRAMES - 1) * HOP_LENGTH
    if len(waveform) < needed:
        waveform = waveform.repeat(-(-needed // len(waveform)))[:needed]
    mel = librosa.feature.melspectrogram(
        y=waveform.numpy(), sr=SAMPLE_RATE, n_fft=N_FFT, hop_length=HOP_LENGTH, n_mels=NUM_MELS
    )
    log_mel = torch.from_numpy(np.log10(1 + 10_000 * mel).astype(np.float32))
    return rearrange(log_mel.unfold(1, WINDOW_FRAMES, WINDOW_HOP), "bands windows frames -> windows frames bands")


@torch.no_grad()
def apply_musicnn(
    model: MusiCNN, waveform: Float[Tensor, " samples"]
) -> tuple[Float[np.ndarray, "windows 200"], Float[np.ndarray, "windows 50"]]:
    """Embeddings and tag probabilities of each window of a mono waveform at 16 kHz."""
    parts = [model(batch) for batch in musicnn_windows(waveform).split(BATCH)]
    embeddings, tags = zip(*parts, strict=True)
    return torch.cat(embeddings).numpy(), torch.cat(tags).numpy()


def _state_dict(tensors: dict[str, np.ndarray], model: MusiCNN) -> dict[str, Tensor]:
    """The checkpoint's tensors under the names of ``MusiCNN``: layers are numbered in the order of their making."""
    norms = [model.norm_in, *(layer.norm for layer in (*model.front, *model.middle)), model.norm_pooled]
    norms.append(model.norm_dense)
    convs = [layer.conv for layer in (*model.front, *model.middle)]
    names = {id(module): name for name, module in model.named_modules()}
    state: dict[str, Tensor] = {}

    def put(module: nn.Module, parameter: str, values: np.ndarray) -> None:
        state[f"{names[id(module)]}.{parameter}"] = torch.from_numpy(np.ascontiguousarray(values))

    for index, norm in enumerate(norms):
        layer = f"batch_normalization_{index}" if index else "batch_normalization"
        for ours, theirs in NORM_TENSORS.items():
            put(norm, ours, tensors[f"{layer}/{theirs}"])
        put(norm, "num_batches_tracked", np.array(0))
    for index, conv in enumerate(convs):
        layer = f"conv2d_{index}" if index else "conv2d"
        put(conv, "weight", tensors[f"{layer}/kernel"].transpose(3, 2, 0, 1))
        put(conv, "bias", tensors[f"{layer}/bias"])
    for linear, layer in ((model.dense, "dense"), (model.tags, "dense_1")):
        put(linear, "weight", tensors[f"{layer}/kernel"].T)
        put(linear, "bias", tensors[f"{layer}/bias"])
    return state


NORM_TENSORS = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
