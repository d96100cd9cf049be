"""Steps against quality for several schedulers of diffusers: the distance to where infinitely many steps would end.

    python scripts/compare_schedulers.py --pipeline pipelines/demo_model

The flow is an ordinary differential equation, so every solver goes to the same latents if its steps are small enough.
The table shows the mean distance to 500 Euler steps, relative to the spread of the latents, by the number of
evaluations of the transformer. It says how well the equation is solved, not how good the music is.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.schedulers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from jsonargparse import auto_cli, set_parsing_settings

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines import Music2LatentPipeline
from pipelines.guidance import DEFAULT_GUIDANCE_SCALE

FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
SCHEDULERS: dict[str, Any] = {
    "Euler (first order)": FlowMatchEulerDiscreteScheduler(),
    "Heun (second order)": FlowMatchHeunDiscreteScheduler(),
    "DPM-Solver++ 2M (second order)": DPMSolverMultistepScheduler(**FLOW),
    "UniPC (second order)": UniPCMultistepScheduler(**FLOW),
}
PROMPTS = ("lofi piano beat", "slow ambient pads", "driving techno, 130 bpm", "acoustic guitar ballad")


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """What is compared."""

    pipeline: Path
    """Folder of a saved pipeline."""
    evaluations: tuple[int, ...] = (4, 8, 16, 25, 50)
    """Evaluations of the transformer, guidance not counted."""
    reference_steps: int = 500
    """Euler steps that count as infinitely many."""
    seconds: float = 10.0
    """Length of each piece."""
    guidance_scale: float = DEFAULT_GUIDANCE_SCALE
    """Weight of the prompt; 1 for none."""
    output: Path | None = None
    """JSON file for the figures."""


def latents(pipe: Any, config: CompareConfig, steps: int) -> torch.Tensor:
    """Normalised latents of all prompts, with the same noise every time."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(PROMPTS))]
    return pipe.transformer.normalize(
        pipe(
            list(PROMPTS),
            audio_length_in_s=config.seconds,
            num_inference_steps=steps,
            guidance_scale=config.guidance_scale,
            generator=generators,
            output_type="latent",
        ).audio
    )


def main(config: CompareConfig) -> dict[str, dict[int, float]]:
    """Measure and print a table."""
    pipe = Music2LatentPipeline.from_pretrained(config.pipeline)
    pipe.to("cuda" if torch.cuda.is_available() else "cpu")
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler()
    reference = latents(pipe, config, config.reference_steps)
    results: dict[str, dict[int, float]] = {}
    print(f"{'evaluations':32}" + "".join(f"{number:>9}" for number in config.evaluations))
    for name, scheduler in SCHEDULERS.items():
        pipe.scheduler, results[name] = scheduler, {}
        for number in config.evaluations:
            # Heun evaluates twice a step, but for the last
            steps = (number + 1) // 2 if scheduler.order == 2 and "Heun" in name else number
            error = latents(pipe, config, steps) - reference
            results[name][number] = (error.square().mean() / reference.var()).sqrt().item()
        print(f"{name:32}" + "".join(f"{value:>9.3f}" for value in results[name].values()), flush=True)
    if config.output is not None:
        config.output.write_text(json.dumps(results, indent=2))
    return results


if __name__ == "__main__":
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    main(auto_cli(CompareConfig, as_positional=False))
