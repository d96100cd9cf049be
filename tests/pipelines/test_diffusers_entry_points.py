"""Saved pipelines through diffusers' generic entry points, in all the forms that files come in."""

import json
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import AutoModel, DiffusionPipeline
from torch.testing import assert_close

import pipelines.parts
from autoencoder import Music2LatentAutoencoder
from latent_diffusion import LatentDiT
from pipelines import Music2LatentPipeline
from pipelines._registration import register
from pipelines.model_card import MARK


def generate(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    seeded = torch.Generator().manual_seed(7)
    settings = {"audio_length_in_s": 0.2, "num_inference_steps": 2, "output_type": "latent", "generator": seeded}
    return pipeline("lofi piano", **settings).audio


@pytest.fixture
def folder(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "pipeline")
    return tmp_path / "pipeline"


def load_generically(folder: Path, result: Path) -> None:
    """Run in a process of its own, where only ``pipelines`` has been imported."""
    loaded = DiffusionPipeline.from_pretrained(folder)
    torch.save(generate(loaded), result)


def test_diffusers_finds_the_pipeline_after_the_import(pipeline, folder, tmp_path, new_process):
    process = new_process.Process(target=load_generically, args=(folder, tmp_path / "latents.pt"))
    process.start()
    process.join()
    assert_close(torch.load(tmp_path / "latents.pt"), generate(pipeline), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("part", "kind"), [("transformer", LatentDiT), ("autoencoder", Music2LatentAutoencoder)])
def test_auto_model_finds_the_parts(folder, part, kind):
    assert isinstance(AutoModel.from_pretrained(str(folder), subfolder=part), kind)
    assert isinstance(AutoModel.from_pretrained(str(folder / part)), kind)


def test_registering_twice_changes_nothing():
    before = dict(diffusers.pipelines.pipeline_loading_utils.LOADABLE_CLASSES)
    register(LatentDiT, Music2LatentAutoencoder, Music2LatentPipeline)
    assert before == diffusers.pipelines.pipeline_loading_utils.LOADABLE_CLASSES


def test_our_names_replace_nothing_of_diffusers(monkeypatch):
    monkeypatch.setattr(diffusers, "LatentDiT", int, raising=False)
    register(LatentDiT)
    assert diffusers.LatentDiT is int


def test_without_the_private_table_registering_does_no_harm(monkeypatch):
    monkeypatch.delattr(diffusers.pipelines.pipeline_loading_utils, "LOADABLE_CLASSES")
    register(LatentDiT)


def test_a_folder_from_before_a_module_moved_still_loads(pipeline, folder):
    index = json.loads((folder / "model_index.json").read_text())
    index["transformer"][0], index["autoencoder"][0] = "latent_diffusion.old_place", "autoencoder.old_place"
    (folder / "model_index.json").write_text(json.dumps(index))
    assert_close(generate(Music2LatentPipeline.from_pretrained(folder)), generate(pipeline), rtol=0, atol=0)


def test_a_folder_from_before_guiders_still_loads(pipeline, folder):
    index = json.loads((folder / "model_index.json").read_text())
    del index["guider"]
    (folder / "model_index.json").write_text(json.dumps(index))
    assert_close(generate(Music2LatentPipeline.from_pretrained(folder)), generate(pipeline), rtol=0, atol=0)


def test_weights_can_be_sharded_and_have_a_variant(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path, variant="fp16", max_shard_size="40KB")
    shards = [path.name for path in (tmp_path / "transformer").glob("*.safetensors")]
    assert len(shards) > 1
    assert all(name.startswith("diffusion_pytorch_model.fp16-") for name in shards)
    loaded = Music2LatentPipeline.from_pretrained(tmp_path, variant="fp16")
    assert_close(generate(loaded), generate(pipeline), rtol=0, atol=0)
    with pytest.raises(OSError, match=r"no file named|does not appear"):
        Music2LatentPipeline.from_pretrained(tmp_path)


@pytest.mark.filterwarnings("ignore:`torch_dtype` is deprecated")
def test_the_older_spelling_of_the_precision_works_too(folder):
    loaded = Music2LatentPipeline.from_pretrained(folder, torch_dtype=torch.bfloat16)
    assert loaded.transformer.dtype == loaded.autoencoder.dtype == torch.bfloat16
    assert generate(loaded).isfinite().all()


@pytest.mark.parametrize("name", ["transformer", "autoencoder"])
def test_a_part_is_saved_and_loaded_alone_sharded_and_in_another_precision(pipeline, tmp_path, name):
    part = pipeline.components[name]
    part.save_pretrained(tmp_path, max_shard_size="40KB", variant="ema")
    loaded = type(part).from_pretrained(tmp_path, variant="ema")
    assert_close(loaded.state_dict(), part.state_dict(), rtol=0, atol=0)
    half = type(part).from_pretrained(tmp_path, variant="ema", dtype=torch.float16)
    assert half.dtype == torch.float16


def test_parts_can_be_shared_with_another_pipeline(pipeline):
    other = Music2LatentPipeline.from_pipe(pipeline)
    assert other.transformer is pipeline.transformer
    assert_close(generate(other), generate(pipeline), rtol=0, atol=0)


def test_saved_files_are_readable_to_everybody(folder):
    weights = list(folder.rglob("*.safetensors"))
    assert len(weights) == 3
    assert {path.stat().st_mode & 0o777 for path in weights} == {0o644}


def test_a_model_card_is_written_with_the_pipeline(folder):
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: diffusers\npipeline_tag: text-to-audio\n")
    for fact in ("44100 Hz, mono", "1.0 s", "`tiny`", "FlowMatchEulerDiscreteScheduler", "LatentDiT", "licence"):
        assert fact in card


def test_a_model_card_of_ones_own_is_kept(pipeline, folder):
    own = (folder / "README.md").read_text().replace(MARK, "")
    (folder / "README.md").write_text(own)
    pipeline.save_pretrained(folder)
    assert (folder / "README.md").read_text() == own


def test_the_model_card_follows_the_pipeline_otherwise(pipeline, folder):
    pipeline.autoencoder.register_to_config(codec_id="renamed")
    pipeline.save_pretrained(folder)
    assert "`renamed`" in (folder / "README.md").read_text()


def test_the_state_of_a_call_is_no_part_of_the_pipeline(pipeline):
    assert set(pipeline.components) == {
        "autoencoder",
        "transformer",
        "text_encoder",
        "tokenizer",
        "scheduler",
        "guider",
        "tempo_prior",
    }
    assert isinstance(pipeline, pipelines.parts.Music2LatentParts)
