"""A page to play with: generate music from text, and edit audio, in the browser.

    python scripts/app.py

Needs the extra `app`. The page is served on this machine only unless --host says otherwise, and loads nothing from
elsewhere.
"""

import functools
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import auto_cli
from matplotlib.figure import Figure

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
import gradio as gr

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoencoder.audio import resample
from autoencoder.figures import spectrogram_figure
from latent_diffusion.conditions import KEYS, MAX_TEMPO, MIN_TEMPO
from pipelines import DEMO_MODEL, Music2LatentPipeline
from pipelines.guidance import DEFAULT_GUIDANCE_SCALE

REPLACE, CONTINUE, LEAD_UP, VARY = "replace the region", "continue it", "lead up to it", "vary all of it"
FROM_PROMPT = "as the prompt says"
TITLE = "music2latent-kit"
Upload = tuple[int, np.ndarray] | None


def read_upload(upload: tuple[int, np.ndarray], sample_rate: int, num_channels: int) -> torch.Tensor:
    """Waveform (channels, samples) of an upload, at the rate and channels of the pipeline; the page says so."""
    rate, samples = upload
    if samples.dtype.kind == "i":
        samples = samples / (np.iinfo(samples.dtype).max + 1)
    waveform = torch.from_numpy(np.atleast_2d(samples.T).astype(np.float32))
    if rate != sample_rate:
        gr.Info(f"The audio was converted from {rate} to {sample_rate} Hz.")
        waveform = resample(waveform, rate, sample_rate).clamp(-1, 1)
    if len(waveform) != num_channels:
        gr.Info(f"The audio was converted from {len(waveform)} to {num_channels} channels.")
        waveform = waveform.mean(0, keepdim=True).repeat(num_channels, 1)
    return waveform


def show_upload(pipe: Music2LatentPipeline, upload: Upload, task: str, first: float, last: float) -> Figure | None:
    """Spectrogram of the upload with the region marked."""
    if upload is None:
        return None
    waveform = read_upload(upload, pipe.sample_rate, num_channels(pipe))
    figure = spectrogram_figure({"given audio": waveform}, pipe.sample_rate)
    if task == REPLACE:
        figure.axes[0].axvspan(first, last, color="cyan", alpha=0.3)
    return figure


def number(name: str, text: str) -> float | None:
    """What was typed; None for nothing."""
    if not text.strip():
        return None
    try:
        return float(text.replace(",", "."))
    except ValueError as error:
        raise ValueError(f"{name} must be a number or left empty, got {text!r}") from error


def num_channels(pipe: Music2LatentPipeline) -> int:
    """Audio channels that the pipeline makes."""
    return pipe.transformer.config.in_channels // pipe.autoencoder.config.latent_channels


def editing_arguments(
    pipe: Music2LatentPipeline,
    upload: Upload,
    task: str,
    seconds: float,
    first: float,
    last: float,
    strength: float,
    first_beat: str,
) -> dict[str, Any]:
    """Arguments of the call that do with the upload what the page asks for."""
    if upload is None:
        return {"audio_length_in_s": seconds}
    audio = read_upload(upload, pipe.sample_rate, num_channels(pipe))
    length = audio.shape[-1] / pipe.sample_rate
    tasks: dict[str, dict[str, Any]] = {
        REPLACE: {"regions": [(first, min(last, length))], "strength": strength},
        CONTINUE: {"audio_length_in_s": length + seconds},
        LEAD_UP: {"audio_start_in_s": seconds},
        VARY: {"strength": strength},
    }
    return {"audio": audio, "first_beat_in_s": number("the bar line", first_beat)} | tasks[task]


def generate(
    pipe: Music2LatentPipeline,
    prompt: str,
    negative_prompt: str,
    seconds: float,
    seed: float,
    guidance_scale: float,
    num_inference_steps: float,
    tempo: str,
    key: str,
    loop: bool,
    *editing: Any,
) -> tuple[str, Figure]:
    """Audio file and spectrogram; a wrong argument is shown on the page."""
    try:
        output: Any = pipe(
            prompt,
            negative_prompt=negative_prompt or None,
            generator=torch.Generator().manual_seed(int(seed)),
            guidance_scale=guidance_scale,
            num_inference_steps=int(num_inference_steps),
            tempo=number("tempo", tempo),
            key=None if key == FROM_PROMPT else key,
            loop=loop,
            **editing_arguments(pipe, editing[0], editing[1], seconds, *editing[2:]),
        )
    except (TypeError, ValueError) as error:
        raise gr.Error(str(error)) from error
    [path] = output.save(Path(tempfile.mkdtemp()) / "music.wav")
    told = output.metadata[0]["tempo"]  # the prompt may have got one
    title = f"{prompt or 'music'} ({told:g} bpm)" if told else prompt or "music"
    return str(path), spectrogram_figure({title: torch.from_numpy(output.audio[0])}, pipe.sample_rate)


