"""CLAP through transformers: embeddings of audio and text in one space, and their agreement.

Source: Wu et al. 2023, Large-scale Contrastive Language-Audio Pretraining, https://arxiv.org/abs/2211.06687
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel


class Clap:
    """A CLAP model by hub name or folder, such as ``laion/larger_clap_music``.

    Args:
        target: what ``from_pretrained`` takes.
    """

    def __init__(self, target: str) -> None:
        self.model = ClapModel.from_pretrained(target).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(target)
        self.extractor = ClapFeatureExtractor.from_pretrained(target)

    @property
    def sample_rate(self) -> int:
        """Hz of the audio it takes."""
        return self.extractor.sampling_rate

    @torch.no_grad()
    def embed_audio(self, waveform: Float[Tensor, " samples"]) -> Float[np.ndarray, "windows dim"]:
        """One unit vector per window of the extractor's length (10 s as published), without overlap."""
        size = self.extractor.nb_max_samples
        pieces = [piece.numpy() for piece in waveform.split(size) if len(piece) > size // 2 or len(waveform) < size]
        inputs = self.extractor(pieces, sampling_rate=self.sample_rate, return_tensors="pt")
        return _unit(self.model.get_audio_features(**inputs)).numpy()

    @torch.no_grad()
    def embed_text(self, texts: Sequence[str]) -> Float[np.ndarray, "texts dim"]:
        """One unit vector per text."""
        inputs = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        return _unit(self.model.get_text_features(**inputs)).numpy()


def _unit(features: object) -> Float[Tensor, "items dim"]:
    """Unit vectors; transformers returns a tensor, or an output that holds it, depending on the version."""
    tensor = features if isinstance(features, Tensor) else features.pooler_output  # type: ignore[attr-defined]
    return F.normalize(tensor.float(), dim=-1)
