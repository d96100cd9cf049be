"""A saved pipeline: what the folder holds, that it gives the same audio, and that damage is noticed."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from diffusers.schedulers import FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file

from pipelines import Music2LatentPipeline
from pipelines.output import Music2LatentPipelineOutput
from tests.conftest import tone

WEIGHTS = "diffusion_pytorch_model.safetensors"


def generate(pipeline: Music2LatentPipeline) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    seeded = torch.Generator().manual_seed(7)
    return pipeline("lofi piano", audio_length_in_s=0.2, num_inference_steps=2, tempo=90.0, generator=seeded).audio


def load_and_generate(folder: Path, result: Path) -> None:
    """Run in a process of its own."""
    np.save(result, generate(Music2LatentPipeline.from_pretrained(folder)))


@pytest.fixture
def folder(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "pipeline")
    return tmp_path / "pipeline"


def drop_weight(path: Path, ending: str) -> str:
    """Remove one tensor from a safetensors file; return its name."""
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith(ending))
    del tensors[name]
    save_file(tensors, path, metadata={"format": "pt"})
    return name


def test_another_process_makes_the_same_audio_bit_for_bit(folder, tmp_path, new_process):
    process = new_process.Process(target=load_and_generate, args=(folder, tmp_path / "audio.npy"))
    process.start()
    process.join()
    here = generate(Music2LatentPipeline.from_pretrained(folder))
    np.testing.assert_array_equal(np.load(tmp_path / "audio.npy"), here)


def test_a_loaded_pipeline_makes_the_same_audio_bit_for_bit(pipeline, folder):
    loaded = Music2LatentPipeline.from_pretrained(folder)
    np.testing.assert_array_equal(generate(loaded), generate(pipeline))


def test_parts_are_saved_under_their_own_modules(folder):
    """Published pipelines depend on these names."""
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "Music2LatentPipeline"
    assert index["autoencoder"] == ["autoencoder.model", "Music2LatentAutoencoder"]
    assert index["transformer"] == ["latent_diffusion.transformer", "LatentDiT"]


def test_all_weights_are_safetensors(folder):
    weights = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.stat().st_size > 50_000}
    assert weights == {f"autoencoder/{WEIGHTS}", f"transformer/{WEIGHTS}", "text_encoder/model.safetensors"}


def test_the_scheduler_is_saved_with_its_settings(pipeline, tmp_path):
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipeline.save_pretrained(tmp_path)
    assert Music2LatentPipeline.from_pretrained(tmp_path).scheduler.config.shift == 3.0


def test_the_codec_keeps_its_id(folder):
    loaded = Music2LatentPipeline.from_pretrained(folder)
    assert loaded.autoencoder.config.codec_id == loaded.transformer.config.codec_id == "tiny"


@pytest.mark.parametrize(("part", "ending"), [("transformer", "proj_out.weight"), ("autoencoder", "bias")])
def test_a_missing_weight_is_an_error_that_names_it(folder, part, ending):
    name = drop_weight(folder / part / WEIGHTS, ending)
    with pytest.raises(ValueError, match=rf"do not fit the architecture .*missing_keys.*{name}"):
        Music2LatentPipeline.from_pretrained(folder)


@pytest.mark.parametrize("part", ["transformer", "autoencoder"])
def test_an_unexpected_weight_is_an_error_that_names_it(folder, part):
    path = folder / part / WEIGHTS
    save_file(load_file(path) | {"stray.weight": torch.zeros(1)}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"unexpected_keys.*stray\.weight"):
        Music2LatentPipeline.from_pretrained(folder)


def test_parts_that_do_not_belong_together_are_noticed_on_loading(folder):
    config = folder / "autoencoder" / "config.json"
    config.write_text(config.read_text().replace('"tiny"', '"other"'))
    with pytest.raises(ValueError, match="trained on latents of the codec tiny, but the autoencoder is other"):
        Music2LatentPipeline.from_pretrained(folder)


def test_a_whole_pipeline_can_be_loaded_in_bfloat16(folder):
    loaded = Music2LatentPipeline.from_pretrained(folder, dtype=torch.bfloat16)
    audio = generate(loaded)
    assert audio.dtype == np.float32
    assert np.isfinite(audio).all()


def test_each_part_can_be_loaded_in_its_own_precision(folder):
    dtypes = {"transformer": torch.bfloat16, "default": torch.float32}
    loaded = Music2LatentPipeline.from_pretrained(folder, dtype=dtypes)
    assert (loaded.transformer.dtype, loaded.autoencoder.dtype) == (torch.bfloat16, torch.float32)
    assert np.isfinite(generate(loaded)).all()


def output(num_pieces: int, channels: int = 1) -> Music2LatentPipelineOutput:
    pieces = [tone(200 * (k + 1), 0.1, channels=channels) for k in range(num_pieces)]
    return Music2LatentPipelineOutput(audio=torch.stack(pieces).numpy(), sample_rate=44_100)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_one_piece_is_written_under_the_name_given(tmp_path, suffix):
    path = tmp_path / "new" / f"piece{suffix}"
    assert output(1).save(path) == [path]
    samples, sample_rate = soundfile.read(path)
    assert sample_rate == 44_100
    np.testing.assert_allclose(samples, output(1).audio[0, 0], atol=2**-15)


def test_ogg_files_can_be_written(tmp_path):
    [path] = output(1).save(str(tmp_path / "piece.ogg"))
    assert soundfile.info(path).frames == 4410


def test_several_pieces_are_numbered(tmp_path):
    paths = output(3).save(tmp_path / "piece.wav")
    assert [path.name for path in paths] == ["piece-0.wav", "piece-1.wav", "piece-2.wav"]
    for path, waveform in zip(paths, output(3).audio, strict=True):
        np.testing.assert_allclose(soundfile.read(path)[0], waveform[0], atol=2**-15)


def test_stereo_is_written_as_stereo(tmp_path):
    [path] = output(1, channels=2).save(tmp_path / "piece.wav")
    assert soundfile.info(path).channels == 2


def test_a_tensor_can_be_written_too(tmp_path):
    [path] = Music2LatentPipelineOutput(audio=torch.zeros(1, 1, 100), sample_rate=44_100).save(tmp_path / "a.wav")
    assert soundfile.info(path).frames == 100
