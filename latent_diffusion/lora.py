"""Low-rank adapters of the transformer, saved as diffusers' pipelines load them (Hu et al. 2021, arXiv 2106.09685)."""

from pathlib import Path

from diffusers.loaders import CogVideoXLoraLoaderMixin
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from latent_diffusion.transformer import LatentDiT

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")  # every attention; what diffusers' training scripts adapt


def add_lora(model: LatentDiT, rank: int, alpha: int) -> None:
    """Freeze the model and give it adapters that change nothing at first; only they are trained."""
    model.requires_grad_(False)
    model.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=list(TARGETS)))


def save_lora(model: LatentDiT, folder: Path) -> Path:
    """Write ``pytorch_lora_weights.safetensors``, which ``pipe.load_lora_weights(folder)`` reads."""
    CogVideoXLoraLoaderMixin.save_lora_weights(
        folder,
        transformer_lora_layers=get_peft_model_state_dict(model),
        transformer_lora_adapter_metadata=model.peft_config["default"].to_dict(),
    )
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)  # safetensors writes 0600, unreadable to colleagues on a shared cluster
    return folder
