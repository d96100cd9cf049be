"""Text to an audio file and a picture of its spectrogram.

    python scripts/generate.py "lofi piano beat" --pipeline outputs/demo/pipeline --output beat.wav

The picture is written beside the audio, with the suffix .png.
"""

import sys
import time
from pathlib import Path

import torch
from jsonargparse import auto_cli

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoencoder.audio import read_audio
from autoencoder.figures import spectrogram_figure
from pipelines import Music2LatentPipeline


def main(
    prompt: str,
    *,
    pipeline: Path = Path("outputs/demo/pipeline"),
    output: Path = Path("music.wav"),
    audio_length_in_s: float = 10.0,
    negative_prompt: str | None = None,
    num_inference_steps: int = 25,
    guidance_scale: float = 4.0,
    tempo: float | None = None,
    key: str | None = None,
    seed: int = 0,
) -> Path:
    """Generate music from a description.

    Args:
        prompt: description of the music.
        pipeline: folder of a saved pipeline; the default is where `make demo` puts it.
        output: .wav, .flac or .ogg file.
        audio_length_in_s: seconds of music.
        negative_prompt: what to steer away from.
        num_inference_steps: steps of the scheduler.
        guidance_scale: weight of the prompt; 1 for none.
        tempo: beats per minute.
        key: such as "F# minor".
        seed: the same seed gives the same music.

    Returns:
        The audio file.
    """
    if not pipeline.is_dir():
        raise ValueError(f"there is no pipeline folder {pipeline}; `make demo` makes outputs/demo/pipeline")
    pipe = Music2LatentPipeline.from_pretrained(pipeline)
    pipe.to("cuda" if torch.cuda.is_available() else "cpu")
    started = time.perf_counter()
    music = pipe(
        prompt,
        negative_prompt=negative_prompt,
        audio_length_in_s=audio_length_in_s,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        tempo=tempo,
        key=key,
        generator=torch.Generator().manual_seed(seed),
    )
    elapsed = time.perf_counter() - started
    music.save(output)
    picture = output.with_suffix(".png")
    spectrogram_figure({prompt: read_audio(output, music.sample_rate)}, music.sample_rate).savefig(picture, dpi=120)
    print(f"{output} and {picture}: {audio_length_in_s:.1f} s in {elapsed:.1f} s")
    return output


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
