"""Train the text-conditioned diffusion transformer on latent shards.

    accelerate launch scripts/train_latent_dit.py --config scripts/configs/latent_dit_small.yaml \
        --data_dir outputs/latents/train --validation_dir outputs/latents/test \
        --autoencoder outputs/codec/autoencoder --output_dir outputs/dit

The same command continues a run that was stopped. The exported transformer is ``output_dir/transformer`` (safetensors
and config.json, averaged weights). Watch it with ``tensorboard --logdir outputs/dit/logs``.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.schedulers import FlowMatchEulerDiscreteScheduler
from jsonargparse import auto_cli, set_parsing_settings
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoencoder import Music2LatentAutoencoder
from autoencoder.data_order import seed_of
from autoencoder.figures import spectrogram_figure
from autoencoder.training import Task, TrainingConfig, Validation, fit
from latent_diffusion import LatentDiT
from latent_diffusion.data import LatentClips, TextEmbeddings
from latent_diffusion.objective import FlowObjective
from latent_diffusion.text import DEFAULT_TEXT_ENCODER, encode_text, load_text_encoder
from pipelines import Music2LatentPipeline

TEXT_BATCH = 64
VALIDATION_DRAWS = 8  # times and noises per held-out clip: the loss of a single draw varies too much


@dataclass(frozen=True, kw_only=True)
class LatentDiTTrainingConfig(TrainingConfig):
    """One training of the transformer."""

    data_dir: Path
    """Latent shards from encode_dataset.py."""
    validation_dir: Path
    """Held-out latent shards of the same codec."""
    autoencoder: Path
    """The codec that made the shards; it renders the validation prompts."""
    text_encoder: str = DEFAULT_TEXT_ENCODER
    """Any transformers text encoder, by hub name or folder."""
    max_seconds: float = 30.0
    """Longer clips are cropped; the longest crop is what the transformer can generate."""
    num_validation_clips: int = 64
    """The first so many held-out clips are used."""
    validation_prompts: list[str] = field(default_factory=lambda: ["lofi piano beat", "ambient pads", "techno"])
    """Rendered at every validation with fixed seeds."""
    time_mean: float = 0.0
    """Centre of the logit-normal times: above 0 trains more on noise, where a sample is begun."""
    time_std: float = 1.0
    """Their spread."""
    weight_decay: float = 0.01
    """Of AdamW, on matrices only."""
    model: dict[str, Any] = field(default_factory=dict)
    """Arguments of LatentDiT; the ones that follow from data, codec and text encoder are filled in."""


def build_model(config: LatentDiTTrainingConfig, data: LatentClips, text_encoder: PreTrainedModel) -> LatentDiT:
    """Model for this data, codec and text encoder."""
    codec, longest = data.codec, max(item.latents.shape[1] for item in data.items)
    return LatentDiT(
        in_channels=codec.latent_channels,
        cross_attention_dim=text_encoder.config.hidden_size,
        latents_mean=data.statistics.mean,
        latents_std=data.statistics.std,
        latent_rate=codec.latent_rate,
        max_frames=min(longest, data.max_frames),
        codec_id=codec.codec_id,
        text_encoder=config.text_encoder,
        **config.model,
    )


def build_objective(config: LatentDiTTrainingConfig, model: LatentDiT, data: LatentClips) -> FlowObjective:
    """Loss with the run's settings."""
    empty_prompt = data.embeddings[""].float()
    return FlowObjective(model, empty_prompt, time_mean=config.time_mean, time_std=config.time_std)


def embed_captions(
    captions: Sequence[str], tokenizer: PreTrainedTokenizerBase, encoder: PreTrainedModel
) -> TextEmbeddings:
    """Token states of every caption, float16 on the CPU, computed once."""
    encoder.to("cuda" if torch.cuda.is_available() else "cpu")
    embeddings = {}
    for start in tqdm(range(0, len(captions), TEXT_BATCH), desc="captions", unit="batch"):
        texts = captions[start : start + TEXT_BATCH]
        states, mask = encode_text(tokenizer, encoder, texts)
        for text, state, real in zip(texts, states, mask, strict=True):
            embeddings[text] = state[real].half().cpu()
    return embeddings


