"""Checkpoints in the published Music2Latent layout <-> our state dicts.

The published networks are flat lists of layers; ours are grouped by level. Both are walked in the same order. The
published latent decoder also owns noise-embedding layers that its forward never uses (``UNUSED``): they are dropped on
the way in and are zeros on the way out. Nothing else is dropped or made up.

A published file is ``{"gen_state_dict": {name: tensor}}``. A training checkpoint also holds
``{"ema_state_dict": {"shadow_params": [tensor, ...]}}``: averaged weights without names, in the order of the former.
"""

import pickle
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

MAX_NAMED = 5
"""Tensors that an error names."""
UNUSED = re.compile(r"decoder\.bottleneck_layers\.\d+\.proj_emb\.(weight|bias)")

# The published order of names: part by part, numbers by value, words as they stand here.
WORDS = """
    encoder decoder emb_proj scale_inp scale_out gain conv_inp conv_decoded prenorm_1d_to_2d conv_out_bottleneck
    bottleneck_layers norm_out conv_out down_layers up_layers
    conv1 conv2 res_conv norm1 norm2 proj_emb att mha in_proj_weight in_proj_bias out_proj norm c scale weight bias
"""

# prefixes inside one block: ours -> published
RES_BLOCK = {
    "norm1": "norm1",
    "conv1": "conv1",
    "norm2": "norm2",
    "conv2": "conv2",
    "skip": "res_conv",
    "embedding_proj": "proj_emb",
    "attn.norm": "att.norm",
    "attn.to_qkv.weight": "att.mha.in_proj_weight",
    "attn.to_qkv.bias": "att.mha.in_proj_bias",
    "attn.to_out": "att.mha.out_proj",
}


def original_names(model: nn.Module) -> dict[str, str]:
    """Published name of every parameter of ``model``, a Music2LatentAutoencoder of any size."""
    prefixes = dict(_prefixes(model))
    names = {}
    for name in model.state_dict():
        prefix = max((p for p in prefixes if name == p or name.startswith(f"{p}.")), key=len)
        names[name] = prefixes[prefix] + name[len(prefix) :]
    return names


