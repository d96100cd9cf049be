"""Measure whether seams show: where a loop closes, beside edited regions, and between the windows of a long piece.

    python scripts/measure_seams.py --pipeline pipelines/demo_model --output outputs/seams.json

At every place of a piece the jump is the mean distance between the log-mel spectra of the 50 ms before and after it. A
seam passes if its jump is no larger than 95 % of the jumps elsewhere in its piece. A piece that is like any place of
itself passes at 95 % of the seams by definition, so fewer than 19 of 20 says little, and far fewer says that the seam
shows. Controls: the same seam as a plain cut, and other places of the same loop.

Most pieces are made without a beat. A loop with one closes on a beat, where every piece jumps, so it is compared with
its own other beats: the one must pass about as often as the others.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli, set_parsing_settings

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoencoder.metrics import log_mel
from pipelines import Music2LatentPipeline
from pipelines.windows import OVERLAP

REACH_IN_S = 0.05
PERCENTILE = 0.95
SHARES = (0.25, 0.5, 0.75)
"""Places of a loop that its join is compared with."""


@dataclass(frozen=True, kw_only=True)
class SeamConfig:
    """What is generated and measured."""

    pipeline: Path
    """Folder of a saved pipeline."""
    num_seeds: int = 20
    """Pieces of each kind."""
    seconds: float = 8.0
    """Length of loops and of edited pieces."""
    prompt: str = "lofi piano beat"
    """Description of all pieces."""
    num_inference_steps: int = 25
    """Steps of the scheduler."""
    output: Path | None = None
    """JSON file for the share of passed seams and for every rank."""


def jumps(waveform: torch.Tensor, sample_rate: int, is_loop: bool) -> torch.Tensor:
    """Jump at each mel frame of a piece (channels, samples); around the circle for a loop."""
    seconds = waveform.shape[-1] / sample_rate
    if is_loop:  # one turn between two more, so that every place has a before and an after
        waveform = waveform.repeat(1, 3)
    mel = log_mel(waveform.mean(0), sample_rate)
    rate = mel.shape[-1] / (waveform.shape[-1] / sample_rate)
    reach = max(round(REACH_IN_S * rate), 1)
    means = mel.unfold(-1, reach, 1).mean(-1)
    distance = (means[:, reach:] - means[:, :-reach]).abs().mean(0)
    distance = torch.nn.functional.pad(distance, (reach, 0))  # entry i compares what ends and what begins at frame i
    return distance[round(seconds * rate) : round(2 * seconds * rate)] if is_loop else distance[reach:-1]


def rank(waveform: torch.Tensor, sample_rate: int, place_in_s: float, is_loop: bool = False) -> float:
    """Share of the places whose jump is smaller than the largest within 20 ms of a seam; 1 is the worst."""
    distance = jumps(waveform, sample_rate, is_loop)
    rate = len(distance) / (waveform.shape[-1] / sample_rate)
    offset = 0 if is_loop else round(REACH_IN_S * rate)
    index, near = round(place_in_s * rate) - offset, max(round(0.02 * rate), 1)
    around = torch.arange(index - near, index + near + 1)
    around = around % len(distance) if is_loop else around.clamp(0, len(distance) - 1)
    far = torch.ones(len(distance), dtype=torch.bool)
    far[around] = False
    # the seam may be the largest of several places, so the others are taken as largest of as many
    others = distance[far].unfold(0, len(around), 1).amax(-1)
    return (others < distance[around].max()).float().mean().item()


def seams_of_seed(pipe: Any, config: SeamConfig, seed: int) -> Iterator[tuple[str, float]]:
    """Kind and rank of every seam of one seed."""
    rate, third = pipe.sample_rate, config.seconds / 3

    def call(seed: int = seed, tempo: float | None = 0.0, **arguments: Any) -> Any:
        generator, steps = torch.Generator().manual_seed(seed), config.num_inference_steps
        settings = {"num_inference_steps": steps, "generator": generator, "tempo": tempo, "output_type": "pt"}
        return pipe(config.prompt, **settings, **arguments)

    piece = call(audio_length_in_s=config.seconds).audio[0]
    loop = call(audio_length_in_s=config.seconds, loop=True).audio[0]
    yield "loop", rank(loop, rate, 0.0, is_loop=True)
    for share in SHARES:
        yield "loop, elsewhere", rank(loop, rate, share * config.seconds, is_loop=True)
    yield "loop, plain cut", rank(piece, rate, 0.0, is_loop=True)
    output = call(audio_length_in_s=config.seconds, loop=True, tempo=None)
    if tempo := output.metadata[0]["tempo"]:  # of a pipeline with a tempo prior
        yield "loop with beats", rank(output.audio[0], rate, 0.0, is_loop=True)
        beats = config.seconds * tempo / 60
        for share in SHARES:
            place = round(share * beats) / beats * config.seconds
            yield "its other beats", rank(output.audio[0], rate, place, is_loop=True)
    edited = call(audio=piece, regions=[(third, 2 * third)]).audio[0]
    other = call(seed + 1000, audio_length_in_s=config.seconds).audio[0]
    cut = piece.clone()
    cut[:, round(third * rate) : round(2 * third * rate)] = other[:, round(third * rate) : round(2 * third * rate)]
    for place in (third, 2 * third):
        yield "region", rank(edited, rate, place)
        yield "region, plain cut", rank(cut, rate, place)
    window = pipe.max_audio_length_in_s
    long = call(audio_length_in_s=window * (2 - OVERLAP) - 0.2).audio[0]
    yield "window", rank(long, rate, window)


def main(config: SeamConfig) -> dict[str, list[float]]:
    """Generate, measure and print."""
    pipe = Music2LatentPipeline.from_pretrained(config.pipeline)
    pipe.to("cuda" if torch.cuda.is_available() else "cpu")
    pipe.set_progress_bar_config(disable=True)
    ranks: dict[str, list[float]] = {}
    for seed in range(config.num_seeds):
        for kind, value in seams_of_seed(pipe, config, seed):
            ranks.setdefault(kind, []).append(value)
    print(f"{'seam':20}{'passed':>12}{'median rank':>14}")
    for kind, values in ranks.items():
        passed = sum(value <= PERCENTILE for value in values)
        print(f"{kind:20}{f'{passed} of {len(values)}':>12}{torch.tensor(values).median().item():>14.3f}")
    if config.output is not None:
        config.output.write_text(json.dumps(ranks, indent=2))
    return ranks


if __name__ == "__main__":
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    main(auto_cli(SeamConfig, as_positional=False))
