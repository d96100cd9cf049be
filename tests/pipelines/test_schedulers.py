"""Schedulers of diffusers in place of Euler's: the known frames, the seeds and the strength hold with all of them."""

import pytest
import torch
from diffusers.callbacks import PipelineCallback
from diffusers.schedulers import (
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
    UniPCMultistepScheduler,
)
from torch.testing import assert_close

from tests.conftest import tone

FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
SCHEDULERS = {
    "euler": FlowMatchEulerDiscreteScheduler(),
    "shifted euler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    "heun": FlowMatchHeunDiscreteScheduler(),
    "dpm++": DPMSolverMultistepScheduler(**FLOW),
    "dpm++ in single steps": DPMSolverSinglestepScheduler(**FLOW),
    "deis": DEISMultistepScheduler(**FLOW),
    "unipc": UniPCMultistepScheduler(**FLOW),
    "stochastic euler": FlowMatchEulerDiscreteScheduler(stochastic_sampling=True),
    "lcm": FlowMatchLCMScheduler(),
}
STOCHASTIC = ("stochastic euler", "lcm")
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # of schedulers with numpy 2


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def generate(pipeline, prompt="lofi piano", **changes):
    settings = {"num_inference_steps": 4, "output_type": "latent", "generator": seeded()}
    return pipeline(prompt, **(settings | changes)).audio


@pytest.fixture(params=SCHEDULERS)
def swapped(request, pipeline):
    pipeline.scheduler = SCHEDULERS[request.param]
    return pipeline


def test_known_frames_stay_known_whatever_solves_the_flow(swapped):
    music = tone(440, 0.5)
    result = generate(swapped, audio=music, regions=[(0.2, 0.3)])
    encoded = swapped.autoencoder.encode(music[None])
    assert result.isfinite().all()
    assert_close(result[..., :17], encoded[..., :17], rtol=0, atol=1e-5)
    assert (result[..., 18:25] - encoded[..., 18:25]).abs().max() > 1e-2


def test_a_part_of_the_steps_varies_the_audio_less(swapped):
    music = tone(440, 0.5)
    encoded = swapped.autoencoder.encode(music[None])
    settings = {"audio": music, "num_inference_steps": 12, "guidance_scale": 1.0}
    little, much = (generate(swapped, strength=strength, **settings) - encoded for strength in (0.1, 0.9))
    assert little.norm() < much.norm()


@pytest.mark.parametrize("name", STOCHASTIC)
def test_noise_drawn_on_the_way_follows_from_the_seed_of_each_piece(pipeline, name):
    pipeline.scheduler = SCHEDULERS[name]
    settings = {"audio_length_in_s": 0.2}
    torch.manual_seed(1)
    first = generate(pipeline, **settings)
    torch.manual_seed(2)
    assert_close(generate(pipeline, **settings), first, rtol=0, atol=0)
    together = generate(pipeline, ["techno", "lofi piano"], generator=[seeded(1), seeded(0)], **settings)
    assert_close(together[1:], first, rtol=0, atol=1e-4)
    pipeline.scheduler = SCHEDULERS["euler"]
    assert (generate(pipeline, **settings) - first).abs().max() > 1e-2


class Halver(PipelineCallback):
    """As users write them: it says itself which tensors it wants."""

    tensor_inputs = ("latents", "prompt_embeds")

    def callback_fn(self, pipeline, step_index, timestep, callback_kwargs):
        assert set(callback_kwargs) == {"latents", "prompt_embeds"}
        return {"latents": callback_kwargs["latents"] / 2}


def test_callback_objects_of_diffusers_get_the_tensors_that_they_ask_for(pipeline):
    plain = generate(pipeline, audio_length_in_s=0.2, num_inference_steps=1)
    halved = generate(
        pipeline,
        audio_length_in_s=0.2,
        num_inference_steps=1,
        callback_on_step_end=Halver(cutoff_step_ratio=None, cutoff_step_index=0),
    )
    assert_close(halved, plain / 2)


def test_each_prompt_may_have_its_own_tempo_and_key(pipeline):
    prompts, settings = ["techno", "lofi"], {"audio_length_in_s": 0.2}
    together = generate(
        pipeline, prompts, tempo=[90.0, None], key=[None, "A minor"], generator=[seeded(0), seeded(1)], **settings
    )
    alone = [
        generate(pipeline, "techno", tempo=90.0, generator=seeded(0), **settings),
        generate(pipeline, "lofi", key="A minor", generator=seeded(1), **settings),
    ]
    assert_close(together, torch.cat(alone), rtol=0, atol=1e-4)
