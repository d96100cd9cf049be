"""Families of text encoders, built tiny from their configurations: each is found, masked and measured rightly."""

from pathlib import Path

import pytest
import torch
from diffusers.schedulers import FlowMatchEulerDiscreteScheduler
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch.testing import assert_close
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5GemmaConfig,
    T5GemmaEncoderModel,
)
from transformers.models.t5gemma.configuration_t5gemma import T5GemmaModuleConfig

from latent_diffusion.caption_states import encode_captions
from latent_diffusion.text import encode_text, load_text_encoder, text_width
from pipelines import Music2LatentPipeline
from tests.conftest import WORDS

VOCABULARY = {word: index for index, word in enumerate(("<pad>", "<unk>", "</s>", *WORDS))}


def bert() -> PreTrainedModel:
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return BertModel(BertConfig(vocab_size=16, **size))


def distilbert() -> PreTrainedModel:
    return DistilBertModel(DistilBertConfig(vocab_size=16, dim=32, n_layers=1, n_heads=2, hidden_dim=32))


def t5() -> PreTrainedModel:
    return T5EncoderModel(T5Config(vocab_size=16, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2))


def t5gemma() -> PreTrainedModel:
    half = T5GemmaModuleConfig(
        vocab_size=16,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=64,
        sliding_window=64,
        layer_types=["full_attention"],
    ).to_dict()
    return T5GemmaEncoderModel(T5GemmaConfig(encoder=half, decoder=half, is_encoder_decoder=False))


FAMILIES = {"bert": bert, "distilbert": distilbert, "t5": t5, "t5gemma": t5gemma}


def save(model: PreTrainedModel, folder: Path, with_end_mark: bool = True) -> Path:
    """The model with a tokenizer of its kind: T5 ends each prompt with a mark, others may have none at all."""
    tokenizer = Tokenizer(WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    if with_end_mark:
        tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", VOCABULARY["</s>"])])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="</s>", model_max_length=16
    ).save_pretrained(folder)
    torch.manual_seed(0)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_found_by_its_folder_and_knows_its_width(family, tmp_path):
    tokenizer, encoder = load_text_encoder(str(save(FAMILIES[family](), tmp_path)))
    assert type(encoder) is type(FAMILIES[family]())
    assert text_width(encoder) == 32
    states, mask = encode_text(tokenizer, encoder, ["lofi piano", ""])
    assert states.shape == (2, 3, 32)
    assert mask.tolist() == [[True] * 3, [True, False, False]]
    captions = encode_captions(["lofi piano", ""], tokenizer, encoder, tmp_path / "captions")
    assert_close(captions["lofi piano"].float(), states[0], rtol=1e-2, atol=1e-2)  # kept in half precision


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_has_no_influence_in_any_family(family, tmp_path):
    tokenizer, encoder = load_text_encoder(str(save(FAMILIES[family](), tmp_path)))
    states, mask = encode_text(tokenizer, encoder, ["lofi", "slow ambient pads low high"])
    alone, _ = encode_text(tokenizer, encoder, ["lofi"])
    assert_close(states[0][mask[0]], alone[0])


@pytest.mark.parametrize("family", ["t5", "t5gemma"])
def test_a_pipeline_generates_with_any_family_and_saves_it(family, codec, transformer, tmp_path):
    tokenizer, encoder = load_text_encoder(str(save(FAMILIES[family](), tmp_path / "encoder")))
    pipe = Music2LatentPipeline(codec, transformer, encoder, tokenizer, FlowMatchEulerDiscreteScheduler())
    pipe.save_pretrained(tmp_path / "pipeline")
    loaded = Music2LatentPipeline.from_pretrained(tmp_path / "pipeline")
    music = []
    for one in (pipe, loaded):
        one.set_progress_bar_config(disable=True)
        seeded = torch.Generator().manual_seed(0)
        settings = {"audio_length_in_s": 0.1, "num_inference_steps": 1, "output_type": "pt", "generator": seeded}
        music.append(one("lofi piano", negative_prompt="techno", **settings).audio)
    assert_close(*music, rtol=0, atol=0)


def test_an_empty_prompt_without_a_single_token_is_no_text(codec, transformer, tmp_path):
    tokenizer, encoder = load_text_encoder(str(save(t5(), tmp_path, with_end_mark=False)))
    states, mask = encode_text(tokenizer, encoder, [""])
    assert states.shape == (1, 0, 32)
    states, mask = encode_text(tokenizer, encoder, ["", "lofi"])
    assert mask.tolist() == [[False], [True]]
    assert_close(states[0], torch.zeros(1, 32))
    pipe = Music2LatentPipeline(codec, transformer, encoder, tokenizer, FlowMatchEulerDiscreteScheduler())
    pipe.set_progress_bar_config(disable=True)
    assert pipe(["", "lofi"], audio_length_in_s=0.1, num_inference_steps=1, output_type="pt").audio.isfinite().all()


def test_an_encoder_that_hides_its_width_is_an_error(tmp_path):
    encoder = t5gemma()
    encoder.config.encoder = None
    with pytest.raises(ValueError, match="T5GemmaEncoderModel does not say how wide its states are"):
        text_width(encoder)