def build_page(pipe: Music2LatentPipeline) -> gr.Blocks:
    """The page, not yet served."""
    longest = max(round(4 * pipe.max_audio_length_in_s, 1), 1.0)
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.Markdown(f"# {TITLE}\nMusic from text. The same seed and settings give the same music.")
        with gr.Row():
            with gr.Column():
                settings = _settings(longest)
                with gr.Accordion("Edit audio", open=False):
                    editing = _editing(longest)
                    picture = gr.Plot(label="Given audio", show_label=False)
                button = gr.Button("Generate", variant="primary", elem_id="generate")
            with gr.Column():
                audio = gr.Audio(label="Music", interactive=False, elem_id="music", buttons=["download"])
                spectrogram = gr.Plot(label="Spectrogram", show_label=False, elem_id="spectrogram")
        button.click(functools.partial(generate, pipe), [*settings, *editing], [audio, spectrogram])
        upload, task, first, last, *_ = editing
        for component in (upload, task, first, last):
            component.change(functools.partial(show_upload, pipe), [upload, task, first, last], picture)
    return page


def _settings(longest: float) -> list[Any]:
    prompt = gr.Textbox(label="Prompt", value="lofi piano beat", elem_id="prompt")
    negative = gr.Textbox(label="Negative prompt", placeholder="what to steer away from")
    with gr.Row():
        seconds = gr.Slider(0.5, longest, min(10, round(longest / 4, 1)), step=0.1, label="Seconds", elem_id="seconds")
        seed = gr.Number(0, precision=0, label="Seed")
    with gr.Row():
        guidance = gr.Slider(1, 12, DEFAULT_GUIDANCE_SCALE, step=0.5, label="Guidance")
        steps = gr.Slider(1, 100, 25, step=1, label="Steps")
    with gr.Row():
        # no gr.Number: an empty one shows and gives 0, which is music without a beat
        limits = f"{MIN_TEMPO:.0f} to {MAX_TEMPO:.0f}, 0: none"
        tempo = gr.Textbox(label=f"Tempo ({limits})", placeholder=FROM_PROMPT, elem_id="tempo")
        key = gr.Dropdown([FROM_PROMPT, "none", *KEYS], value=FROM_PROMPT, label="Key")
    return [prompt, negative, seconds, seed, guidance, steps, tempo, key, gr.Checkbox(False, label="Seamless loop")]


def _editing(longest: float) -> list[Any]:
    upload = gr.Audio(label="Given audio", type="numpy", sources=["upload"])
    task = gr.Radio([REPLACE, CONTINUE, LEAD_UP, VARY], value=REPLACE, label="What to do with it")
    with gr.Row():
        first = gr.Slider(0, longest, 1, step=0.05, label="Region from (s)")
        last = gr.Slider(0, longest, 2, step=0.05, label="Region to (s)")
    strength = gr.Slider(0.05, 1, 1, step=0.05, label="Strength")
    first_beat = gr.Textbox(label="A bar line of it (s), with its tempo", placeholder="not known")
    return [upload, task, first, last, strength, first_beat]


def main(
    *,
    pipeline: Path = DEMO_MODEL,
    host: str = "127.0.0.1",
    port: int = 7860,
    dtype: str = "float32",
) -> None:
    """Serve the page until it is stopped.

    Args:
        pipeline: folder of a saved pipeline; the default is the bundled model.
        host: address to serve on; 0.0.0.0 lets other machines in.
        port: port to serve on.
        dtype: float32, or bfloat16 on a GPU that has it.
    """
    if not pipeline.is_dir():
        raise ValueError(f"there is no pipeline folder {pipeline}; the bundled one is {DEMO_MODEL}")
    pipe = Music2LatentPipeline.from_pretrained(pipeline, dtype=getattr(torch, dtype))
    pipe.to("cuda" if torch.cuda.is_available() else "cpu")
    theme = gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    build_page(pipe).launch(server_name=host, server_port=port, share=False, theme=theme)


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
