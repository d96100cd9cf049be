"""The model card that is written with each saved pipeline."""

from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from pipelines.parts import Music2LatentParts

MARK = "<!-- written by music2latent-kit with every save; remove this line to keep your own changes -->"

CARD = """---
library_name: diffusers
pipeline_tag: text-to-audio
tags:
- music
- text-to-music
- music2latent
- diffusers
---
{mark}

# {name}

Text to music with music2latent-kit.

```python
from pipelines import Music2LatentPipeline

pipe = Music2LatentPipeline.from_pretrained("{name}")
pipe("slow piano", audio_length_in_s={seconds:.0f}).save("piano.wav")
```

After `import pipelines`, `diffusers.DiffusionPipeline.from_pretrained` works as well.

| | |
|---|---|
| audio | {sample_rate} Hz, {channels} |
| longest piece generated as a whole | {longest:.1f} s; longer ones are made of windows |
| codec | {codec_class}, {codec_size:.1f} M parameters, `{codec_id}`, {latent_rate:.2f} latent frames per second |
| transformer | {transformer_class}, {transformer_size:.1f} M parameters |
| text encoder | {text_encoder}, {text_size}, frozen |
| scheduler | {scheduler} |
| guidance | {guidance} |
| conditions | text, tempo{tempo_prior}, key, length, kept audio |

What it was trained on, and under which licence its weights may be used, has to be added by whoever trained it.
"""


def write_model_card(pipe: "Music2LatentParts", folder: Path) -> None:
    """Write ``README.md``, unless there is one that somebody else wrote."""
    path = folder / "README.md"
    if path.exists() and MARK not in path.read_text(encoding="utf-8"):
        return
    codec, transformer, text_encoder = pipe.autoencoder, pipe.transformer, pipe.text_encoder
    if codec is None or transformer is None:
        return  # there is no pipeline to describe, only parts
    channels = transformer.config.in_channels // codec.config.latent_channels
    card = CARD.format(
        mark=MARK,
        name=folder.name,
        seconds=min(pipe.max_audio_length_in_s, 10),
        sample_rate=codec.config.sample_rate,
        channels={1: "mono", 2: "stereo"}.get(channels, f"{channels} channels"),
        longest=pipe.max_audio_length_in_s,
        codec_class=type(codec).__name__,
        codec_size=_millions(codec),
        codec_id=codec.config.codec_id or "without an id",
        latent_rate=codec.latent_rate,
        transformer_class=type(transformer).__name__,
        transformer_size=_millions(transformer),
        text_encoder=transformer.config.text_encoder or type(text_encoder).__name__,
        text_size="loaded by its name" if text_encoder is None else f"{_millions(text_encoder):.1f} M parameters",
        scheduler=type(pipe.scheduler).__name__,
        tempo_prior="" if pipe.tempo_prior is None else " (one that suits the text, where none is given)",
        guidance="ClassifierFreeGuidance" if pipe.guider is None else type(pipe.guider).__name__,
    )
    path.write_text(card, encoding="utf-8")


def _millions(module: nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6