def validation_loss(objective: FlowObjective, data: LatentClips, num_clips: int) -> float:
    """Mean loss on held-out clips, with times, noises and dropped conditions that are the same at every call."""
    device, losses = objective.model.device, []
    for index in range(min(num_clips, len(data))):
        draws = range(index * VALIDATION_DRAWS, (index + 1) * VALIDATION_DRAWS)
        items = [data.draw(index, torch.Generator().manual_seed(seed_of(0, draw))) for draw in draws]
        batch = {name: tensor.to(device) for name, tensor in data.collate(items).items()}
        generators = [torch.Generator(device).manual_seed(seed_of(1, draw)) for draw in draws]
        losses.append(objective(batch, generators, progress=1.0)[0])
    return torch.cat(losses).mean().item()


def render_prompts(pipeline: Music2LatentPipeline, prompts: Sequence[str]) -> Validation:
    """Audio and spectrograms of the validation prompts with fixed seeds."""
    pipeline.set_progress_bar_config(disable=True)
    seconds = min(10.0, pipeline.max_audio_length_in_s)
    generators = [torch.Generator().manual_seed(index) for index in range(len(prompts))]
    (audio,) = pipeline(
        list(prompts), audio_length_in_s=seconds, generator=generators, output_type="pt", return_dict=False
    )
    panels = dict(zip(prompts, torch.as_tensor(audio).cpu(), strict=True))
    return Validation(
        audio={prompt: (waveform[0], pipeline.sample_rate) for prompt, waveform in panels.items()},
        figures={"prompts": spectrogram_figure(panels, pipeline.sample_rate)},
    )


def parameter_groups(model: LatentDiT, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases, gains, tables and embeddings of single values do not."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def main(config: LatentDiTTrainingConfig) -> Path | None:
    """Train, or continue training, and export. Returns the exported folder, None if a signal stopped the run."""
    torch.manual_seed(config.seed)
    codec = Music2LatentAutoencoder.from_pretrained(config.autoencoder).eval()
    max_frames = codec.num_latent_frames(round(config.max_seconds * codec.config.sample_rate))
    data, held_out = LatentClips(config.data_dir, max_frames), LatentClips(config.validation_dir, max_frames)
    if data.codec != held_out.codec or data.codec.codec_id != (codec.config.codec_id or codec.fingerprint()):
        raise ValueError(
            f"training data, validation data and autoencoder belong to different codecs: {data.codec}, "
            f"{held_out.codec} and {codec.config.codec_id}; encode both sets with this autoencoder"
        )
    tokenizer, text_encoder = load_text_encoder(config.text_encoder)
    data.embeddings = embed_captions(data.captions, tokenizer, text_encoder)
    held_out.embeddings = embed_captions(held_out.captions, tokenizer, text_encoder)
    model = build_model(config, data, text_encoder)
    held_out.max_frames = model.config.max_frames  # no clip to train on may be as long as a held-out one
    objective = build_objective(config, model, data)
    pipeline = Music2LatentPipeline(codec, model, text_encoder, tokenizer, FlowMatchEulerDiscreteScheduler())

    def validate(step: int) -> Validation:
        result = render_prompts(pipeline.to(model.device), config.validation_prompts)
        result.scalars["loss"] = validation_loss(objective, held_out, config.num_validation_clips)
        return result

    def export() -> Path:
        folder = config.output_dir / "transformer"
        model.save_pretrained(folder)
        return folder

    groups = parameter_groups(model, config.weight_decay)
    task = Task(
        model=model,
        objective=objective,
        optimizer=torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, config.adam_beta2)),
        dataset=data,
        validate=validate,
        export=export,
    )
    print(f"{len(data)} clips, {len(held_out)} held out; {model.num_parameters():,} parameters")
    exported = fit(task, config)
    if exported:
        print(f"exported: {exported}")
    return exported


if __name__ == "__main__":
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    main(auto_cli(LatentDiTTrainingConfig, as_positional=False))
