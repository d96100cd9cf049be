"""Train the text-conditioned diffusion transformer on latent shards.

    accelerate launch scripts/train_latent_dit.py --config scripts/configs/latent_dit_small.yaml \
        --data_dir outputs/latents/train --validation_dir outputs/latents/test \
        --autoencoder outputs/codec/autoencoder --output_dir outputs/dit

To adapt a trained transformer to other music with a few megabytes (LoRA), for ``pipe.load_lora_weights``:

    accelerate launch scripts/train_latent_dit.py --config scripts/configs/latent_dit_lora.yaml \
        --init_from outputs/dit/transformer --data_dir outputs/latents/mine --validation_dir outputs/latents/test \
        --autoencoder outputs/codec/autoencoder --output_dir outputs/lora

The same command continues a run that was stopped. The exported transformer is ``output_dir/transformer`` (safetensors
and config.json, averaged weights). Watch it with ``tensorboard --logdir outputs/dit/logs``.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from diffusers.schedulers import FlowMatchEulerDiscreteScheduler
from jsonargparse import auto_cli, set_parsing_settings
from transformers import PreTrainedModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoencoder import Music2LatentAutoencoder
from autoencoder.data_order import seed_of
from autoencoder.figures import spectrogram_figure
from autoencoder.muon import MuonWithAdamW
from autoencoder.optimization import trained_parameters
from autoencoder.processes import process_state
from autoencoder.random_numbers import BatchDraws
from autoencoder.training import Task, TrainingConfig, Validation, fit
from latent_diffusion import LatentDiT
from latent_diffusion.caption_states import encode_captions
from latent_diffusion.data import LatentClips, Place
from latent_diffusion.lora import add_lora, save_lora
from latent_diffusion.objective import FlowObjective
from latent_diffusion.tempo_prior import TempoPrior, fit_tempo_prior
from latent_diffusion.text import DEFAULT_TEXT_ENCODER, load_text_encoder, text_width
from pipelines import Music2LatentPipeline

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
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Muon orthogonalises the updates of the blocks' matrices; everything else goes through AdamW. It was better on a
    small scale (docs/experiments.md) and has not been tried on a large one."""
    weight_decay: float = 0.01
    """On matrices only."""
    latents_in: Place = "memory"
    """Where the latents are while training: disk reads a set as it is needed, device keeps it beside the model (with
    --num_workers 0)."""
    lora_rank: int | None = None
    """Train adapters of this rank instead of the weights; with --init_from."""
    lora_alpha: int | None = None
    """Weight of the adapters is lora_alpha / lora_rank; lora_rank if not given."""
    model: dict[str, Any] = field(default_factory=dict)
    """Arguments of LatentDiT; the ones that follow from data, codec and text encoder are filled in."""

    may_change: ClassVar[frozenset[str]] = TrainingConfig.may_change | {
        "data_dir",
        "validation_dir",
        "autoencoder",
        "num_validation_clips",
        "validation_prompts",
        "latents_in",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora_rank is not None and self.init_from is None:
            raise ValueError("lora_rank adapts a trained transformer; give one with --init_from")
        if self.lora_rank is not None and self.optimizer == "muon":
            raise ValueError("Muon is for the matrices of the blocks, which LoRA keeps: give --optimizer adamw")
        if not self.validation_prompts:
            raise ValueError("validation_prompts is empty; give at least one, which is heard at every validation")
        if self.latents_in == "device" and self.num_workers:
            raise ValueError(
                f"latents on the device cannot be reached from data-loading processes: give --num_workers 0 with "
                f"--latents_in device, got {self.num_workers}"
            )


def build_model(config: LatentDiTTrainingConfig, data: LatentClips, text_encoder: PreTrainedModel) -> LatentDiT:
    """Model for this data, codec and text encoder, or the one of ``init_from``."""
    if config.init_from is not None:
        return load_model(config, data)
    codec, longest = data.codec, max(item.latents.shape[1] for item in data.items)
    return LatentDiT(
        in_channels=codec.latent_channels,
        cross_attention_dim=text_width(text_encoder),
        latents_mean=data.statistics.mean,
        latents_std=data.statistics.std,
        latent_rate=codec.latent_rate,
        max_frames=min(longest, data.max_frames),
        codec_id=codec.codec_id,
        text_encoder=config.text_encoder,
        **config.model,
    )


def load_model(config: LatentDiTTrainingConfig, data: LatentClips) -> LatentDiT:
    """The transformer of ``init_from``, with adapters if they are asked for.

    Raises:
        ValueError: it was made for another codec, text encoder or architecture.
    """
    model = LatentDiT.from_pretrained(config.init_from)
    expected = {"codec_id": data.codec.codec_id, "text_encoder": config.text_encoder} | config.model
    expected |= {"in_channels": data.codec.latent_channels}
    different = {
        name: (model.config.get(name), value) for name, value in expected.items() if model.config.get(name) != value
    }
    if different:
        lines = "; ".join(f"{name} is {old} there, {new} here" for name, (old, new) in different.items())
        raise ValueError(f"the transformer in {config.init_from} does not fit: {lines}")
    data.max_frames = min(data.max_frames, model.config.max_frames)
    if config.lora_rank is not None:
        add_lora(model, config.lora_rank, config.lora_alpha or config.lora_rank)
    return model


def build_objective(config: LatentDiTTrainingConfig, model: LatentDiT, data: LatentClips) -> FlowObjective:
    """Loss with the run's settings."""
    empty_prompt = data.embeddings[""].float()
    return FlowObjective(
        model,
        empty_prompt,
        time_mean=config.time_mean,
        time_std=config.time_std,
    )


def build_tempo_prior(data: LatentClips, text_encoder: str) -> TempoPrior | None:
    """Tempos of the training captions; None without a tempo."""
    pairs = [(caption, item.tempo) for item in data.items for caption in item.captions if item.tempo]
    if not pairs:
        return None
    return fit_tempo_prior([(data.embeddings[caption], tempo) for caption, tempo in pairs], text_encoder)


def validation_loss(objective: FlowObjective, data: LatentClips, num_clips: int) -> float:
    """Mean loss on held-out clips, with times, noises and dropped conditions that are the same at every call."""
    device, losses = objective.model.device, []
    for index in range(min(num_clips, len(data))):
        draws = range(index * VALIDATION_DRAWS, (index + 1) * VALIDATION_DRAWS)
        items = [data.draw(index, torch.Generator().manual_seed(seed_of(0, draw))) for draw in draws]
        batch = {name: tensor.to(device) for name, tensor in data.collate(items).items()}
        losses.append(objective(batch, BatchDraws(1, draws, device), progress=1.0)[0])
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


def build_optimizer(config: LatentDiTTrainingConfig, model: LatentDiT) -> torch.optim.Optimizer:
    """Optimiser of what is trained. Matrices decay; biases, gains, tables and embeddings of single values do not."""
    betas, lr = (0.9, config.adam_beta2), config.learning_rate
    trained = trained_parameters(model)
    if config.optimizer == "muon":
        blocks = {id(one) for one in model.transformer_blocks.parameters()}
        hidden = [one for one in trained if one.ndim == 2 and id(one) in blocks and one.shape[0] > 9]
        chosen = {id(one) for one in hidden}
        others = [one for one in trained if id(one) not in chosen]
        return MuonWithAdamW(hidden, others, lr, betas, config.weight_decay)
    groups = [
        {"params": [one for one in trained if one.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [one for one in trained if one.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=lr, betas=betas)


def main(config: LatentDiTTrainingConfig) -> Path | None:
    """Train, or continue training, and export. Returns the exported folder, None if a signal stopped the run."""
    torch.manual_seed(config.seed)
    codec = Music2LatentAutoencoder.from_pretrained(config.autoencoder).eval()
    max_frames = codec.num_latent_frames(round(config.max_seconds * codec.config.sample_rate))
    data = LatentClips(config.data_dir, max_frames, config.latents_in, process_state().device)
    held_out = LatentClips(config.validation_dir, max_frames, "disk")
    if data.codec != held_out.codec or data.codec.codec_id != (codec.config.codec_id or codec.fingerprint()):
        raise ValueError(
            f"training data, validation data and autoencoder belong to different codecs: {data.codec}, "
            f"{held_out.codec} and {codec.config.codec_id}; encode both sets with this autoencoder"
        )
    tokenizer, text_encoder = load_text_encoder(config.text_encoder)
    for clips in (data, held_out):
        with process_state().main_process_first():
            clips.embeddings = encode_captions(clips.captions, tokenizer, text_encoder, config.output_dir / "captions")
    model = build_model(config, data, text_encoder)
    tempo_prior = build_tempo_prior(data, config.text_encoder)
    held_out.max_frames = model.config.max_frames  # no clip to train on may be as long as a held-out one

    def validate(model: LatentDiT, step: int) -> Validation:
        scheduler = FlowMatchEulerDiscreteScheduler()
        pipeline = Music2LatentPipeline(codec, model, text_encoder, tokenizer, scheduler, tempo_prior=tempo_prior)
        result = render_prompts(pipeline.to(model.device), config.validation_prompts)
        # uniform times whatever the training's: losses of different runs can be compared
        judged = FlowObjective(model, data.embeddings[""].float(), uniform_times=True).to(model.device)
        result.scalars["loss"] = validation_loss(judged, held_out, config.num_validation_clips)
        return result

    def export(model: LatentDiT) -> Path:
        if config.lora_rank is not None:
            return save_lora(model, config.output_dir / "lora")
        folder = config.output_dir / "transformer"
        model.save_pretrained(folder)
        if tempo_prior is not None:
            tempo_prior.save_pretrained(config.output_dir / "tempo_prior")
        return folder

    task = Task(
        model=model,
        objective=build_objective(config, model, data),
        optimizer=build_optimizer(config, model),
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
