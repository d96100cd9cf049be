"""Text to an audio file and a picture of its spectrogram; audio can be edited and continued as well.

    python scripts/generate.py "lofi piano beat" --output beat.wav
    python scripts/generate.py "lofi piano beat" --audio beat.wav --regions "[[2, 4]]" --output other_bar.wav
    python scripts/generate.py "lofi piano beat" --audio beat.wav --audio_length_in_s 20 --output longer.wav
    python scripts/generate.py "driving techno" --audio_length_in_s 8 --loop true --output loop.wav

A file that was generated knows its beats; of other audio, give --tempo and --first_beat_in_s, so that they go on.
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
from pipelines import DEMO_MODEL, Music2LatentPipeline
from pipelines.output import AUDIO_SUFFIXES, Music2LatentPipelineOutput, read_metadata


def read_piece(path: Path, sample_rate: int) -> Music2LatentPipelineOutput:
    """The audio of a file; of a generated one also how it was made, so that its beats are known.

    Loud MP3 and Vorbis files reach beyond full scale: they are made quieter, and it is said.
    """
    try:
        metadata = [read_metadata(path)]
    except ValueError:
        metadata = None
    waveform = read_audio(path, sample_rate)
    peak = waveform.abs().max().item() if waveform.numel() else 0.0
    if peak > 1:
        print(f"{path} reaches {peak:.3f} of full scale; all of it was divided by that")
        waveform = waveform / peak
    return Music2LatentPipelineOutput(waveform[None], sample_rate, metadata)


def main(
    prompt: str,
    *,
    pipeline: Path = DEMO_MODEL,
    output: Path = Path("music.wav"),
    audio_length_in_s: float | None = None,
    negative_prompt: str | None = None,
    num_inference_steps: int = 25,
    guidance_scale: float | None = None,
    tempo: float | None = None,
    key: str | None = None,
    first_beat_in_s: float | None = None,
    loop: bool = False,
    audio: Path | None = None,
    audio_start_in_s: float = 0.0,
    regions: list[tuple[float, float]] | None = None,
    strength: float = 1.0,
    lora: Path | None = None,
    seed: int = 0,
) -> Path:
    """Generate music from a description.

    Args:
        prompt: description of the music.
        pipeline: folder of a saved pipeline; the default is the bundled model.
        output: .wav, .flac, .ogg or .mp3 file.
        audio_length_in_s: seconds of music; 10, or as long as the file to edit, if not given.
        negative_prompt: what to steer away from.
        num_inference_steps: steps of the scheduler.
        guidance_scale: weight of the prompt; 1 for none; the pipeline's own if not given.
        tempo: beats per minute, 0 for none; what the prompt states or suggests, if not given.
        key: such as "F# minor", or "none"; what the prompt states, or free, if not given.
        first_beat_in_s: where in the file to edit a bar begins.
        loop: the end joins the start.
        audio: file to edit or to continue.
        audio_start_in_s: where the file stands in the piece; later than 0, music that leads up to it is generated.
        regions: seconds of it to generate anew, such as "[[2, 4]]".
        strength: below 1, how much of the file is changed.
        lora: folder or file of a LoRA.
        seed: the same seed gives the same music.

    Returns:
        The audio file.
    """
    if not pipeline.is_dir():
        raise ValueError(f"there is no pipeline folder {pipeline}; the bundled one is {DEMO_MODEL}")
    if output.suffix.lower() not in AUDIO_SUFFIXES:  # now, and not after the music is made
        raise ValueError(f"--output must end in {', '.join(AUDIO_SUFFIXES)}, got {output}")
    if audio is not None and not audio.is_file():
        raise ValueError(f"there is no file {audio}; --audio needs one")
    pipe = Music2LatentPipeline.from_pretrained(pipeline)
    pipe.to("cuda" if torch.cuda.is_available() else "cpu")
    if lora is not None:
        pipe.load_lora_weights(lora)
    started = time.perf_counter()
    music = pipe(
        prompt,
        negative_prompt=negative_prompt,
        audio_length_in_s=audio_length_in_s,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        tempo=tempo,
        key=key,
        first_beat_in_s=first_beat_in_s,
        loop=loop,
        audio=None if audio is None else read_piece(audio, pipe.sample_rate),
        audio_start_in_s=audio_start_in_s,
        regions=regions,
        strength=strength,
        generator=torch.Generator().manual_seed(seed),
    )
    elapsed = time.perf_counter() - started
    music.save(output)
    picture = output.with_suffix(".png")
    spectrogram_figure({prompt: read_audio(output, music.sample_rate)}, music.sample_rate).savefig(picture, dpi=120)
    told = {name: music.metadata[0][name] for name in ("tempo", "key")}
    numbers = ", ".join(f"no {name}" if value in (0, "none") else f"{name} {value}" for name, value in told.items())
    seconds = music.audio.shape[-1] / music.sample_rate
    print(f"{output} and {picture}: {seconds:.1f} s of music ({numbers}) in {elapsed:.1f} s")
    return output


if __name__ == "__main__":
    try:
        auto_cli(main, as_positional=True)
    except (TypeError, ValueError) as error:
        sys.exit(f"error: {error}")
