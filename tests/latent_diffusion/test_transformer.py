from pathlib import Path

import pytest
import torch
import yaml
from diffusers import FirstBlockCacheConfig, PyramidAttentionBroadcastConfig, TaylorSeerCacheConfig
from peft import LoraConfig
from torch.testing import assert_close

from latent_diffusion import LatentDiT
from latent_diffusion.conditions import BEAT_CYCLE, NO_BEAT
from latent_diffusion.transformer import Attention, LatentDiTBlock, RotaryEmbedding

CONFIGS = Path(__file__).parents[2] / "scripts" / "configs"
CHANNELS, FRAMES, TOKENS, TEXT_WIDTH = 4, 6, 5, 12


def open_gates(module):
    """Give every parameter a random value, so that no branch is closed."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module


def tiny_model(**config):
    size = {"in_channels": CHANNELS, "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8}
    return LatentDiT(**(size | {"cross_attention_dim": TEXT_WIDTH} | config))


@pytest.fixture
def model():
    return open_gates(tiny_model()).eval()


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    return {
        "hidden_states": torch.randn(2, CHANNELS, FRAMES, generator=generator),
        "timestep": torch.tensor([0.3, 0.8]),
        "encoder_hidden_states": torch.randn(2, TOKENS, TEXT_WIDTH, generator=generator),
    }


@pytest.fixture
def conditions():
    generator = torch.Generator().manual_seed(2)
    return {
        "encoder_attention_mask": torch.arange(TOKENS) < torch.tensor([[3], [5]]),
        "duration": torch.tensor([20.0, 7.5]),
        "tempo": torch.tensor([93.0, 0.0]),
        "key": torch.tensor([3, 24]),
        "beats": torch.arange(FRAMES).expand(2, -1) / 5 - torch.tensor([[0.0], [100.0]]),
        "context_latents": torch.randn(2, CHANNELS, FRAMES, generator=generator),
        "context_mask": torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0, 0.0]).expand(2, 1, FRAMES),
        "attention_mask": torch.arange(FRAMES) < torch.tensor([[4], [6]]),
    }


def velocity(model, inputs, **changes):
    with torch.no_grad():
        return model(**(inputs | changes)).sample


@pytest.mark.parametrize(("preset", "millions"), [("test", 0.9), ("small", 15.0), ("base", 120.0), ("large", 450.0)])
def test_presets_have_their_published_number_of_parameters(preset, millions):
    config = yaml.safe_load((CONFIGS / f"latent_dit_{preset}.yaml").read_text())["model"]
    with torch.device("meta"):
        model = LatentDiT(**config)
    assert model.num_parameters() == pytest.approx(millions * 1e6, rel=0.1)


def test_a_new_model_predicts_zero(inputs, conditions):
    assert_close(velocity(tiny_model(), inputs, **conditions), torch.zeros(2, CHANNELS, FRAMES), rtol=0, atol=0)


def test_a_new_block_is_the_identity():
    block = LatentDiTBlock(width=16, head_dim=8, mlp_ratio=2.0)
    x, tokens = torch.randn(2, FRAMES, 16), torch.randn(2, TOKENS, 16)
    rotary = (RotaryEmbedding(8, 10000.0)(x),) * 2
    assert_close(block(x, tokens, torch.zeros(2, 9, 16), rotary, None, None), x, rtol=0, atol=0)


def test_padding_frames_have_no_influence_on_real_frames(model, inputs, conditions):
    real = conditions["attention_mask"][:, None]
    changed = torch.where(real, inputs["hidden_states"], torch.tensor(50.0))
    expected = velocity(model, inputs, **conditions)
    actual = velocity(model, inputs, **(conditions | {"hidden_states": changed}))
    assert_close(actual * real, expected * real)


def test_a_padded_item_equals_the_item_alone(model, inputs):
    mask = torch.arange(FRAMES) < torch.tensor([[4], [6]])
    alone = {name: value[:1] for name, value in inputs.items()} | {"hidden_states": inputs["hidden_states"][:1, :, :4]}
    assert_close(velocity(model, inputs, attention_mask=mask)[:1, :, :4], velocity(model, alone))


def test_masked_text_tokens_have_no_influence(model, inputs, conditions):
    mask = conditions["encoder_attention_mask"]
    changed = torch.where(mask[..., None], inputs["encoder_hidden_states"], torch.tensor(50.0))
    expected = velocity(model, inputs, encoder_attention_mask=mask)
    assert_close(velocity(model, inputs, encoder_attention_mask=mask, encoder_hidden_states=changed), expected)


def test_a_prompt_without_tokens_is_finite(model, inputs):
    assert velocity(model, inputs, encoder_attention_mask=torch.zeros(2, TOKENS, dtype=torch.bool)).isfinite().all()


def test_items_of_a_batch_do_not_see_each_other(model, inputs, conditions):
    both = inputs | conditions
    for item in range(2):
        alone = {name: value[item : item + 1] for name, value in both.items()}
        assert_close(velocity(model, alone), velocity(model, both)[item : item + 1])


def test_every_parameter_gets_a_gradient(model, inputs, conditions):
    conditions["duration"] = torch.tensor([20.0, 0.0])
    model(**inputs, **conditions).sample.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_every_row_of_the_modulation_tables_is_used(model, inputs):
    model(**inputs).sample.square().sum().backward()
    for block in model.transformer_blocks:
        assert (block.scale_shift_table.grad.abs().sum(dim=1) > 0).all()


def test_no_parameter_is_unused_when_nothing_is_given(model, inputs):
    model(**inputs).sample.square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"duration": torch.tensor([20.0, 20.2])},
        {"tempo": torch.tensor([121.0, 120.0])},
        {"key": torch.tensor([0, 23])},
        {"beats": torch.arange(FRAMES).expand(2, -1) / 5},
        {"context_latents": torch.ones(2, CHANNELS, FRAMES), "context_mask": torch.ones(2, 1, FRAMES)},
        {"timestep": torch.tensor([0.31, 0.81])},
        {"encoder_hidden_states": torch.ones(2, TOKENS, TEXT_WIDTH)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_each_condition_changes_the_velocity_of_each_item(model, inputs, changes):
    difference = velocity(model, inputs, **changes) - velocity(model, inputs)
    assert (difference.abs().amax(dim=(1, 2)) > 1e-3).all()


def test_none_equals_the_value_for_not_given(model, inputs):
    not_given = {
        "encoder_attention_mask": torch.ones(2, TOKENS, dtype=torch.bool),
        "duration": torch.zeros(2),
        "tempo": torch.zeros(2),
        "key": torch.full((2,), 24),
        "beats": torch.full((2, FRAMES), -1.0),
        "context_latents": torch.zeros(2, CHANNELS, FRAMES),
        "context_mask": torch.zeros(2, 1, FRAMES),
        "attention_mask": torch.ones(2, FRAMES, dtype=torch.bool),
    }
    assert_close(velocity(model, inputs, **not_given), velocity(model, inputs))


def test_context_is_ignored_where_its_mask_is_zero(model, inputs, conditions):
    changed = torch.where(conditions["context_mask"] == 1, conditions["context_latents"], torch.tensor(9.0))
    expected = velocity(model, inputs, **conditions)
    assert_close(velocity(model, inputs, **(conditions | {"context_latents": changed})), expected, rtol=0, atol=0)


@pytest.fixture
def attention():
    return open_gates(Attention(width=16, head_dim=8))


def test_attention_depends_on_relative_position_only(attention):
    x = torch.randn(2, FRAMES, 16)
    cos, sin = RotaryEmbedding(8, 10000.0)(torch.zeros(1, FRAMES + 100, 16))
    near = attention(x, rotary_emb=((cos[:FRAMES], sin[:FRAMES]),) * 2)
    far = attention(x, rotary_emb=((cos[100:], sin[100:]),) * 2)
    assert_close(far, near, rtol=1e-4, atol=1e-5)


def test_attention_sees_the_order_of_frames_through_rotary_embedding_only(attention):
    x = torch.randn(2, FRAMES, 16)
    rotary = (RotaryEmbedding(8, 10000.0)(x),) * 2
    assert_close(attention(x.flip(1)).flip(1), attention(x))
    assert (attention(x.flip(1), rotary_emb=rotary).flip(1) - attention(x, rotary_emb=rotary)).abs().max() > 1e-3


def test_attention_accepts_float32_norms_in_a_bfloat16_model(attention):
    attention.bfloat16()
    attention.norm_q.float()
    assert attention(torch.randn(2, FRAMES, 16, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_save_and_load_gives_the_same_velocity(model, inputs, conditions, tmp_path):
    model.save_pretrained(tmp_path)
    loaded, info = LatentDiT.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert_close(velocity(loaded, inputs, **conditions), velocity(model, inputs, **conditions), rtol=0, atol=0)


def test_conditions_stay_float32_in_a_bfloat16_model(model, inputs, conditions, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = LatentDiT.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    islands = ("condition_embed.", "position_embed.", "beat_embed.", "modulation.", "scale_shift_table")
    for name, parameter in loaded.named_parameters():
        expected = torch.float32 if any(island in name for island in islands) else torch.bfloat16
        assert parameter.dtype == expected, name
        assert_close(parameter, model.get_parameter(name).to(expected), rtol=0, atol=0)


def test_frames_count_from_the_start_where_no_positions_are_given(model, inputs, conditions):
    counted = (torch.arange(FRAMES) / model.config.latent_rate).expand(2, -1)
    expected = model(**inputs, **conditions).sample
    assert_close(model(**inputs, **conditions, positions=counted).sample, expected)
    assert not torch.equal(model(**inputs, **conditions, positions=counted + 1).sample, expected)


def test_the_time_that_remains_matters(model, inputs):
    positions = torch.zeros(2, FRAMES)
    duration = torch.tensor([10.0, 20.0])
    embedded = model.position_embed(positions, duration)
    assert (embedded[0] - embedded[1]).abs().max() > 0.01


def test_beats_are_the_same_after_every_cycle(model):
    beats = torch.rand(2, FRAMES) * BEAT_CYCLE
    assert_close(model.beat_embed(beats + BEAT_CYCLE), model.beat_embed(beats), rtol=1e-4, atol=1e-4)
    assert (model.beat_embed(beats + 1) - model.beat_embed(beats)).abs().max() > 0.01


def test_frames_without_beats_are_treated_alike(model):
    embedded = model.beat_embed(torch.full((2, FRAMES), NO_BEAT))
    assert_close(embedded, torch.zeros_like(embedded))


def test_frames_without_positions_are_treated_alike(model):
    embedded = model.position_embed(torch.full((2, FRAMES), -1.0), torch.tensor([10.0, 20.0]))
    assert_close(embedded, torch.zeros_like(embedded))


@pytest.mark.parametrize("cast", ["load", "to"])
def test_a_bfloat16_model_is_close_to_the_float32_model(inputs, conditions, tmp_path, cast):
    model = tiny_model().eval()
    torch.nn.init.normal_(model.proj_out.weight)
    torch.nn.init.normal_(model.modulation.weight, std=0.1)
    expected = velocity(model, inputs, **conditions)
    model.save_pretrained(tmp_path)
    loaded = LatentDiT.from_pretrained(tmp_path, **({"torch_dtype": torch.bfloat16} if cast == "load" else {}))
    if cast == "to":
        loaded.to(torch.bfloat16)
    both = {name: value.bfloat16() if value.is_floating_point() else value for name, value in inputs.items()}
    both["timestep"] = inputs["timestep"]
    context = {name: conditions[name].bfloat16() for name in ("context_latents", "context_mask")}
    actual = velocity(loaded, both, **(conditions | context))
    assert actual.dtype == torch.bfloat16
    assert_close(actual.float(), expected, rtol=0.05, atol=0.1)


def test_rotary_tables_are_float32_under_a_bfloat16_default():
    torch.set_default_dtype(torch.bfloat16)
    try:
        cos, _ = RotaryEmbedding(8, 10000.0)(torch.zeros(1, 400, 16))
    finally:
        torch.set_default_dtype(torch.float32)
    assert_close(cos[:, 0], torch.arange(400.0).cos())


def test_training_under_autocast_runs(model, inputs, conditions):
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**inputs, **conditions).sample.float().square().sum()
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_gradient_checkpointing_gives_the_same_gradients(model, inputs, conditions):
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.enable_gradient_checkpointing()
        model.zero_grad()
        model(**inputs, **conditions).sample.square().sum().backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize(
    "config",
    [
        FirstBlockCacheConfig(threshold=0.1),
        PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2,
            current_timestep_callback=lambda: 500,
            spatial_attention_block_identifiers=("transformer_blocks",),
        ),
        TaylorSeerCacheConfig(cache_interval=2, disable_cache_before_step=1, taylor_factors_dtype=torch.float32),
    ],
    ids=lambda config: type(config).__name__,
)
def test_caches_repeat_the_velocity_of_a_repeated_step(model, inputs, config):
    expected = velocity(model, inputs)
    model.enable_cache(config)
    with model.cache_context("cond"):
        steps = [velocity(model, inputs) for _ in range(3)]
    model.disable_cache()
    for step in steps:
        assert_close(step, expected)


def test_fused_projections_change_nothing(model, inputs, conditions):
    expected = velocity(model, inputs, **conditions)
    model.fuse_qkv_projections()
    assert hasattr(model.transformer_blocks[0].self_attn, "to_qkv")
    assert_close(velocity(model, inputs, **conditions), expected)


def test_lora_changes_the_velocity_and_unloading_restores_it(model, inputs):
    expected = velocity(model, inputs)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    model.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    adapted = velocity(model, inputs)
    assert (adapted - expected).abs().max() > 1e-3
    assert_close(velocity(model, inputs, attention_kwargs={"scale": 0.0}), expected)
    assert_close(velocity(model, inputs), adapted)
    model.unload_lora()
    assert_close(velocity(model, inputs), expected)


def test_an_attention_backend_can_be_chosen(model, inputs, conditions):
    expected = velocity(model, inputs, **conditions)
    model.set_attention_backend("native")
    try:
        assert_close(velocity(model, inputs, **conditions), expected)
    finally:
        model.reset_attention_backend()


def test_normalize_gives_unit_statistics_and_denormalize_undoes_it():
    mean, std = (1.0, -2.0, 0.0, 5.0), (0.5, 2.0, 1.0, 4.0)
    model = tiny_model(latents_mean=mean, latents_std=std)
    unit = torch.randn(2, CHANNELS, FRAMES)
    latents = unit * torch.tensor(std)[:, None] + torch.tensor(mean)[:, None]
    assert_close(model.normalize(latents), unit)
    assert_close(model.denormalize(unit), latents)
    assert_close(tiny_model().normalize(latents), latents, rtol=0, atol=0)


def test_return_dict_false_gives_a_tuple(model, inputs):
    (sample,) = model(**inputs, return_dict=False)
    assert_close(sample, model(**inputs).sample)


def test_latent_statistics_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"latents_mean needs one value for each of the 4 .* got 3"):
        tiny_model(latents_mean=(0.0,) * 3, latents_std=(1.0,) * 4)


def test_a_mean_without_standard_deviation_is_refused():
    with pytest.raises(ValueError, match="give both latents_mean and latents_std, or neither"):
        tiny_model(latents_mean=(0.0,) * 4)


def test_another_number_of_channels_is_refused(model, inputs):
    with pytest.raises(ValueError, match=r"must be \(batch, 4, frames\), got \(2, 3, 6\)"):
        model(**(inputs | {"hidden_states": torch.zeros(2, 3, FRAMES)}))


@pytest.mark.parametrize("name", ["context_latents", "context_mask"])
def test_half_a_context_is_refused(model, inputs, conditions, name):
    with pytest.raises(ValueError, match=f"given together, got only {name}; pass both or neither"):
        model(**inputs, **{name: conditions[name]})