def from_original_state_dict(original: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """State dict of ``model`` from a published one.

    Raises:
        ValueError: a tensor is missing, unexpected or of another shape; the first of them are named.
    """
    expected = to_original_state_dict(model)
    missing = [name for name in expected if name not in original]
    unexpected = [name for name in original if name not in expected]
    wrong = _misshapen({name: original[name] for name in expected if name in original}, expected)
    if missing or unexpected or wrong:
        raise ValueError(
            "this state dict is not that of the published architecture: "
            f"missing {_some(missing)}, unexpected {_some(unexpected)}, misshapen {_some(wrong)}"
        )
    return {ours: original[published] for ours, published in original_names(model).items()}


def _some(names: Sequence[str]) -> str:
    """The first few names, and how many there are more."""
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f"{list(names[:MAX_NAMED])}{more}" if names else "nothing"


def to_original_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Published state dict of ``model``, in the published order; tensors are shared with the model, not copied."""
    names = original_names(model)
    state = {names[name]: tensor for name, tensor in model.state_dict().items()}
    width, embedding_dim = state["decoder.conv_inp.bias"], len(state["emb_proj.0.bias"])
    for index in range(_count(model.get_submodule("decoder"), "bottleneck")):
        prefix = f"decoder.bottleneck_layers.{index}.proj_emb"
        state[f"{prefix}.weight"] = width.new_zeros(len(width), embedding_dim)
        state[f"{prefix}.bias"] = torch.zeros_like(width)
    return dict(sorted(state.items(), key=lambda item: _place(item[0])))


def read_original_checkpoint(path: str | Path, use_ema: bool = False) -> dict[str, Tensor]:
    """Published state dict in a file; with ``use_ema`` that of the averaged weights of a training checkpoint.

    Raises:
        ValueError: the file cannot be read safely, or has not the entries that are asked for.
    """
    checkpoint = _load(path)
    entries = list(checkpoint) if isinstance(checkpoint, dict) else type(checkpoint).__name__
    if not isinstance(checkpoint, dict) or "gen_state_dict" not in checkpoint:
        raise ValueError(
            f"{path} is not a published Music2Latent checkpoint: no entry 'gen_state_dict', got {entries}"
        )
    if not use_ema:
        return checkpoint["gen_state_dict"]
    if "shadow_params" not in (checkpoint.get("ema_state_dict") or ()):
        raise ValueError(
            f"use_ema needs an entry 'ema_state_dict' with 'shadow_params', but {path} has {entries}; "
            "only training checkpoints hold averaged weights, others are read without use_ema"
        )
    return averaged_state_dict(checkpoint["gen_state_dict"], checkpoint["ema_state_dict"]["shadow_params"])


def averaged_state_dict(state: dict[str, Tensor], shadow_params: Sequence[Tensor]) -> dict[str, Tensor]:
    """Averaged weights under the names of ``state``, in whose order they are.

    Raises:
        ValueError: there are more or fewer of them than names, or some are not shaped like their namesakes.
    """
    if len(shadow_params) != len(state):
        raise ValueError(
            f"{len(state)} tensors in gen_state_dict need as many shadow_params, got {len(shadow_params)}"
        )
    averaged = dict(zip(state, shadow_params, strict=True))
    wrong = _misshapen(averaged, state)
    if wrong:
        raise ValueError(f"the shadow_params do not follow the order of gen_state_dict: misshapen {wrong}")
    return averaged


def _load(path: str | Path) -> Any:
    with Path(path).open("rb") as file:
        start, is_zip = file.read(16), zipfile.is_zipfile(file)
    expected = f"cannot read {path}: expected a file by torch.save that holds only tensors and plain containers"
    if not is_zip:
        raise ValueError(f"{expected}, got one that starts with {start!r} or is cut off; download it again")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        remedy = "if it is yours, load it where it was made and save its 'gen_state_dict' alone"
        raise ValueError(f"{expected}, got {type(error).__name__} from torch.load; {remedy}") from error


def _misshapen(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    return [
        f"{name} is {tuple(tensor.shape)} instead of {tuple(expected[name].shape)}"
        for name, tensor in tensors.items()
        if tensor.shape != expected[name].shape
    ]


def _place(name: str) -> list[int]:
    """Key that sorts published names into the published order."""
    words = WORDS.split()
    return [int(part) if part.isdigit() else words.index(part) for part in name.split(".")]


def _prefixes(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Pairs of prefixes (ours, published)."""
    yield from _encoder(model.get_submodule("encoder"))
    yield from _latent_decoder(model.get_submodule("decoder"))
    yield from _denoiser(model.get_submodule("denoiser"))


def _encoder(encoder: nn.Module) -> Iterator[tuple[str, str]]:
    yield "encoder.gain", "encoder.gain.scale"
    for ours, published in {
        "conv_in": "conv_inp",
        "norm_features": "prenorm_1d_to_2d",
        "bottleneck_in": "bottleneck_layers.0",
        "norm_out": "norm_out",
        "conv_out": "conv_out",
    }.items():
        yield f"encoder.{ours}", f"encoder.{published}"
    for index in range(_count(encoder, "bottleneck")):
        yield from _block(f"encoder.bottleneck.{index}", f"encoder.bottleneck_layers.{index + 1}")
    for level in range(_count(encoder, "blocks")):
        yield from _block(f"encoder.blocks.{level}", f"encoder.down_layers.{2 * level}")
        yield f"encoder.downsamplers.{level}.norm", f"encoder.down_layers.{2 * level + 1}.norm"
        yield f"encoder.downsamplers.{level}.conv", f"encoder.down_layers.{2 * level + 1}.c"


def _latent_decoder(decoder: nn.Module) -> Iterator[tuple[str, str]]:
    yield "decoder.conv_in", "decoder.conv_inp"
    yield "decoder.bottleneck_out", "decoder.conv_out_bottleneck"
    for index in range(_count(decoder, "bottleneck")):
        yield from _block(f"decoder.bottleneck.{index}", f"decoder.bottleneck_layers.{index}")
    bottom = _count(decoder, "blocks") - 1
    for level in range(bottom + 1):
        yield from _block(f"decoder.blocks.{level}", f"decoder.up_layers.{2 * (bottom - level)}")
        yield f"decoder.upsamplers.{level}.conv", f"decoder.up_layers.{2 * (bottom - level) - 1}.c"


def _denoiser(denoiser: nn.Module) -> Iterator[tuple[str, str]]:
    for ours, published in {
        "time_embed": "emb_proj",
        "scale_in": "scale_inp",
        "scale_out": "scale_out",
        "conv_in": "conv_inp",
        "map_out": "conv_decoded",
        "norm_out": "norm_out",
        "conv_out": "conv_out",
    }.items():
        yield f"denoiser.{ours}", published
    down, up = denoiser.get_submodule("down_blocks"), denoiser.get_submodule("up_blocks")
    bottom = _count(denoiser, "down_blocks") - 1
    stride = 2 * _count(down, "0") + 1  # a map projection and a block each, then one change of resolution
    for level in range(bottom + 1):
        for index in range(_count(up, str(level))):
            first_down, first_up = stride * level + 2 * index, stride * (bottom - level) + 2 * index
            yield f"denoiser.down_blocks.{level}.{index}.map_proj", f"down_layers.{first_down}"
            yield f"denoiser.up_blocks.{level}.{index}.map_proj", f"up_layers.{first_up}"
            yield from _block(f"denoiser.down_blocks.{level}.{index}", f"down_layers.{first_down + 1}")
            yield from _block(f"denoiser.up_blocks.{level}.{index}", f"up_layers.{first_up + 1}")
        yield f"denoiser.downsamplers.{level}.conv", f"down_layers.{stride * (level + 1) - 1}.c"
        yield f"denoiser.upsamplers.{level}.conv", f"up_layers.{stride * (bottom - level) - 1}.c"


def _count(module: nn.Module, name: str) -> int:
    return len(list(module.get_submodule(name).children()))


def _block(ours: str, published: str) -> Iterator[tuple[str, str]]:
    for our_part, published_part in RES_BLOCK.items():
        yield f"{ours}.{our_part}", f"{published}.{published_part}"
