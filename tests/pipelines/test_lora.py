"""LoRA made with peft: loading, weighing, stacking, fusing, and the bit-identical base after unloading."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch.testing import assert_close

from latent_diffusion import LatentDiT
from pipelines import Music2LatentPipeline
from tests.conftest import TINY_DIT, randomize


def generate(pipeline, **changes):
    seeded = torch.Generator().manual_seed(0)
    settings = {"audio_length_in_s": 0.2, "num_inference_steps": 2, "output_type": "latent", "generator": seeded}
    return pipeline("lofi piano", **(settings | changes)).audio


def write_adapter(folder: Path, seed: int) -> Path:
    """A LoRA as a training writes it: adapters on a transformer of its own, saved by the pipeline's class."""
    transformer = LatentDiT(in_channels=4, latent_rate=44_100 / 512, max_frames=90, codec_id="tiny", **TINY_DIT)
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    transformer.add_adapter(config)
    randomize(transformer, seed)
    Music2LatentPipeline.save_lora_weights(folder, transformer_lora_layers=get_peft_model_state_dict(transformer))
    return folder


@pytest.fixture
def adapters(tmp_path) -> tuple[Path, Path]:
    return write_adapter(tmp_path / "one", 1), write_adapter(tmp_path / "two", 2)


def weights(pipeline) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in pipeline.transformer.state_dict().items()}


def test_a_lora_changes_the_music_and_unloads_to_the_bit_identical_base(pipeline, adapters):
    base, before = generate(pipeline), weights(pipeline)
    pipeline.load_lora_weights(adapters[0])
    assert (generate(pipeline) - base).abs().max() > 1e-3
    pipeline.unload_lora_weights()
    assert_close(weights(pipeline), before, rtol=0, atol=0)
    assert_close(generate(pipeline), base, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute")  # peft says so for every second one
def test_two_loras_stack_with_weights(pipeline, adapters):
    pipeline.load_lora_weights(adapters[0], adapter_name="one")
    one = generate(pipeline)
    pipeline.load_lora_weights(adapters[1], adapter_name="two")
    pipeline.set_adapters(["one", "two"], [1.0, 0.0])
    assert_close(generate(pipeline), one, rtol=0, atol=1e-5)
    pipeline.set_adapters(["one", "two"], [0.7, 0.7])
    both = generate(pipeline)
    assert (both - one).abs().max() > 1e-3
    assert pipeline.get_active_adapters() == ["one", "two"]
    pipeline.delete_adapters("two")
    pipeline.set_adapters("one")
    assert_close(generate(pipeline), one, rtol=0, atol=1e-5)


def test_the_scale_of_a_lora_can_be_given_with_the_call(pipeline, adapters):
    base = generate(pipeline)
    pipeline.load_lora_weights(adapters[0])
    full = generate(pipeline)
    assert_close(generate(pipeline, attention_kwargs={"scale": 0.0}), base, rtol=0, atol=1e-5)
    half = generate(pipeline, attention_kwargs={"scale": 0.5})
    assert (half - base).abs().max() > 1e-3
    assert (half - full).abs().max() > 1e-3


def test_a_fused_lora_gives_the_same_music_and_can_be_taken_out(pipeline, adapters):
    base = generate(pipeline)
    pipeline.load_lora_weights(adapters[0])
    loaded = generate(pipeline)
    pipeline.fuse_lora()
    assert_close(generate(pipeline), loaded, rtol=0, atol=1e-3)
    pipeline.unfuse_lora()
    pipeline.unload_lora_weights()
    assert_close(generate(pipeline), base, rtol=0, atol=1e-4)


def test_a_lora_of_another_model_is_an_error(pipeline, tmp_path):
    other = LatentDiT(in_channels=4, num_layers=2, num_attention_heads=4, attention_head_dim=16)
    other.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    Music2LatentPipeline.save_lora_weights(tmp_path, transformer_lora_layers=get_peft_model_state_dict(other))
    with pytest.raises(RuntimeError, match="size mismatch"):
        pipeline.load_lora_weights(tmp_path)
