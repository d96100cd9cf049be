"""Offloading, attention backends, regional compile, and the cache of prompts."""

from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from diffusers.hooks import apply_group_offloading
from torch.testing import assert_close
from transformers import BertConfig, BertModel

from autoencoder import Music2LatentAutoencoder
from latent_diffusion import LatentDiT
from pipelines import Music2LatentPipeline


def generate(pipeline, prompt="lofi piano", **changes):
    seeded = torch.Generator().manual_seed(0)
    settings = {"audio_length_in_s": 0.2, "num_inference_steps": 2, "output_type": "pt", "generator": seeded}
    return pipeline(prompt, **(settings | changes)).audio


def parts(pipeline):
    return pipeline.text_encoder, pipeline.transformer, pipeline.autoencoder


def test_sequential_offload_gives_the_same_audio(pipeline):
    """As enable_sequential_cpu_offload does it, with the CPU as the device: weights exist only while a layer runs."""
    expected = generate(pipeline)
    for part in parts(pipeline):
        cpu_offload(part, torch.device("cpu"), offload_buffers=len(list(part.buffers())) > 0)
    assert pipeline.transformer.proj_in.weight.device.type == "meta"
    assert_close(generate(pipeline), expected, rtol=0, atol=1e-6)
    edited = generate(pipeline, audio=0.1 * torch.ones(1, 9000), regions=[(0.1, 0.15)], audio_length_in_s=None)
    assert edited.isfinite().all()


def test_model_offload_loads_each_part_when_it_is_needed(pipeline):
    """As enable_model_cpu_offload does it, with the CPU as the device; it goes by hooks on forward, encode, decode."""
    expected, order, hook = generate(pipeline), [], None
    for name, part in zip(("text_encoder", "transformer", "autoencoder"), parts(pipeline), strict=True):
        _, hook = cpu_offload_with_hook(part, "cpu", prev_module_hook=hook)
        inner = part._hf_hook.pre_forward

        def note(module, *args, name=name, inner=inner, **kwargs):
            order.append(name)
            return inner(module, *args, **kwargs)

        part._hf_hook.pre_forward = note
    pipeline.prompt_cache.clear()
    assert_close(generate(pipeline), expected, rtol=0, atol=0)
    assert list(dict.fromkeys(order)) == ["text_encoder", "transformer", "autoencoder"]


def test_the_order_of_offloading_names_all_models(pipeline):
    assert pipeline.model_cpu_offload_seq.split("->") == ["text_encoder", "tempo_prior", "transformer", "autoencoder"]


@pytest.mark.parametrize("kind", ["leaf_level", "block_level"])
def test_group_offload_gives_the_same_audio(pipeline, kind):
    expected, cpu = generate(pipeline), torch.device("cpu")
    blocks = {"num_blocks_per_group": 1} if kind == "block_level" else {}
    for part in (pipeline.transformer, pipeline.autoencoder):
        apply_group_offloading(part, onload_device=cpu, offload_device=cpu, offload_type=kind, **blocks)
    assert_close(generate(pipeline), expected, rtol=0, atol=1e-6)


@pytest.fixture
def math_attention(pipeline):
    """diffusers takes the backend that was set last for all models without one."""
    yield lambda: pipeline.transformer.set_attention_backend("_native_math")
    pipeline.transformer.set_attention_backend("native")


def test_attention_goes_through_the_dispatcher(pipeline, math_attention):
    expected = generate(pipeline, output_type="latent")
    math_attention()
    assert_close(generate(pipeline, output_type="latent"), expected, rtol=1e-4, atol=1e-4)
    backends = {
        module.processor._attention_backend
        for module in pipeline.transformer.modules()
        if hasattr(module, "processor")
    }
    assert {str(getattr(backend, "value", backend)) for backend in backends} == {"_native_math"}


def compile_and_generate(folder: Path, result: Path) -> None:
    """Run in a process of its own, without the type checks, which cannot be compiled."""
    pipeline = Music2LatentPipeline.from_pretrained(folder)
    pipeline.transformer.compile_repeated_blocks(fullgraph=True, backend="aot_eager")
    torch.save([generate(pipeline, output_type="latent", loop=loop) for loop in (False, True)], result)


def test_repeated_blocks_compile_without_a_break(pipeline, tmp_path, new_process):
    pipeline.save_pretrained(tmp_path / "pipeline")
    process = new_process.Process(target=compile_and_generate, args=(tmp_path / "pipeline", tmp_path / "latents.pt"))
    process.start()
    process.join()
    expected = [generate(pipeline, output_type="latent", loop=loop) for loop in (False, True)]
    assert_close(torch.load(tmp_path / "latents.pt"), expected, rtol=1e-4, atol=1e-4)


def test_both_models_name_their_repeated_blocks():
    assert LatentDiT._repeated_blocks == ["LatentDiTBlock"]
    assert {"ResBlock", "GuidedBlock"} <= set(Music2LatentAutoencoder._no_split_modules)


def count_calls(text_encoder) -> list[int]:
    calls = []
    text_encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


def test_a_prompt_is_encoded_once(pipeline):
    calls = count_calls(pipeline.text_encoder)
    first = generate(pipeline)
    assert len(calls) == 2  # the prompt and the empty one
    assert_close(generate(pipeline), first, rtol=0, atol=0)
    generate(pipeline, ["lofi piano", "techno", "lofi piano"])
    assert len(calls) == 3
    pipeline.prompt_cache.clear()
    generate(pipeline)
    assert len(calls) == 5


def test_another_text_encoder_or_precision_is_noticed(pipeline):
    first, _, *_ = pipeline.encode_prompt("lofi")
    config = BertConfig(
        vocab_size=15, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    pipeline.text_encoder = BertModel(config).eval()
    second, _, *_ = pipeline.encode_prompt("lofi")
    assert (second - first).abs().max() > 1e-3
    pipeline.text_encoder.to(torch.bfloat16)
    assert pipeline.encode_prompt("lofi")[0].dtype == torch.bfloat16


def test_the_cache_forgets_the_oldest_prompts(pipeline):
    calls = count_calls(pipeline.text_encoder)
    prompts = ["lofi " * number for number in range(1, 70)]
    embeds, *_ = pipeline.encode_prompt(prompts)
    assert len(embeds) == 69
    assert len(pipeline.prompt_cache._states) == 64
    before = len(calls)
    pipeline.encode_prompt(prompts[:1])
    assert len(calls) == before + 1
