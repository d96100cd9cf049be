"""Pipelines whose folder leaves the text encoder out, as the bundled model's does."""

import json
import shutil

import pytest
import torch
from torch.testing import assert_close

from autoencoder.metrics import level_difference
from pipelines import DEMO_MODEL, Music2LatentPipeline
from scripts import save_pipeline
from scripts.save_pipeline import SaveConfig


@pytest.fixture(scope="module")
def small_folder(chain, text_encoder_dir, tmp_path_factory):
    """A pipeline in half precision, in files of at most 200 kB, without its text encoder."""
    return save_pipeline.main(
        SaveConfig(
            autoencoder=chain.codec,
            transformer=chain.transformer,
            output_dir=tmp_path_factory.mktemp("small"),
            include_text_encoder=False,
            dtype="float16",
            max_shard_size="200KB",
        )
    )


def generate(pipe: Music2LatentPipeline) -> torch.Tensor:
    seeded = torch.Generator().manual_seed(3)
    return torch.as_tensor(pipe("low sine", audio_length_in_s=0.3, generator=seeded, output_type="pt").audio)


def test_a_text_encoder_that_the_folder_lacks_is_loaded_by_its_name(small_folder, chain):
    assert not (small_folder / "text_encoder").exists()
    pipe, complete = (Music2LatentPipeline.from_pretrained(folder) for folder in (small_folder, chain.pipeline))
    for ours, theirs in zip(pipe.text_encoder.parameters(), complete.text_encoder.parameters(), strict=True):
        assert_close(ours, theirs, rtol=0, atol=0)
    assert_close(pipe.encode_prompt("low sine")[0], complete.encode_prompt("low sine")[0])


def test_the_precision_asked_for_is_that_of_a_text_encoder_loaded_by_name_too(small_folder):
    pipe = Music2LatentPipeline.from_pretrained(small_folder, dtype=torch.bfloat16)
    assert pipe.text_encoder.dtype == pipe.transformer.dtype == torch.bfloat16


def test_a_text_encoder_may_be_saved_under_another_name(chain, text_encoder_dir, tmp_path):
    moved = shutil.copytree(text_encoder_dir, tmp_path / "moved")
    folder = save_pipeline.main(
        SaveConfig(
            autoencoder=chain.codec,
            transformer=chain.transformer,
            output_dir=tmp_path / "pipe",
            text_encoder=str(moved),
        )
    )
    pipe = Music2LatentPipeline.from_pretrained(folder)
    assert pipe.tempo_prior.config.text_encoder == pipe.transformer.config.text_encoder == str(moved)


def test_half_precision_weights_are_small_files_and_compute_in_float32(small_folder, chain):
    files = sorted(small_folder.rglob("*.safetensors"))
    assert max(path.stat().st_size for path in files) < 250_000
    assert sum(path.stat().st_size for path in files) < 0.55 * sum(
        path.stat().st_size for folder in (chain.codec, chain.transformer) for path in folder.rglob("*.safetensors")
    )
    pipe = Music2LatentPipeline.from_pretrained(small_folder)
    assert {parameter.dtype for parameter in pipe.transformer.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in pipe.autoencoder.parameters()} == {torch.float32}
    assert generate(pipe).isfinite().all()


def test_a_folder_without_the_name_of_its_text_encoder_says_what_to_pass(small_folder, tmp_path):
    folder = tmp_path / "nameless"
    shutil.copytree(small_folder, folder)
    path = folder / "transformer/config.json"
    path.write_text(path.read_text().replace('"text_encoder": "', '"text_encoder": "", "was": "'))
    with pytest.raises(ValueError, match="does not know the name of one; pass text_encoder and tokenizer"):
        Music2LatentPipeline.from_pretrained(folder)


def test_saved_parts_do_not_tell_where_they_were_trained(small_folder):
    for part in ("autoencoder", "transformer"):
        assert json.loads((small_folder / part / "config.json").read_text())["_name_or_path"] == small_folder.name


def test_the_bundled_model_generates_what_can_be_heard():
    pipe = Music2LatentPipeline.from_pretrained(DEMO_MODEL)
    assert pipe.transformer.config.codec_id == pipe.autoencoder.config.codec_id
    seeded = torch.Generator().manual_seed(0)
    music = pipe("driving techno", audio_length_in_s=2.0, num_inference_steps=4, generator=seeded, output_type="pt")
    assert music.audio.shape == (1, 1, 88_200)
    assert level_difference(music.audio[0], torch.ones(1, 88_200)) > -40  # dB of full scale
