"""Names of the published Music2Latent state dict <-> ours.

The published networks are flat lists of layers; ours are grouped by level. Both are walked in the same order. The
published latent decoder also owns noise-embedding layers that its forward never uses (``UNUSED``): they are dropped,
and nothing else is.
"""

import re
from collections.abc import Iterator

from torch import Tensor, nn

UNUSED = re.compile(r"decoder\.bottleneck_layers\.\d+\.proj_emb\.(weight|bias)")

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
        ValueError: a tensor is missing, unexpected or of another shape; all of them are named.
    """
    names, shapes = original_names(model), {name: tensor.shape for name, tensor in model.state_dict().items()}
    missing = sorted(set(names.values()) - set(original))
    unexpected = sorted(name for name in set(original) - set(names.values()) if not UNUSED.fullmatch(name))
    wrong = [
        f"{old} is {tuple(original[old].shape)} instead of {tuple(shapes[new])}"
        for new, old in names.items()
        if old in original and original[old].shape != shapes[new]
    ]
    if missing or unexpected or wrong:
        raise ValueError(
            "this state dict is not that of the published architecture: "
            f"missing {missing or 'nothing'}, unexpected {unexpected or 'nothing'}, misshapen {wrong or 'nothing'}"
        )
    return {new: original[old] for new, old in names.items()}


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
