"""Check that the transformer can learn and follow: overfit it to a few captioned clips and ask for each of them.

    python scripts/overfit_latent_dit.py --config scripts/configs/latent_dit_test.yaml \
        --data_dir outputs/demo/latents/train --autoencoder outputs/demo/codec/autoencoder \
        --output_dir outputs/overfit_dit

Takes clips that differ in tempo and key. After training, each clip is asked for by its caption alone, by its tempo
alone, by its key alone, and by its first half as context; latents are generated and compared with all clips. A
condition is followed where the clip asked for is the one that correlates most. Leaves ``matrices.png`` and
``result.json`` in ``output_dir``.
"""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers.schedulers import FlowMatchEulerDiscreteScheduler
from jsonargparse import auto_cli, set_parsing_settings
from matplotlib.figure import Figure
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoencoder.training import Task, Validation, fit
from latent_diffusion import LatentDiT
from latent_diffusion.caption_states import encode_captions
from latent_diffusion.conditions import key_index
from latent_diffusion.data import LatentClips, LatentItem, LatentStatistics
from latent_diffusion.text import load_text_encoder
from scripts.train_latent_dit import (
    LatentDiTTrainingConfig,
    build_model,
    build_objective,
    build_optimizer,
)

NUM_STEPS = 25


@dataclass(frozen=True, kw_only=True)
class OverfitConfig(LatentDiTTrainingConfig):
    """One overfit of the transformer."""

    validation_dir: Path = Path()
    """Unused: the clips themselves are what is compared."""
    num_clips: int = 8
    """Clips to learn."""
    trim_frames: int = 4
    """Latent frames left out at both ends of a clip, which a hardly trained codec distorts."""


def distinct_clips(items: list[LatentItem], num_clips: int, trim_frames: int) -> list[LatentItem]:
    """The first clips that all differ in tempo and in key, with one caption each and without their ends."""
    chosen: list[LatentItem] = []
    for item in items:
        if item.tempo and item.key and not any(item.tempo == one.tempo or item.key == one.key for one in chosen):
            latents = item.latents[:, trim_frames:-trim_frames]
            chosen.append(replace(item, latents=latents, captions=item.captions[:1]))
    if len(chosen) < num_clips:
        raise ValueError(f"found only {len(chosen)} clips that differ in tempo and key, {num_clips} are needed")
    return chosen[:num_clips]


def sample(model: LatentDiT, conditions: dict[str, Tensor], num_frames: int) -> Tensor:
    """Generate normalised latents with the Euler scheduler, without guidance, every item from the same noise."""
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / NUM_STEPS, NUM_STEPS).tolist())
    num_items = len(conditions["duration"])
    noise = torch.randn(1, model.config.in_channels, num_frames, generator=torch.Generator().manual_seed(0))
    x = noise.repeat(num_items, 1, 1)
    for timestep in scheduler.timesteps:
        t = (timestep / scheduler.config.num_train_timesteps).expand(num_items)
        velocity = model(x, t, return_dict=False, **conditions)[0]
        x = scheduler.step(velocity, timestep, x, return_dict=False)[0]
    return x


def requests(model: LatentDiT, data: LatentClips) -> dict[str, dict[str, Tensor]]:
    """For each kind of condition, the arguments that ask for every clip by it alone."""
    batch = data.collate([data.draw(index, torch.Generator().manual_seed(0)) for index in range(len(data))])
    empty = data.embeddings[""].float()[None].repeat(len(data), 1, 1)
    x0 = model.normalize(batch["latents"])
    half = torch.zeros(len(data), 1, x0.shape[2])
    half[..., : x0.shape[2] // 2] = 1
    nothing = {"encoder_hidden_states": empty, "duration": batch["duration"]}
    text = {"encoder_hidden_states": batch["text"], "encoder_attention_mask": batch["text_mask"]}
    return {
        "caption": nothing | text,
        "tempo": nothing | {"tempo": batch["tempo"], "beats": batch["beats"]},
        "key": nothing | {"key": torch.tensor([key_index(item.key) for item in data.items])},
        "context": nothing | {"context_latents": x0 * half, "context_mask": half},
    }


def correlations(generated: Tensor, clips: Tensor) -> Tensor:
    """(generated, clips) Pearson correlations of latents; what was given as context does not count."""
    rows = torch.cat([generated.flatten(1), clips.flatten(1)])
    return torch.corrcoef(rows)[: len(generated), len(generated) :]


def judge(model: LatentDiT, data: LatentClips) -> dict[str, Tensor]:
    """Correlation matrix of what was generated for each request (rows) with each clip (columns)."""
    clips = model.normalize(torch.stack([item.latents.float() for item in data.items]))
    result = {}
    for kind, conditions in requests(model, data).items():
        start = clips.shape[2] // 2 if kind == "context" else 0
        generated = sample(model, conditions, clips.shape[2])
        result[kind] = correlations(generated[..., start:], clips[..., start:])
    return result


def num_right(matrix: Tensor) -> int:
    """Requests whose own clip correlates most."""
    return int((matrix.argmax(1) == torch.arange(len(matrix))).sum())


def draw(matrices: dict[str, Tensor]) -> Figure:
    """One picture per kind of condition."""
    figure = Figure(figsize=(4 * len(matrices), 4), layout="constrained")
    for axes, (kind, matrix) in zip(figure.subplots(1, len(matrices)), matrices.items(), strict=True):
        image = axes.imshow(matrix.numpy(), vmin=-1, vmax=1, cmap="coolwarm")
        axes.set(title=f"asked by {kind}: {num_right(matrix)} of {len(matrix)}", xlabel="clip", ylabel="request")
    figure.colorbar(image, ax=axes, label="correlation of latents")
    return figure


def main(config: OverfitConfig) -> dict[str, int]:
    """Train and return how many requests of each kind were answered with the right clip."""
    torch.manual_seed(config.seed)
    data = LatentClips(config.data_dir, max_frames=round(config.max_seconds * 11))
    data.items = distinct_clips(data.items, config.num_clips, config.trim_frames)
    data.statistics = LatentStatistics.of([item.latents for item in data.items])
    tokenizer, text_encoder = load_text_encoder(config.text_encoder)
    data.embeddings = encode_captions(data.captions, tokenizer, text_encoder, config.output_dir / "captions")
    model = build_model(config, data, text_encoder)
    matrices: dict[str, Tensor] = {}

    def validate(model: LatentDiT, step: int) -> Validation:
        matrices.update(judge(model, data))
        return Validation(scalars={f"right by {kind}": float(num_right(matrix)) for kind, matrix in matrices.items()})

    def finish(model: LatentDiT) -> Path:
        draw(matrices).savefig(config.output_dir / "matrices.png")
        values = {kind: matrix.tolist() for kind, matrix in matrices.items()}
        (config.output_dir / "result.json").write_text(json.dumps(values, indent=1))
        return config.output_dir

    objective = build_objective(config, model, data)
    fit(Task(model, objective, build_optimizer(config, model), data, validate, finish), config)
    return {kind: num_right(matrix) for kind, matrix in matrices.items()}


if __name__ == "__main__":
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    print(main(auto_cli(OverfitConfig, as_positional=False)))
