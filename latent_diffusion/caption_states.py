"""Token states of captions, computed once and kept in a file that all processes of a training map into memory."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from latent_diffusion.text import encode_text, text_width

TEXT_BATCH = 64
STATES, INDEX = "states.f16", "index.json"


class CaptionStates(Mapping[str, Float[Tensor, "tokens dim"]]):
    """Token states in float16 by caption, read from the disk as they are needed."""

    def __init__(self, folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        size = sum(index["num_tokens"])
        states = torch.from_file(str(folder / STATES), size=size * index["dim"], dtype=torch.float16)
        self._pieces = dict(
            zip(index["captions"], states.view(-1, index["dim"]).split(index["num_tokens"]), strict=True)
        )

    def __getitem__(self, caption: str) -> Float[Tensor, "tokens dim"]:
        return self._pieces[caption]

    def __iter__(self) -> Iterator[str]:
        return iter(self._pieces)

    def __len__(self) -> int:
        return len(self._pieces)


def encode_captions(
    captions: Sequence[str], tokenizer: PreTrainedTokenizerBase, encoder: PreTrainedModel, cache_dir: Path
) -> CaptionStates:
    """States of every caption, from ``cache_dir`` if they are there. One process at a time must call this."""
    name = json.dumps([encoder.config.name_or_path, text_width(encoder), list(captions)])
    folder = cache_dir / hashlib.sha256(name.encode()).hexdigest()[:16]
    if not folder.is_dir():
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _write(captions, tokenizer, encoder, partial)
        os.sync()
        partial.rename(folder)
    return CaptionStates(folder)


def _write(
    captions: Sequence[str], tokenizer: PreTrainedTokenizerBase, encoder: PreTrainedModel, folder: Path
) -> None:
    encoder.to("cuda" if torch.cuda.is_available() else "cpu")
    num_tokens: list[int] = []
    with (folder / STATES).open("wb") as file:
        for start in tqdm(range(0, len(captions), TEXT_BATCH), desc="captions", unit="batch"):
            states, mask = encode_text(tokenizer, encoder, captions[start : start + TEXT_BATCH])
            num_tokens += mask.sum(1).tolist()
            file.write(states[mask].half().cpu().numpy().tobytes())
    index = {"captions": list(captions), "num_tokens": num_tokens, "dim": states.shape[2]}
    (folder / INDEX).write_text(json.dumps(index, ensure_ascii=False), encoding="utf-8")
